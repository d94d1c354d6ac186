"""The metrics against maintained implementations, closed forms, and what their words promise."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from companion.errors import CompanionError, PictureError, WeightsError
from companion.metrics import (
    Features,
    Patches,
    Score,
    compare_deviations,
    deviations,
    difference,
    embed,
    exchangeability,
    fid,
    fid256_patches,
    kid,
    laplacian_pyramid,
    lpips,
    mean,
    ms_ssim,
    mse,
    network,
    patches,
    pooled_psnr,
    psnr,
    rank_test,
    ranks,
    sliced_wasserstein,
)
from companion.metrics.networks import NETWORKS, FeatureNetwork
from companion.metrics.patches import handfuls
from companion.metrics.realism import STANDARD, frechet, moments
from companion.metrics.resampling import bootstrap, interval, jackknife
from companion.metrics.wasserstein import distance, enlarge, merge
from companion.sources import Gaussian, Posterior, UniformQuantiser, centroid_decoder


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def pictures(n: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Return discs on discs: edges, flat parts, and some grain."""
    g = generator(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    out = torch.rand(n, 3, 1, 1, generator=g).expand(n, 3, side, side).clone()
    for _ in range(25):
        a, b, r = (torch.rand(n, 1, 1, generator=g) for _ in range(3))
        disc = (y - a * side) ** 2 + (x - b * side) ** 2 < (side * (0.05 + 0.25 * r**2)) ** 2
        out = torch.where(disc[:, None], torch.rand(n, 3, 1, 1, generator=g), out)
    grain = torch.rand(n, 1, 1, 1, generator=g) * torch.randn(n, 1, side, side, generator=g)
    return (0.1 + 0.8 * out + 0.05 * grain).clamp(0, 1)


def noisy(x: torch.Tensor, sigma: float, seed: int = 9) -> torch.Tensor:
    return (x + sigma * torch.randn(x.shape, generator=generator(seed))).clamp(0, 1)


def clustered(photos: int, each: int, d: int, seed: int) -> tuple[torch.Tensor, list[int]]:
    """Return points whose photo explains half of their variance."""
    common = normal(photos, d, seed=seed).repeat_interleave(each, 0)
    owners = [k for k in range(photos) for _ in range(each)]
    return common + normal(photos * each, d, seed=seed + 5000), owners


# ---- fidelity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.5, 0.1, 1 / 255])
def test_psnr_of_a_constant_error_is_known(offset):
    x = torch.full((2, 3, 8, 8), 0.3)
    assert torch.allclose(psnr(x, x + offset), torch.tensor(-20 * math.log10(offset)).double())


def test_psnr_agrees_with_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x = pictures(3)
    y = noisy(x, 0.1)
    y[1] = noisy(x, 0.01)[1]
    expected = [peak_signal_noise_ratio(y[k], x[k], data_range=1.0).item() for k in range(3)]
    assert psnr(x, y).tolist() == pytest.approx(expected, abs=1e-4)
    pooled = peak_signal_noise_ratio(y, x, data_range=1.0).item()
    assert pooled_psnr(x, y).value == pytest.approx(pooled, abs=1e-4)
    assert pooled < np.mean(expected) - 1  # they are different statements


def test_equal_pictures_have_infinite_psnr():
    x = pictures(2)
    assert psnr(x, x).tolist() == [math.inf, math.inf]
    assert pooled_psnr(x, x).value == math.inf


@pytest.mark.parametrize("size", [(176, 176), (192, 240)])
def test_ms_ssim_agrees_with_torchmetrics(size):
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as reference,
    )

    x = pictures(3, 240)[..., : size[0], : size[1]]
    y = noisy(x, 0.15)
    y[2] = torch.nn.functional.avg_pool2d(x[2], 5, 1, 2)
    expected = reference(y, x, data_range=1.0, reduction=None)
    assert torch.allclose(ms_ssim(x, y), expected, atol=2e-3)
    assert torch.allclose(ms_ssim(x, y)[1:2], ms_ssim(x[1:2], y[1:2]), atol=1e-6)
    assert torch.allclose(ms_ssim(x, x), torch.ones(3))


def test_ms_ssim_says_from_what_size_it_works():
    x = pictures(1, 200)[..., :175]
    with pytest.raises(PictureError, match="176 pixels, and these pictures have 175"):
        ms_ssim(x, x)


def test_ms_ssim_warns_nobody():
    code = "import torch, companion.metrics as m; x = torch.rand(1, 3, 176, 176); print(m.ms_ssim(x, x))"
    command = [sys.executable, "-W", "default::FutureWarning", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tensor([1.])" in run.stdout
    assert "FutureWarning" not in run.stderr


@pytest.mark.parametrize("measure", [psnr, mse, ms_ssim])
def test_pictures_are_compared_as_they_are_seen(measure):
    x = pictures(1, 176)
    with pytest.raises(PictureError, match="clamp"):
        measure(x, x + 1.0)
    with pytest.raises(PictureError, match="same size"):
        measure(x, x[..., 1:])


@pytest.fixture(scope="module")
def alexnet_weights() -> dict[str, torch.Tensor]:
    """Return random AlexNet weights with the true linear ones, as the converter writes them."""
    from torchvision.models import alexnet

    from companion.lab.standard import linear_weights

    torch.manual_seed(0)
    net = alexnet(weights=None).features
    return {f"features.{k}": v for k, v in net.state_dict().items()} | linear_weights()


@pytest.mark.parametrize("weighted", [True, False])
def test_lpips_is_the_formula_of_its_package(alexnet_weights, weighted):
    import lpips as package

    from companion.metrics.standard import AlexNet

    ours = AlexNet(alexnet_weights)
    theirs = package.LPIPS(net="alex", pnet_rand=True, lpips=weighted, verbose=False)
    state = {k.removeprefix("features."): v for k, v in alexnet_weights.items()}
    for part in [theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4]:
        part.load_state_dict({k: state[k] for k in part.state_dict()})
    theirs.net.slice5.load_state_dict({k: state[k] for k in theirs.net.slice5.state_dict()})
    if not weighted:
        ours.linear = [torch.ones(len(w)) for w in ours.linear]
    x = pictures(3)
    y = noisy(x, 0.2)
    expected = theirs(x, y, normalize=True).flatten()
    assert torch.allclose(lpips(x, y, ours), expected, rtol=1e-3, atol=1e-6)
    assert (expected > 1e-3).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_lpips_p_is_a_differentiable_dissimilarity(name):
    net = untrained(name)
    x = pictures(3)
    y = noisy(x, 0.1).requires_grad_(True)
    d = lpips(x, y, net)
    assert torch.allclose(d, lpips(y, x, net))
    assert (d > 0).all()
    assert torch.equal(lpips(x, x, net), torch.zeros(3))
    (gradient,) = torch.autograd.grad(d.sum(), y)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


# ---- FID -----------------------------------------------------------------------------------------


def covariances(d: int, seed: int) -> tuple[torch.Tensor, ...]:
    a, b = normal(d, d + 3, seed=seed), normal(d, d + 3, seed=seed + 1)
    return normal(d, seed=seed + 2), a @ a.mT / d, normal(d, seed=seed + 3), b @ b.mT / d


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("d", [1, 5, 64])
def test_frechet_agrees_with_scipy_and_torchmetrics(d, seed):
    from torchmetrics.image.fid import _compute_fid

    mean_1, cov_1, mean_2, cov_2 = covariances(d, seed)
    value = frechet(mean_1, cov_1, mean_2, cov_2)
    root = linalg.sqrtm((cov_1 @ cov_2).numpy()).real
    expected = (mean_1 - mean_2).square().sum() + (cov_1 + cov_2).trace() - 2 * np.trace(root)
    assert value == pytest.approx(float(expected), rel=1e-9)
    assert value == pytest.approx(float(_compute_fid(mean_1, cov_1, mean_2, cov_2)), rel=1e-9)


@pytest.mark.parametrize("rank", [0, 1, 7, 20])
def test_frechet_of_singular_covariances(rank):
    # Covariances that commute have (Σ₁Σ₂)^½ = Σ₁^½ Σ₂^½: ‖√λ₁ - √λ₂‖² in closed form.
    basis = torch.linalg.qr(normal(20, 20, seed=3))[0]
    a, b = normal(20, seed=4).square(), normal(20, seed=5).square()
    a[rank:], b[: 20 - rank] = 0, 0
    zero = torch.zeros(20)
    value = frechet(zero, basis @ a.diag() @ basis.mT, zero, basis @ b.diag() @ basis.mT)
    assert value == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n", [3, 20, 41])
def test_fid_of_few_samples_needs_no_full_covariance(n):
    # Without any covariance: with X = USVᵀ centred, tr (Σ₁Σ₂)^½ is the nuclear norm of S₁V₁ᵀV₂S₂.
    x, y = normal(n, 40, seed=1), normal(n, 40, seed=2) * 1.3 + 0.2
    a, b = ((z - z.mean(0)) / math.sqrt(n - 1) for z in (x, y))
    (_, s1, v1), (_, s2, v2) = (torch.linalg.svd(z, full_matrices=False) for z in (a, b))
    overlap = torch.linalg.svdvals(s1[:, None] * (v1 @ v2.mT) * s2).sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    expected = apart + a.square().sum() + b.square().sum() - 2 * overlap
    assert fid(Features(x), Features(y)).value == pytest.approx(float(expected), rel=1e-9)
    assert fid(Features(x), Features(x)).value == pytest.approx(0, abs=1e-9)


def test_fid_does_not_see_rotations_and_scales_as_a_square():
    x, y = normal(300, 8, seed=1), normal(200, 8, seed=2) * torch.linspace(0.5, 2, 8)
    turn = torch.linalg.qr(normal(8, 8, seed=3))[0]
    value = fid(Features(x), Features(y)).value
    moved = fid(Features(3 * x @ turn + 7), Features(3 * y @ turn + 7)).value
    assert moved == pytest.approx(9 * value, rel=1e-9)
    assert fid(Features(y), Features(x)).value == pytest.approx(value, rel=1e-9)


def test_moments_count_each_sample_as_often_as_told():
    x, times = normal(9, 3), torch.tensor([0, 1, 2, 1, 3, 0, 1, 1, 2])
    mean_w, cov_w = moments(x, times)
    repeated = x.repeat_interleave(times, 0)
    assert torch.allclose(mean_w, repeated.mean(0))
    assert torch.allclose(cov_w, repeated.mT.cov())


def test_fid_is_biased_upwards_at_small_n_and_kid_is_not():
    sets = [(normal(60, 10, seed=2 * k), normal(60, 10, seed=2 * k + 1)) for k in range(60)]
    fids = [fid(Features(x), Features(y)).value for x, y in sets]
    kids = np.array([kid(Features(x), Features(y)).value for x, y in sets])
    assert min(fids) > 0.3
    assert abs(kids.mean()) < 3 * kids.std() / math.sqrt(len(kids))


@pytest.mark.parametrize(
    ("n", "d", "said"),
    [(20, 20, "cannot fill"), (20, 30, "cannot fill"), (500, 4, "biased upwards"), (1000, 4, "")],
)
def test_fid_says_what_is_wrong_with_it(n, d, said):
    found = fid(Features(normal(n, d)), Features(normal(n + 7, d, seed=1)))
    assert (found.n, found.dims) == (n, d)
    assert said in found.caveat
    assert bool(found.caveat) == bool(said)


@pytest.mark.parametrize("metric", [fid, kid])
@pytest.mark.parametrize(("features", "suffix"), [(STANDARD, ""), ("judge", "-P"), ("loss", "-P")])
def test_standard_names_are_for_the_standard_features(metric, features, suffix):
    found = metric(Features(normal(10, 2), features), Features(normal(10, 2, seed=1), features))
    assert found.name == metric.__name__.upper() + suffix
    assert found.features == features


def test_features_of_two_networks_are_not_compared():
    x = normal(10, 2)
    with pytest.raises(CompanionError, match="different features"):
        fid(Features(x, "judge"), Features(x, "loss"))
    with pytest.raises(CompanionError, match="different features"):
        kid(Features(x, "judge", patch="64×64"), Features(x, "judge", patch="256×256"))
    with pytest.raises(CompanionError, match="finite"):
        Features(x / 0)


# ---- KID -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_kid_agrees_with_torchmetrics(seed):
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(80, 12, seed=seed), 1.2 * normal(80, 12, seed=seed + 9) + 0.1
    expected = float(poly_mmd(x, y))
    assert kid(Features(x), Features(y)).value == pytest.approx(expected, rel=1e-9)
    subset = kid(Features(x), Features(y), subsets=3, subset_size=80)
    assert subset.value == pytest.approx(expected, rel=1e-9)
    average = kid(Features(x), Features(y), subsets=100, subset_size=40)
    assert average.value == pytest.approx(expected, rel=0.35)
    assert average.interval is None


def test_kid_of_sets_of_different_size_is_the_same_in_chunks():
    x, y = normal(1100, 3), normal(30, 3, seed=1)
    k = [(a @ b.mT / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    inside = [(z.sum() - z.trace()) / (len(z) * (len(z) - 1)) for z in k[:2]]
    expected = float(inside[0] + inside[1] - 2 * k[2].mean())
    assert kid(Features(x), Features(y)).value == pytest.approx(expected, rel=1e-9)


def test_kid_across_photos_leaves_out_pairs_within_one():
    x, owners = clustered(6, 3, 4, seed=1)
    y = x + normal(18, 4, seed=2)
    apart = torch.tensor(owners)[:, None] != torch.tensor(owners)
    k = [(a @ b.mT / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    expected = sum(s * float(z[apart].mean()) for s, z in zip((1, 1, -2), k, strict=True))
    found = kid(Features(x, "", owners), Features(y, "", owners))
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_kid_across_photos_is_unbiased_and_plain_kid_is_not():
    # Decodes share their original's photo, and nothing is wrong with them: KID should be 0.
    across, plain = [], []
    for seed in range(60):
        x, owners = clustered(12, 6, 4, seed)
        y = x + normal(72, 4, seed=seed + 900) - normal(72, 4, seed=seed + 5000)
        assert torch.allclose(y.var(), x.var(), rtol=0.6)
        across.append(kid(Features(x, "", owners), Features(y, "", owners), resampling=None).value)
        plain.append(kid(Features(x), Features(y)).value)
    error = np.std(across) / math.sqrt(len(across))
    assert abs(np.mean(across)) < 3 * error
    assert np.mean(plain) < -10 * error


def test_kid_with_too_few_photos_is_refused():
    x, owners = clustered(2, 5, 3, seed=0)
    with pytest.raises(CompanionError, match="three photos"):
        kid(Features(x, "", owners), Features(x + 1, "", owners))


# ---- intervals -----------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_students_interval():
    values = normal(12)
    found = mean("x", values, range(12))
    reach = stats.t.ppf(0.975, 11) * float(values.std()) / math.sqrt(12)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.interval == pytest.approx((found.value - reach, found.value + reach))


def test_repeating_the_crops_of_a_photo_adds_no_certainty():
    values = normal(12)
    copies, owners = values.repeat_interleave(25), [k for k in range(12) for _ in range(25)]
    once, again = mean("x", values, range(12)), mean("x", copies, owners)
    assert again.interval == pytest.approx(once.interval)
    naive = mean("x", copies, range(300))
    assert naive.interval is not None
    assert once.interval is not None
    assert np.ptp(naive.interval) < np.ptp(once.interval) / 4  # the mistake that photos prevent
    ours = fid(*(Features(z[:, None], "", owners) for z in (copies, copies * 2)))
    first = fid(*(Features(z[:, None], "", range(12)) for z in (values, values * 2)))
    assert np.ptp(ours.interval) == pytest.approx(np.ptp(first.interval), rel=0.25)


def test_bootstrap_is_seeded_and_agrees_with_the_jackknife():
    values = normal(60).exp()
    weighted = mean("x", values, range(60)).weighted
    assert weighted is not None
    low, high = bootstrap(weighted, 60, seed=1, draws=2000)
    assert (low, high) == bootstrap(weighted, 60, seed=1, draws=2000)
    assert (low, high) != bootstrap(weighted, 60, seed=2, draws=2000)
    other = jackknife(weighted, 60)
    assert high - low == pytest.approx(other[1] - other[0], rel=0.15)
    narrow = interval(weighted, 60, level=0.5)
    assert narrow[1] - narrow[0] < 0.4 * (other[1] - other[0])


def test_intervals_cover_what_other_photos_would_give():
    found = []
    for seed in range(80):
        x, owners = clustered(20, 4, 3, seed)
        y = 0.8 * x + 0.5 * normal(80, 3, seed=seed + 700) + 0.2
        found.append(fid(Features(x, "", owners), Features(y, "", owners)))
    truth = np.mean([s.value for s in found])
    covered = np.mean([s.interval[0] < truth < s.interval[1] for s in found])
    assert covered > 0.85
    width = np.mean([np.ptp(s.interval) for s in found]) / 2 / stats.t.ppf(0.975, 19)
    assert width == pytest.approx(np.std([s.value for s in found]), rel=0.4)


def test_paired_differences_see_what_separate_intervals_do_not():
    x, owners = clustered(15, 8, 4, seed=3)
    error = normal(120, 4, seed=4)
    worse, worst = x + 0.6 * error, x + 0.7 * error
    real, a, b = (Features(z, "judge", owners) for z in (x, worse, worst))
    first, second = fid(real, a), fid(real, b)
    assert first.interval[1] > second.interval[0]  # they overlap …
    apart = difference(second, first)
    assert apart.interval[0] > 0  # … and yet the order is clear
    assert apart.value == pytest.approx(second.value - first.value)
    assert (apart.name, apart.photos) == ("FID-P difference", 15)
    assert difference(first, first).interval == pytest.approx((0, 0))


def test_differences_need_equal_measures_photos_and_sizes():
    x, owners = clustered(12, 4, 3, seed=3)
    real, fake = Features(x, "judge", owners), Features(x + 1, "judge", owners)
    one = fid(real, fake)
    with pytest.raises(CompanionError, match="one measure"):
        difference(one, kid(real, fake))
    with pytest.raises(CompanionError, match="same photos"):
        difference(one, fid(Features(x, "judge"), Features(x, "judge")))
    others = [k + 1 for k in owners]
    with pytest.raises(CompanionError, match="same photos"):
        difference(one, fid(Features(x, "judge", others), Features(x, "judge", others)))
    fewer = Features(x[:-1], "judge", owners[:-1])
    with pytest.raises(CompanionError, match="equal N"):
        difference(one, fid(fewer, fewer))


def test_scores_say_how_many_photos_they_rest_on():
    values = normal(8)
    assert mean("x", values).interval is None
    assert mean("x", values).photos is None
    alone = mean("x", values, ["a"] * 8)
    assert alone.interval is None
    assert "one photo" in alone.caveat
    assert "4 photos only" in mean("x", values, ["a", "b", "c", "d"] * 2).caveat
    assert not mean("x", normal(10), range(10)).caveat
    with pytest.raises(CompanionError, match="3 photo ids"):
        mean("x", values, [1, 2, 3])


def test_scores_are_frozen_readable_and_fit_a_results_file():
    found = fid(
        Features(normal(30, 4), "judge", range(30)), Features(normal(30, 4), "judge", range(30))
    )
    assert json.loads(json.dumps(found.as_dict()))["n"] == 30
    assert "FID-P" in str(found)
    assert "N = 30" in str(found)
    assert float(found) == found.value
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.value = 0.0  # type: ignore[misc]
    assert isinstance(found, Score)


# ---- patches -------------------------------------------------------------------------------------


def test_handfuls_are_all_the_pictures_in_order_and_few_at_a_time():
    x = torch.rand(5, 3, 200, 100)
    parts = list(handfuls(x, 2 * x))
    assert len(parts) == 2  # three, and two
    assert all(torch.equal(2 * a, b) for a, b in parts)
    assert torch.equal(torch.cat([a for a, _ in parts]), x)
    ((large,),) = handfuls(torch.zeros(1, 3, 300, 300))  # never none
    assert large.shape == (1, 3, 300, 300)


def test_more_pictures_than_a_handful_are_measured_as_each_alone():
    x = pictures(18)  # 16 of 64×64 are a handful
    y = noisy(x, 0.1)
    net = NETWORKS["loss"]().eval().requires_grad_(False)
    alone = torch.cat([lpips(a[None], b[None], net) for a, b in zip(x, y, strict=True)])
    assert torch.allclose(lpips(x, y, net), alone, rtol=1e-4)
    for level, last in zip(laplacian_pyramid(x), laplacian_pyramid(x[-1:]), strict=True):
        assert len(level) == 18
        assert torch.allclose(level[-1:], last, atol=1e-6)


def test_patches_tile_the_picture_without_overlap():
    x = torch.arange(2 * 3 * 128 * 192.0).reshape(2, 3, 128, 192)
    cut = patches(x, ["a", "b"])
    assert cut.pictures.shape == (12, 3, 64, 64)
    assert cut.photo == ["a"] * 6 + ["b"] * 6
    rows = [torch.cat(list(cut.pictures[k : k + 3]), dim=2) for k in (6, 9)]
    assert torch.equal(torch.cat(rows, dim=1), x[1])
    whole = patches(x, size=128)
    assert torch.equal(whole.pictures, x[..., :128])
    assert whole.photo is None


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(256, 256, 1), (512, 768, 6 + 2), (383, 512, 2), (700, 900, 6 + 6)],
)
def test_fid_256_adds_a_grid_shifted_by_half(height, width, count):
    x = torch.arange(3 * height * width).reshape(1, 3, height, width)
    cut = fid256_patches(list(x), ["a"])
    assert len(cut.pictures) == count
    assert cut.photo == ["a"] * count
    plain = (height // 256) * (width // 256)
    if count > plain:
        assert torch.equal(cut.pictures[plain], x[0, :, 128:384, 128:384])


def test_pictures_of_several_sizes_are_cut_and_small_ones_refused():
    cut = patches([torch.zeros(3, 64, 130), torch.ones(3, 70, 64)], [5, 7])
    assert cut.photo == [5, 5, 7]
    assert cut.pictures.mean((1, 2, 3)).tolist() == [0, 0, 1]
    with pytest.raises(PictureError, match="holds no 256×256 patch"):
        fid256_patches(torch.zeros(1, 3, 255, 300))


# ---- sliced Wasserstein --------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 50)])
def test_laplacian_pyramid_rebuilds_the_picture(height, width):
    x = torch.rand(2, 3, height, width, generator=generator(1))
    octaves = laplacian_pyramid(x, 3)
    back = octaves[-1]
    for octave in octaves[-2::-1]:
        back = octave + enlarge(back, octave.shape[-2:])
    assert torch.allclose(back, x, atol=1e-6)
    assert len(laplacian_pyramid(torch.zeros(1, 3, 64, 64))) == 3  # 64, 32, 16


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [2, 0, 1, 1]])
def test_distances_along_a_direction_agree_with_scipy(weights):
    real, fake = normal(5, 4 * 3, seed=1).float(), 1.5 * normal(5, 4 * 3, seed=2).float() + 0.3
    each = np.repeat(weights, 3)
    expected = [
        stats.wasserstein_distance(a, b, each, each)
        for a, b in zip(real.numpy(), fake.numpy(), strict=True)
    ]
    found = distance(merge(real, fake, 4), torch.tensor(weights))
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_sliced_wasserstein_sees_what_and_where():
    x = pictures(32)
    assert sliced_wasserstein(x, x).value == 0
    little, much = (sliced_wasserstein(x, noisy(x, s)) for s in (0.03, 0.1))
    assert much.value > 2 * little.value > 0
    assert much.parts[0] > 3 * much.parts[-1]  # noise is fine …
    cast = sliced_wasserstein(x, (x * torch.tensor([0.8, 1, 1])[:, None, None]))
    assert cast.parts[-1] > 3 * cast.parts[0]  # … and a colour cast coarse
    assert much.value == pytest.approx(np.mean(much.parts))
    assert not little.caveat
    assert "32 pictures" in sliced_wasserstein(x[:8], x[:8]).caveat


def test_sliced_wasserstein_has_an_interval_and_refuses_unequal_sets():
    x = pictures(16, 32)
    found = sliced_wasserstein(x, noisy(x, 0.1), [k // 2 for k in range(16)])
    assert found.photos == 8
    assert found.interval[0] < found.value < found.interval[1]
    with pytest.raises(PictureError, match="equally many"):
        sliced_wasserstein(x, x[1:])


# ---- the posterior -------------------------------------------------------------------------------

SOURCE, QUANTISER = Gaussian(0.0, 1.0), UniformQuantiser(step=0.8)
DRAWS = 9


@pytest.fixture(scope="module")
def toy():
    """Return originals, their cells, and exact draws of the posterior."""
    x = SOURCE.sample(3000, seed=1)
    cells = QUANTISER.cells(QUANTISER.encode(x))
    posterior = Posterior(SOURCE, cells)
    return x, cells, torch.stack([posterior.sample(seed=10 + k) for k in range(DRAWS)])


def towards_mean(x: torch.Tensor, draws: torch.Tensor, factor: float) -> torch.Tensor:
    centre = centroid_decoder(SOURCE, QUANTISER)(QUANTISER.encode(x))
    return centre + factor * (draws - centre)


def test_exchangeability_is_one_for_the_posterior_and_only_there(toy):
    x, _, draws = toy
    exact = exchangeability(x, draws, range(len(x)), resampling="bootstrap")
    assert exact.interval[0] < 1 < exact.interval[1]
    assert exact.interval[1] - exact.interval[0] < 0.1
    alike = exchangeability(x, towards_mean(x, draws, 0.5), range(len(x)), resampling="bootstrap")
    assert alike.interval[1] < 0.6
    mean_decode = centroid_decoder(SOURCE, QUANTISER)(QUANTISER.encode(x))
    assert exchangeability(x, mean_decode.expand(2, -1, -1)).value == pytest.approx(0, abs=1e-12)


def test_exchangeability_is_the_ratio_over_all_pairs():
    x, draws = normal(5, 3, 4, 4, seed=1), normal(4, 5, 3, 4, 4, seed=2)
    apart = [(draws[a] - draws[b]).square().sum() for a in range(4) for b in range(a)]
    away = (draws - x).square().sum((0, 1, 2, 3, 4)) / 4
    found = exchangeability(x, draws)
    assert found.value == pytest.approx(float(sum(apart) / 6 / away))
    flat = exchangeability(x.flatten(1), draws.flatten(2))
    assert found.value == pytest.approx(flat.value)
    with pytest.raises(CompanionError, match="K ≥ 2"):
        exchangeability(x, draws[:1])


@pytest.mark.parametrize(
    ("factor", "shift", "verdict"),
    [
        (1.0, 0.0, "no sign"),
        (0.7, 0.0, "alike"),
        (1.5, 0.0, "far apart"),
        (1.0, 0.1, "too high"),
        (1.0, -0.1, "too low"),
    ],
)
def test_ranks_are_uniform_for_the_posterior_and_say_what_else_is_wrong(
    toy, factor, shift, verdict
):
    x, _, draws = toy
    rank = ranks(x, towards_mean(x, draws, factor) + shift, lambda z: z[:, 0])
    found = rank_test(rank, DRAWS)
    reference = stats.chisquare(np.bincount(rank, minlength=DRAWS + 1))
    assert (found.chi2, found.p) == pytest.approx((reference.statistic, reference.pvalue))
    assert verdict in found.verdict
    assert (found.p > 0.01) == (verdict == "no sign")
    assert sum(found.counts) == found.n == len(x)


def test_tied_ranks_are_broken_at_random():
    x = torch.zeros(2000, 1)
    rank = ranks(x, torch.zeros(4, 2000, 1), lambda z: z[:, 0], seed=1)
    assert rank_test(rank, 4).p > 0.01
    assert torch.equal(rank, ranks(x, torch.zeros(4, 2000, 1), lambda z: z[:, 0], seed=1))
    half = ranks(x, torch.tensor([[[-1.0]], [[1.0]]]).expand(2, 2000, 1), lambda z: z[:, 0])
    assert set(half.tolist()) == {1}


def test_ranks_within_one_photo_do_not_count_as_independent():
    rng = np.random.default_rng(0)
    naive, by_photos = [], []
    for _ in range(40):
        rank = torch.from_numpy(np.repeat(rng.integers(0, 5, 30), 20))
        naive.append(rank_test(rank, 4).p < 0.05)
        by_photos.append(rank_test(rank, 4, [k // 20 for k in range(600)]).p < 0.05)
    assert np.mean(naive) > 0.7  # a false alarm nearly always
    assert np.mean(by_photos) < 0.2
    tilted = torch.from_numpy(np.repeat(rng.integers(2, 5, 30), 20))
    assert rank_test(tilted, 4, [k // 20 for k in range(600)]).p < 0.01


def test_few_ranks_are_called_few():
    assert "few" in rank_test(torch.zeros(10, dtype=torch.long), 4).caveat
    assert not rank_test(torch.arange(25) % 5, 4).caveat
    with pytest.raises(CompanionError, match="between 0 and 4"):
        rank_test(torch.tensor([5]), 4)


def test_deviations_show_spikes_at_the_centre_and_at_the_walls(toy):
    x, cells, draws = toy
    real = deviations(cells, x)
    assert real.abs().max() <= 0.5
    exact = compare_deviations(real, deviations(cells, draws[0]))
    middle = compare_deviations(real, deviations(cells, QUANTISER.decode(cells.codes)))
    outside = deviations(cells, x + 0.8 * normal(*x.shape, seed=3))
    projected = compare_deviations(real, outside.clamp(-0.4999, 0.4999))
    assert exact.distance.value < 0.02
    assert exact.centre[0] == pytest.approx(0.04, abs=0.02)
    assert middle.centre[1] > 0.99
    assert middle.distance.value > 5 * exact.distance.value
    assert projected.walls[1] > 4 * projected.walls[0]
    assert compare_deviations(real, outside).outside[1] > 0.2
    for found in (exact, middle, projected):
        assert sum(found.histogram[1]) == pytest.approx(1)


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.3])
def test_distance_of_deviations_agrees_with_scipy(shift):
    real, fake = 0.25 * normal(40, 30, seed=1), 0.15 * normal(40, 30, seed=2) + shift
    found = compare_deviations(real, fake, range(40)).distance
    expected = stats.wasserstein_distance(real.flatten().clamp(-1, 1), fake.flatten().clamp(-1, 1))
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert found.photos == 40


# ---- the networks --------------------------------------------------------------------------------


def untrained(name: str) -> FeatureNetwork:
    torch.manual_seed(7)
    return NETWORKS[name]().eval().requires_grad_(False)


@pytest.mark.parametrize("name", NETWORKS)
def test_feature_networks_are_small_and_take_any_size(name):
    net = untrained(name)
    assert net.dims <= 128
    assert sum(p.numel() for p in net.parameters()) <= 400_000
    x = pictures(5)
    found = embed(net, x, range(5), batch=2)
    assert torch.equal(found.values, embed(net, Patches(x), batch=2).values)
    assert found.values.shape == (5, net.dims)
    assert found.patch == "64×64"
    assert (found.network, list(found.photo)) == (name, list(range(5)))
    assert torch.allclose(found.values[3:4], net(x[3:4]), atol=1e-6)
    assert net(pictures(2, 100)).shape == (2, net.dims)
    with pytest.raises(PictureError, match="32 pixels"):
        net(x[..., :31])


def test_the_two_networks_differ_in_architecture():
    kinds = [{type(m).__name__ for m in untrained(n).modules()} for n in ("loss", "judge")]
    assert "ReLU" in kinds[0] - kinds[1]
    assert {"SiLU", "AvgPool2d", "Residual"} <= kinds[1] - kinds[0]


@pytest.fixture
def small_training(monkeypatch, own_zoo):
    """Return the training module on textures instead of photos, with a zoo and runs of its own."""
    from companion.lab import features
    from companion.photos import Pictures

    textures = [(pictures(1, 128, seed=k)[0] * 255).to(torch.uint8) for k in range(6)]

    class Sampler(features.LabelledCrops):
        def __init__(self, source):
            self.photos = textures

    def held_out(source, n, *, size, seed):
        made, owners = Sampler(source).draw(48, generator(1))
        return Pictures(made, owners, ())

    monkeypatch.setattr(features, "LabelledCrops", Sampler)
    monkeypatch.setattr(features, "crops", held_out)
    scenes = Pictures(pictures(6, 128), torch.arange(6), ())
    monkeypatch.setattr(features, "pictures", lambda source, size: scenes)
    for key, value in {"BATCH": 16, "EVERY": 5, "CALIBRATION": 6}.items():
        monkeypatch.setattr(features, key, value)
    monkeypatch.setattr(features, "STEPS", {"loss": 20, "judge": 10})
    network.cache_clear()
    yield features
    network.cache_clear()


def test_training_stops_resumes_and_ships_what_it_measured(small_training):
    from companion import zoo

    small_training.train("loss", fraction=0.5)
    assert zoo.names() == []  # half a training does not replace the shipped network
    small_training.train("loss")
    card = zoo.card("features-loss")
    assert [point["step"] for point in card["curve"]] == [5, 10, 15, 20]
    assert card["curve"][-1]["loss"] < card["curve"][0]["loss"]
    assert len(card["check"]["distorted"]) == 30
    net = network("loss")
    crops, _ = small_training.LabelledCrops("train").draw(200, generator(3))
    values = embed(net, crops).values
    assert values.mean(0).abs().max() < 0.5  # calibrated, half precision included
    assert values.std(0).median() == pytest.approx(1, abs=0.3)
    with pytest.raises(CompanionError, match="loss or judge"):
        small_training.train("taste")


def test_standard_weights_are_never_fetched_and_never_mistaken(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from companion.lab.standard import convert
    from companion.metrics.standard import inception, standard_weights

    monkeypatch.setenv("COMPANION_STANDARD", str(tmp_path))
    with pytest.raises(WeightsError, match="are not here"):
        inception()
    path = tmp_path / "inception.safetensors"
    save_file({"a": torch.ones(1)}, path, {"sha256": "0123456789abcdef"})
    with pytest.raises(WeightsError, match="must not bear the standard names"):
        inception()
    save_file({"a": torch.ones(1)}, path, {"sha256": "6726825d" + 56 * "0"})
    assert standard_weights("inception")["a"] == 1
    with pytest.raises(WeightsError, match="not the Inception's"):
        inception()
    foreign = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    foreign.write_bytes(b"not the published file")
    with pytest.raises(WeightsError, match="none of the published files"):
        convert(foreign)


def test_inception_is_the_reference_implementation(monkeypatch):
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from torchvision.models import Inception3

    from companion.metrics.standard import Inception

    net = Inception3(1008, aux_logits=False, transform_input=False, init_weights=False)
    torch.manual_seed(0)
    weights = net.state_dict()
    for key, value in weights.items():
        if value.ndim == 4:
            weights[key] = torch.randn(value.shape) * math.sqrt(2 / value[0].numel())

    monkeypatch.setattr(extractor, "load_state_dict_from_url", lambda *a, **k: weights)
    theirs = extractor.FeatureExtractorInceptionV3("inception", ["2048"])
    levels = torch.randint(0, 256, (1, 3, 299, 299), generator=generator(1), dtype=torch.uint8)
    (expected,) = theirs(levels)
    found = Inception(weights)((levels.float() - 128) / 256 + 0.5)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1


# ---- what a realism metric must see --------------------------------------------------------------


class Filters:
    """Eleven plain statistics of a patch: colour, contrast, and detail at three scales."""

    name = "filters"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found = [x.mean((2, 3)), x.mean(1).std((1, 2))[:, None]]
        for _ in range(3):
            grey = x.mean(1)
            for axis in (1, 2):
                found.append(grey.diff(dim=axis).abs().mean((1, 2))[:, None])
            found.append(grey.diff(n=2, dim=2).square().mean((1, 2)).sqrt()[:, None])
            x = torch.nn.functional.avg_pool2d(x, 2)
        return torch.cat(found, dim=1) * 10


class Colour(Filters):
    """Mean colour alone: blind to most of what decoders get wrong."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def scenes() -> tuple[torch.Tensor, list[int]]:
    return pictures(16, 128, seed=4), list(range(16))


def test_distortions_are_deterministic_and_grow(scenes):
    from companion.lab.distortions import DISTORTIONS

    x = scenes[0][:4]
    assert len(DISTORTIONS) == 6
    for name, (change, strengths) in DISTORTIONS.items():
        made = [change(x, s) for s in strengths]
        values = [pooled_psnr(x, y).value for y in made]
        assert values == sorted(values, reverse=True), name
        assert len(set(values)) == len(strengths) == 5, name
        assert torch.equal(made[2], change(x, strengths[2])), name
        assert made[0].shape == x.shape


def test_shuffled_tiles_stay_in_their_patch_and_keep_their_pixels(scenes):
    from companion.lab.distortions import shuffle

    x = scenes[0][:2]
    cut, moved = patches(x).pictures, patches(shuffle(x, 0.5)).pictures
    assert torch.equal(cut.flatten(2).sort().values, moved.flatten(2).sort().values)
    still = (cut.unfold(2, 8, 8).unfold(3, 8, 8) == moved.unfold(2, 8, 8).unfold(3, 8, 8)).all(1)
    assert still.all(-1).all(-1).double().mean() == pytest.approx(0.5, abs=0.1)


def test_the_check_tells_seeing_features_from_blind_ones(scenes):
    from companion.lab.check_features import check

    seeing, blind = (check(net(), *scenes, standard=False) for net in (Filters, Colour))
    assert len(seeing.distorted) == 30
    assert {r.change for r in seeing.harmless} == {"other crops", "mirrored", "shifted by 2"}
    assert len(blind.problems) >= 5
    assert len(seeing.problems) < len(blind.problems) / 2
    assert any("Blur" in p for p in blind.problems)


def test_the_check_reports_rank_correlations():
    from companion.lab.check_features import check

    found = check(Filters(), pictures(4, 192, seed=2), range(4))
    assert set(found.correlation) == {
        f"{m} with {o}" for m in ("fid", "kid") for o in ("1 - MS-SSIM", "sliced Wasserstein")
    }
    assert all(0 < value <= 1 for value in found.correlation.values())
