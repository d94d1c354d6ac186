"""The run behind part IV: resumable, the same however it is spread, and honest about bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from companion.cli import main
from companion.codecs import learned
from companion.lab import reproduce as module
from companion.lab.reproduce import Method, Scale, chosen, items, reproduce, run_item


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Scale:
    """Make the smoke scale smaller still: two pictures, two codecs, two rates each."""

    def methods() -> list[Method]:
        return [
            Method("hyper", "hyper", (0, 1), None, 1.0),
            Method("jpeg", "jpeg", (10, 30), None, 1.0),
        ]

    scale = Scale(4, 128, 2, methods, features="loss")
    monkeypatch.setitem(module.SCALES, "smoke", scale)
    return scale


def test_pictures_come_from_many_photos() -> None:
    real = chosen(module.SCALES["laptop"])
    assert len(real) == 128
    assert len(real.photo.unique()) >= 35


def test_what_was_done_is_kept_and_parts_are_the_whole(tiny: Scale, tmp_path: Path) -> None:
    whole = reproduce("smoke", tmp_path / "one")
    assert whole is not None
    assert (
        reproduce("smoke", tmp_path / "two", (0, 2)) is None
    )  # half of it: nothing to measure yet
    half = {i.name: i.file(tmp_path / "two" / "smoke").exists() for i in items(tiny)}
    assert sum(half.values()) == len(half) // 2
    spread = reproduce("smoke", tmp_path / "two", (1, 2))
    assert spread is not None

    def figures(result: dict) -> str:
        rows = [{k: v for k, v in r.items() if k != "seconds"} for r in result["rows"]]
        return json.dumps([rows, result["deltas"], result["weights"]])

    assert figures(whole) == figures(spread)
    assert json.loads((tmp_path / "one" / "smoke.json").read_text())["features"] == "loss"


def test_a_row_says_what_the_bytes_say(tiny: Scale) -> None:
    x = chosen(tiny).pictures[:2]
    codec = learned("hyper", 1)
    streams = codec.compress(x)
    result = run_item(tiny.methods()[0], 1, x)
    assert result["bytes"].tolist() == [len(s) for s in streams]
    decodes = codec.decompress(streams)
    assert (result["drawn"].float() / 255 - decodes).abs().max() <= 0.51 / 255
    home = result["projected"].float() / 255
    assert [a == b for a, b in zip(codec.compress(home), streams, strict=True)] == result[
        "projected exact"
    ].tolist()
    assert torch.equal(result["symbols wrong"] == 0, result["exact"])
    assert not result["exact"].all()
    perfect = Method("original", "hyper", (1,), lambda rate, streams: x, 1.0)
    assert run_item(perfect, 1, x)["exact"].all()  # control: the originals lie in their own cells


def test_the_command_line_plans_works_and_says_where_it_is(
    tiny: Scale, tmp_path: Path, capsys
) -> None:
    arguments = ["reproduce", "--out", str(tmp_path)]
    assert main([*arguments, "--plan"]) == 0
    assert "8 of 8 items left" in capsys.readouterr().out
    assert main([*arguments, "--part", "0/2"]) == 0
    assert "This part is done" in capsys.readouterr().out
    assert main([*arguments, "--part", "1"]) == 2
    assert "A part is k/n" in capsys.readouterr().err
