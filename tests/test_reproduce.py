"""The run behind part IV: resumable, the same however it is spread, and honest about bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from companion import zoo
from companion.cell import to_8bit
from companion.cli import main
from companion.codecs import learned
from companion.decode import default_seed
from companion.errors import CompanionError
from companion.lab import ablations, bench_conditional, bench_inversion, full, scales, trials
from companion.lab import measure as measure_module
from companion.lab import reproduce as module
from companion.lab import work as work_module
from companion.lab.graphics import graphics
from companion.lab.jobs import chain, jobs, round_trip
from companion.lab.methods import Method, gaussian_draws
from companion.lab.reproduce import reproduce
from companion.lab.rows import fewest, rows, seen_twice
from companion.lab.scales import SCALES, Scale, material, photos, spread_order
from companion.lab.tables import (
    ablation_differences,
    deltas,
    differences,
    in_cells,
    own_bytes,
    share_interval,
)
from companion.lab.trials import ZETA
from companion.lab.work import first_of, undone
from companion.metrics import mean, network, stored
from companion.metrics.realism import STANDARD
from companion.photos import crops


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Scale:
    """Make the smoke scale smaller still."""

    def methods() -> list[Method]:
        return [
            Method("hyper", "hyper", (0, 1), None, 1.0),
            Method("jpeg", "jpeg", (10, 30), None, 1.0),
            gaussian_draws((1,), steps=1),
            Method("absent", "hyper", (1,), None, 1.0, needs=("no-such-model",)),
        ]

    scale = Scale(
        *("smoke", "val", 4, 64, 2, methods, lambda: [ablations.mse_decode()]),
        crops=4,
        draws=2,
        chains=2,
        generations=2,
        graphics=3,
        features="loss",
    )
    monkeypatch.setitem(scales.SCALES, "smoke", scale)
    return scale


@pytest.fixture(scope="module")
def x() -> Tensor:
    return crops("val", 2, size=64, seed=0).pictures


def test_every_beginning_of_the_order_is_spread() -> None:
    assert sorted(spread_order(12)) == list(range(12))
    assert sorted(spread_order(128)[:64]) == list(range(0, 128, 2))
    assert sorted(spread_order(128)[:32]) == list(range(0, 128, 4))


def test_pictures_come_from_many_photos_also_where_there_are_few() -> None:
    real = photos(SCALES["laptop"])
    assert len(real) == 128
    assert len(real.photo.unique()) >= 35
    assert len(real.photo[: scales.FIXED].unique()) >= 25
    assert {p.domain for p in real.photos} >= {"animals", "buildings", "nature", "people"}


def test_smoke_does_not_look_at_the_test_photos() -> None:
    assert SCALES["smoke"].split == "val"


def test_what_was_done_is_kept_and_parts_are_the_whole(tiny: Scale, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    whole = reproduce("smoke", one)
    assert whole is not None
    assert reproduce("smoke", two, (0, 2)) is None
    made = first_of(rows(tiny, two))
    assert len(undone(made, two / "smoke")) == len(made) // 2
    spread = reproduce("smoke", two, (1, 2))  # who makes the last decode of a row measures it
    assert spread is not None
    before = {p: p.stat().st_mtime_ns for p in (two / "smoke").iterdir()}
    assert reproduce("smoke", two) == spread
    assert {p: p.stat().st_mtime_ns for p in (two / "smoke").iterdir()} == before
    # What is measured needs its decodes no more: rows alone can go on elsewhere.
    needed = list({need.name: need for row in rows(tiny, two) for need in row.needs}.values())
    for item in needed:
        item.file(two / "smoke").unlink()
    assert reproduce("smoke", two) == spread
    assert undone(needed, two / "smoke") == needed

    timed = ("encode_seconds", "decode_seconds", "hours_of_decoding")

    def untimed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k not in timed}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    def figures(result: dict) -> str:
        kept = {k: v for k, v in result.items() if k not in ("complexity", "ablations", "date")}
        return json.dumps(untimed(kept))

    assert figures(whole) == figures(spread)
    check_content(whole)


def check_content(result: dict[str, Any]) -> None:
    """Look at what one run holds, once."""
    assert result["absent"] == {"absent-on-hyper": ["no-such-model"]}
    assert result["claims"] == []  # val decides nothing
    assert {r["method"] for r in result["rows"]} == {"hyper", "jpeg", "ours-gaussian"}
    assert "without" not in json.dumps(result)
    hyper = next(r for r in result["rows"] if (r["method"], r["rate"]) == ("hyper", 1))
    assert hyper["projected_exact"] == 1
    assert 0 < hyper["symbols_wrong"]["value"] < 0.5
    assert len(hyper["fixed"]["bytes"]) == len(set(hyper["fixed"]["digest"])) == 4
    assert sum(d["pictures"] for d in hyper["domains"].values()) == 4
    ours = next(r for r in result["posterior"] if r["method"] == "ours-gaussian")
    assert ours["projected"]["exact"] == 1
    assert ours["drawn"]["exchangeability"]["value"] > 0.1
    mse = next(r for r in result["posterior"] if r["method"] == "hyper")
    assert mse["drawn"]["exchangeability"]["value"] == 0
    assert mse["drawn"]["mse_ratio"]["measured"]["value"] == pytest.approx(1, abs=0.05)
    (dial,) = result["dial"]
    assert [p["dial"] for p in dial["points"]] == [0, 0.25, 0.5, 0.75, 1]
    assert dial["points"][0]["psnr"]["value"] == hyper["drawn"]["psnr"]["value"]
    assert {r["method"] for r in result["generations"]} == {"hyper", "jpeg", "ours-gaussian"}
    assert {r["method"] for r in result["against_mse"]} == {"ours-gaussian"}
    assert result["own_bytes"] == []  # no codec here was trained end to end
    moved = next(r for r in result["projection"] if (r["method"], r["rate"]) == ("hyper", 1))
    gap = hyper["projected"]["psnr"]["value"] - hyper["drawn"]["psnr"]["value"]
    assert moved["psnr"]["value"] == pytest.approx(gap, abs=1e-4)


def test_a_codec_of_its_own_bytes_is_compared_at_like_rates() -> None:
    some = stored(mean("PSNR", torch.tensor([20.0, 22.0, 27.0]), [0, 1, 2], resampling=None))
    more = stored(mean("PSNR", torch.tensor([21.0, 24.0, 28.0]), [0, 1, 2], resampling=None))
    rows = [
        {"method": m, "codec": c, "rate": r, "bpp": b, "drawn": {"psnr": p}}
        for m, c, r, b, p in (
            ("hyper", "hyper", 0, 0.1, some),
            ("hyper", "hyper", 1, 0.2, some),
            ("elic", "elic", 1, 0.2, some),
            ("hific", "hyper", 1, 0.2, some),  # of its kind, and on a fixed encoder
            ("hific-end-to-end", "hific", 1, 0.21, more),
        )
    ]
    row, beside = own_bytes(rows)
    assert beside["minus"] == "hific"
    assert (row["minus"], row["bpp"], row["its_bpp"]) == ("hyper", 0.21, 0.2)
    assert row["psnr"]["value"] == pytest.approx(4 / 3)


def test_other_weights_or_settings_have_other_files(
    tiny: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [j.name for j in jobs(tiny)]
    assert len(set(names)) == len(names)
    own = zoo.card
    monkeypatch.setattr(
        zoo, "card", lambda n: {**own(n), "sha256": "0" * 64} if n == "hyper-1" else own(n)
    )
    changed = [a != b for a, b in zip(names, [j.name for j in jobs(tiny)], strict=True)]
    assert changed == [j.method.codec == "hyper" and j.rate == 1 for j in jobs(tiny)]
    a, b = gaussian_draws((1,), steps=1), gaussian_draws((1,), steps=2)
    assert a.mark(1) != b.mark(1)


def test_a_row_says_what_the_bytes_say(x: Tensor) -> None:
    codec = learned("hyper", 1)
    streams = codec.compress(x)
    result = round_trip(Method("hyper", "hyper", (1,), None, 1.0), 1, x)
    assert result["bytes"].tolist() == [len(s) for s in streams]
    assert result["digest"].tolist() == [default_seed(s) for s in streams]
    decodes = codec.decompress(streams)
    assert (result["drawn"].float() / 255 - decodes).abs().max() <= 0.51 / 255
    home = result["projected"].float() / 255
    assert [a == b for a, b in zip(codec.compress(home), streams, strict=True)] == result[
        "projected exact"
    ].tolist()
    again = codec.compress(to_8bit(decodes))
    assert result["exact"].tolist() == [a == b for a, b in zip(again, streams, strict=True)]
    assert not result["exact"].all()
    assert (result["change"] < 60).all()
    perfect = Method("original", "hyper", (1,), lambda rate, streams, seeds: x, 1.0)
    control = round_trip(perfect, 1, x)
    assert control["exact"].all()  # control: the originals lie in their own cells
    assert (control["change"] == 99).all()
    assert round_trip(perfect, 1, x, twice=False)["change"].isnan().all()  # not seen is not known


def test_what_a_decoder_drew_is_kept_beside_what_it_brought_in(x: Tensor) -> None:
    codec = learned("hyper", 1)
    cells = codec.cells(codec.compress(x))
    outside = to_8bit(codec.decompress(codec.compress(x)))

    def brings_in(
        rate: int, streams: list[bytes], seeds: list[int] | None
    ) -> tuple[Tensor, Tensor]:
        return cells.project(outside)[0], outside

    result = round_trip(Method("ours", "hyper", (1,), brings_in, 1.0, exact=True), 1, x)
    assert result["exact"].all()
    assert torch.equal(result["drawn"], result["projected"])
    assert torch.equal(result["raw"].float() / 255, outside)
    assert (result["raw wrong"] > 0).all()
    once = round_trip(Method("hyper", "hyper", (1,), None, 1.0), 1, x, twice=False)
    assert "raw" not in once
    assert once["change"].isnan().all()  # not decoded a second time, and not said to be
    assert seen_twice(torch.tensor([30.0, torch.nan, 20.0, 10.0]), [0, 0, 1, 2])["value"] == 20


def test_what_an_exact_method_misses_is_decoded_again(x: Tensor) -> None:
    """Else its mean would be over those that are exact, whose change is nothing."""
    calls = []

    def blurred(rate: int, streams: list[bytes], seeds: list[int] | None) -> Tensor:
        calls.append(len(streams))
        return torch.full_like(x[: len(streams)], 0.5)

    result = round_trip(Method("ours", "hyper", (1,), blurred, 1.0, exact=True), 1, x, twice=False)
    assert calls == [len(x), int((~result["exact"]).sum())]
    assert result["change"].isfinite().all()


def test_curves_are_compared_on_the_same_pictures() -> None:
    laptop = SCALES["laptop"]
    assert fewest(laptop, "hyper") == 64  # DPS, at two rates of five
    assert fewest(laptop, "elic") is None  # all have all pictures


def test_no_test_picture_is_seen_before_all_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = tmp_path / "search.json"
    monkeypatch.setattr(bench_inversion, "stages", lambda: [(trials.PHOTOS, search)])
    done: list[str] = []
    monkeypatch.setattr(module, "results_of", lambda items, *_: done.extend(i.name for i in items))
    with pytest.raises(CompanionError, match="search is not finished: run `companion bench inv"):
        module.reproduce("laptop", tmp_path)
    assert any("-hyper-on-hyper-" in name for name in done)  # what does not depend on it goes on
    assert not any("dps-100" in name for name in done)

    def found(best: float) -> None:
        rows = [
            {"sampler": t.sampler, "steps": t.steps, "options": t.options}
            | {"projected": {"kid_p": {"value": abs(t.options["zeta"] - best)}}}
            for t in trials.PHOTOS.trials
        ]
        search.write_text(json.dumps({"weights": {}, "rows": rows}))

    inner = trials.PHOTOS.trials[1].options["zeta"]
    heedless, heeded = (
        replace(trials.PHOTOS, chosen=(("dps", 100, "zeta", z),)) for z in (inner / 7, inner)
    )
    found(best=inner)
    monkeypatch.setattr(bench_inversion, "stages", lambda: [(heedless, search)])
    with pytest.raises(CompanionError, match=rf"best zeta .* is {inner}, and"):
        module.reproduce("laptop", tmp_path)
    monkeypatch.setattr(bench_inversion, "stages", lambda: [(heeded, search)])
    assert "dps-100-on-hyper" not in module.unsettled()
    monkeypatch.setattr(bench_conditional, "RESULT", tmp_path / "none.json")
    assert "bench conditional` first" in module.unsettled()["diffusion-on-hyper"]


def test_what_is_slow_comes_in_small_items_and_only_its_first_are_decoded_twice() -> None:
    slow = [j for j in jobs(SCALES["laptop"]) if j.method.name == "dps-100" and j.of == "photos"]
    assert {j.stop - j.start for j in slow} == {2}
    assert {j.twice for j in slow if j.start < 16} == {True}
    assert {j.twice for j in slow if j.start >= 16} == {False}
    by_method = {j.method.name: j for j in jobs(SCALES["laptop"]) if j.of == "chains"}
    assert by_method["webp"].rate == 30  # the middle quality, as for the other formats
    assert by_method["hyper"].rate == scales.RATE


def test_every_generation_has_a_new_seed_and_the_first_stream_is_what_counts(x: Tensor) -> None:
    asked: list[list[int] | None] = []

    def original(rate: int, streams: list[bytes], seeds: list[int] | None) -> Tensor:
        asked.append(seeds)
        return x

    stays = chain(Method("original", "hyper", (1,), original, 1.0, random=True), 1, x, 3)
    assert len({k for s in asked for k in s or []}) == 3 * len(x)
    chain(Method("original", "hyper", (1,), original, 1.0, random=True), 1, x, 1, first_seed=2)
    assert not {*(asked[-1] or [])} & {*(asked[0] or [])}  # the next part of the crops
    assert (stays["wrong"] == 0).all()
    assert stays["drift"].min() == 99
    moves = chain(Method("hyper", "hyper", (1,), None, 1.0), 1, x, 3)
    assert moves["wrong"].shape == (2, 3)
    assert (moves["wrong"] > 0).all()  # control: the MSE decode leaves its cell
    classical = chain(Method("jpeg", "jpeg", (50,), None, 1.0), 50, x, 1)
    assert set(classical["wrong"].flatten().tolist()) <= {0.0, 1.0}


def test_graphics_are_pictures_of_their_own() -> None:
    made = graphics(3, 128)
    assert made.shape == (3, 3, 128, 128)
    assert torch.equal(made, to_8bit(made))
    assert torch.equal(made, graphics(3, 128))
    assert made.flatten(1).std(1).min() > 0.03
    assert not torch.equal(made, graphics(3, 128, seed=1))


def test_soft_rounding_lies_between_none_and_rounding() -> None:
    y = torch.tensor([-1.3, -0.5, 0.0, 0.2, 0.5, 0.9, 2.0])
    torch.testing.assert_close(ablations.soft_round(y, 1e-3), y, atol=1e-4, rtol=0)
    sharp = ablations.soft_round(y, 500.0)
    apart = (y - y.floor() - 0.5).abs() > 1e-3
    torch.testing.assert_close(sharp[apart], torch.round(y[apart]))
    z = torch.linspace(-2, 2, 401)
    assert (ablations.soft_round(z).diff() > 0).all()


def test_the_usual_surrogate_is_the_usual_residual(x: Tensor) -> None:
    codec = learned("hyper", 1)
    cells = codec.cells(codec.compress(x))
    other = (0.9 * x + 0.05).requires_grad_(True)
    residuals = {
        name: ablations.Surrogate.of(cells, rounding).residual(other)
        for name, rounding in ablations.SURROGATES.items()
    }
    usual = cells.residual(other)
    torch.testing.assert_close(residuals["straight-through"], usual)
    assert not torch.allclose(residuals["soft"], usual, atol=1e-3)
    assert not torch.allclose(residuals["none"], residuals["soft"], atol=1e-3)
    some = ablations.Surrogate.of(cells, ablations.SURROGATES["none"])[slice(1, 2)]
    torch.testing.assert_close(some.residual(other[1:]), residuals["none"][1:])


def kept(value: float, shift: float = 0.0) -> dict[str, Any]:
    """Return a stored score of four photos."""
    without = [value - 0.01, value + 0.01 + shift, value, value]
    ids = [0, 1, 2, 3]
    return {"name": "FID-P", "value": value, "n": 4, "ids": ids, "without": without}


def test_differences_are_on_the_same_pictures() -> None:
    def row(method: str, pictures: int, fid: float, few: float | None) -> dict[str, Any]:
        found = {"method": method, "codec": "hyper", "rate": 1, "pictures": pictures}
        found["drawn"] = {"fid_p": kept(fid)}
        return found if few is None else {**found, "few": {"fid_p": kept(few)}}

    made = [row("ours-fast", 128, 10, 12), row("dps-100", 64, 11, None), row("illm", 128, 13, 14)]
    assert [d["method"] for d in differences(made)] == ["illm"]  # dps has no `few`: no pairing
    made[1]["few"] = made[1]["drawn"]
    found = {d["method"]: d["fid_p"]["value"] for d in differences(made)}
    assert found == pytest.approx({"dps-100": -1, "illm": 3})
    for other, fid in zip(made[1:], (10.5, 9), strict=True):
        other |= {"projected": {"fid_p": kept(fid)}, "few_pictures": 64}
    found = {d["method"]: d["fid_p"]["value"] for d in in_cells(made)}
    assert found == pytest.approx({"dps-100": -1.5, "illm": -1})  # its own 64, and all 128


def test_surrogates_are_compared_with_the_usual_one() -> None:
    usual = f"zeta: {ZETA[50]:g}"
    names = ("zeta: 0.6", usual, "rounding: soft", "domain: picture", "domain: cell")
    figures = {"fid_p": kept(1.0)}
    made = [{"method": f"ablation {n}", "drawn": figures, "projected": figures} for n in names]
    found = {d["method"]: d["minus"] for d in ablation_differences(made)}
    assert found == {
        f"ablation {usual}": "ablation zeta: 0.6",
        "ablation rounding: soft": f"ablation {usual}",
        "ablation domain: cell": "ablation domain: picture",
    }


def test_curves_without_a_common_rate_have_no_delta() -> None:
    def row(method: str, bpp: float) -> dict[str, Any]:
        figures = {"psnr": {"value": 30 + bpp}, "fid_p": {"value": 30 - bpp}}
        told = {"method": method, "codec": method, "rate": bpp, "pictures": 4}
        return told | {"bits": {"value": bpp}, "drawn": figures}

    made = [row("hyper", b) for b in (0.1, 0.2, 0.3, 0.4)]
    near = deltas([*made, *(row("elic", b) for b in (0.1, 0.2, 0.3, 0.4))])
    assert near[0]["bd_psnr"]["value"] == pytest.approx(0, abs=1e-9)
    assert near[0]["bd_rate"]["value"] == pytest.approx(0, abs=1e-9)
    assert "interval" not in near[0]["bd_psnr"]  # no photos were told
    (far,) = deltas([*made, *(row("jpeg", b) for b in (1.0, 1.2, 1.3, 1.4))])
    assert far["bd_psnr"]["value"] is None
    assert "no rates in common" in far["bd_psnr"]["caveat"]


def test_a_delta_varies_with_the_photos() -> None:
    def row(method: str, bpp: float, gain: list[float]) -> dict[str, Any]:
        values = torch.tensor([30 + 10 * bpp + g for g in gain])
        figures = {name: stored(mean("PSNR", values, [0, 1, 2])) for name in ("psnr", "fid_p")}
        bits = stored(mean("Bits per pixel", torch.tensor([bpp] * 3), [0, 1, 2]))
        told = {"method": method, "codec": method, "rate": bpp, "bits": bits, "pictures": 3}
        return {**told, "drawn": figures}

    rates = (0.1, 0.2, 0.3, 0.4)
    gain = [1.0, 2.0, 3.0]
    made = [row("hyper", b, [0.0, 0.0, 0.0]) for b in rates] + [row("elic", b, gain) for b in rates]
    (found,) = deltas(made)
    expected = mean("gain", torch.tensor(gain), [0, 1, 2])
    assert found["bd_psnr"]["value"] == pytest.approx(2.0)
    assert found["bd_psnr"]["interval"] == pytest.approx(expected.interval)


def test_a_delta_that_hangs_on_one_photo_has_no_interval() -> None:
    """Its rate at equal quality is defined with all photos, and not without the last."""

    def row(method: str, bpp: float, values: list[float]) -> dict[str, Any]:
        score = stored(mean("PSNR", torch.tensor(values), [0, 1, 2]))
        bits = stored(mean("Bits per pixel", torch.tensor([bpp] * 3), [0, 1, 2]))
        figures = {"psnr": score, "fid_p": score}
        told = {"method": method, "codec": method, "rate": bpp, "bits": bits, "pictures": 3}
        return {**told, "drawn": figures}

    rates = (0.1, 0.2, 0.3, 0.4)
    curve = ([31.0, 31.0, 31.0], [30.9, 30.9, 34.0], [33.0, 33.0, 34.0], [34.0, 34.0, 35.0])
    made = [row("hyper", b, [30 + 10 * b] * 3) for b in rates]
    made += [row("elic", b, values) for b, values in zip(rates, curve, strict=True)]
    (found,) = deltas(made)
    assert found["bd_rate"]["value"] is not None
    assert "interval" not in found["bd_rate"]
    assert "interval" in found["bd_psnr"]


def test_bits_that_vary_with_the_photos_widen_a_delta_between_codecs_alone() -> None:
    def row(method: str, codec: str, rate: float, factor: list[float]) -> dict[str, Any]:
        photos, ids = torch.tensor(factor), [0, 1, 2]
        score = stored(mean("PSNR", 30 + 10 * rate + torch.tensor([0.0, 0.1, 0.2]), ids))
        bits = stored(mean("Bits per pixel", rate * photos, ids))
        told = {"method": method, "codec": codec, "rate": rate, "pictures": 3}
        return {**told, "bits": bits, "drawn": {"psnr": score, "fid_p": score}}

    rates = (0.1, 0.2, 0.3, 0.4)
    made = [row("hyper", "hyper", b, [0.5, 1.0, 1.5]) for b in rates]
    made += [row("ours-fast", "hyper", b, [0.5, 1.0, 1.5]) for b in rates]
    made += [row("jpeg", "jpeg", b, [1.5, 1.0, 0.5]) for b in rates]
    same, other = deltas(made)
    assert same["bd_psnr"]["interval"] == pytest.approx((0, 0), abs=1e-9)
    assert other["bd_psnr"]["interval"][1] > 1


def test_the_interval_of_a_share_stays_within_and_is_never_certain() -> None:
    for share in (0.0, 0.5, 1.0):
        low, high = share_interval(share, 40)
        assert 0 <= low <= share <= high <= 1
        assert high - low > 0.05
    assert share_interval(1.0, 400)[0] > share_interval(1.0, 40)[0]


def test_curves_are_of_the_same_pictures() -> None:
    def row(method: str, bpp: float, pictures: int, **more: Any) -> dict[str, Any]:
        figures = {"psnr": {"value": 30 + bpp}, "fid_p": {"value": 30 - bpp}}
        told = {"method": method, "codec": "hyper", "rate": bpp, "pictures": pictures}
        return told | {"drawn": figures} | more

    some = {"psnr": {"value": 20.0}, "fid_p": {"value": 50.0}}
    rates = (0.1, 0.2, 0.3, 0.4)
    bits = [{"value": b} for b in rates]
    made = [row("hyper", b["value"], 8, few=some, bits={}, few_bits=b) for b in bits]
    made += [row("ours-best", b["value"], 4, bits=b) for b in bits]
    (slow,) = deltas(made)
    assert slow["bd_fid_p"]["value"] == pytest.approx(
        30 - 50 - 0.22, abs=0.1
    )  # against the four, not the eight


def test_the_command_line_plans_works_and_says_where_it_is(
    tiny: Scale, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["reproduce", "--out", str(tmp_path)]
    assert main([*arguments, "--plan"]) == 0
    told = capsys.readouterr().out
    assert "items left, about" in told
    assert "absent-on-hyper: no-such-model" in told
    assert main([*arguments, "--part", "1"]) == 2
    assert "A part is k/n" in capsys.readouterr().err
    asked: list[str] = []
    monkeypatch.setattr(work_module, "spread", lambda command, n: asked.append(f"{n} processes"))
    monkeypatch.setattr(module, "reproduce", lambda *a: asked.append(f"part {a[2]}") or {})
    assert main([*arguments, "--processes", "2"]) == 0
    assert asked == ["2 processes", "part (0, 1)"]


@pytest.mark.slow
def test_smoke_runs_in_two_processes(tmp_path: Path) -> None:
    assert main(["reproduce", "--scale", "smoke", "--processes", "2", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "smoke.json").read_text())
    assert {r["codec"] for r in result["rows"]} == {"hyper", "elic", "jpeg"}
    assert all(r["projected_exact"] == 1 for r in result["rows"] if r["codec"] != "jpeg")
    assert {d["method"] for d in result["deltas"]} == {"elic", "jpeg"}
    kinds = {a["method"].split(":")[0] for a in result["ablations"]}
    assert kinds == {f"ablation {k}" for k in ("none", "prior", "domain", "rounding")}


def test_the_full_scale_lists_its_items_and_what_it_misses(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPANION_STANDARD", str(tmp_path))
    assert main(["reproduce", "--scale", "full", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "ffhq-ours-fast-on-elic-0" in told
    assert all(name in told for name in full.FILES)
    (tmp_path / "inception.safetensors").write_bytes(b"")
    assert "inception.safetensors" not in full.missing()
    with pytest.raises(CompanionError, match="cannot be run"):
        full.items()[0].run()


def test_the_standard_features_are_asked_for_before_any_work(
    tiny: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("COMPANION_STANDARD", str(tmp_path))
    out = tmp_path / "out"
    assert main(["reproduce", "--features", "inception", "--out", str(out)]) == 2
    assert "pt_inception-2015-12-05" in capsys.readouterr().err
    assert not out.exists()
    loss, judge = (scales.scale_of("smoke", f) for f in ("loss", "judge"))
    assert [j.name for j in jobs(loss)] == [j.name for j in jobs(judge)]  # no decode is made again
    measured = [{i.name for i in rows(s, out) if i.needs} for s in (loss, judge)]
    assert not measured[0] & measured[1]


def test_figures_by_the_standard_networks_bear_the_standard_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Standard:
        name = STANDARD

        def __call__(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    monkeypatch.setattr(measure_module, "extractor", lambda name: Standard())
    monkeypatch.setattr(measure_module, "perceiver", lambda name: network("loss"))
    more = crops("val", 6, size=64, seed=1).pictures
    found = measure_module.measure(more, more.flip(3), list(range(6)), "inception")
    assert found["fid_p"]["name"] == "FID"
    assert found["lpips_p"]["name"] == "LPIPS"
    monkeypatch.undo()
    own = measure_module.measure(more, more.flip(3), list(range(6)), "loss")
    assert (own["fid_p"]["name"], own["lpips_p"]["name"]) == ("FID-P", "LPIPS-P")


def test_there_is_no_other_material(tiny: Scale) -> None:
    assert len(material(tiny, "graphics")[0]) == 3
    with pytest.raises(CompanionError, match="no material 'films'"):
        material(tiny, "films")
    with pytest.raises(CompanionError, match="no scale 'full' to run"):
        reproduce("full", Path("nowhere"))
