"""The entropy coder: exact round trips, lengths close to ideal, any bytes survived."""

import contextlib

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional

from companion.codecs import entropy
from companion.errors import StreamError


@pytest.fixture(scope="module")
def tables() -> list[entropy.Table]:
    return entropy.gaussian_tables()


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 64, n).astype(np.int32)
    symbols = np.rint(rng.normal(size=n) * entropy.SCALES[index]).astype(np.int32)
    return symbols, index


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_round_trip(tables: list[entropy.Table], n: int) -> None:
    symbols, index = draw(n, seed=n)
    coder = entropy.Encoder()
    coder.encode(symbols, index, tables)
    assert np.array_equal(entropy.Decoder(coder.finish()).decode(index, tables), symbols)


def test_escapes_round_trip(tables: list[entropy.Table]) -> None:
    index = np.zeros(9, dtype=np.int32)  # a table of three symbols
    symbols = np.array([0, 2, -2, 5, -77, 1000, -1000, 2**19 - 1, 1 - 2**19], dtype=np.int32)
    coder = entropy.Encoder()
    coder.encode(symbols, index, tables)
    assert np.array_equal(entropy.Decoder(coder.finish()).decode(index, tables), symbols)


def test_too_large_a_symbol_is_refused(tables: list[entropy.Table]) -> None:
    with pytest.raises(ValueError, match="too large"):
        entropy.Encoder().encode(np.array([2**19], np.int32), np.zeros(1, np.int32), tables)


def test_length_is_the_ideal_one(tables: list[entropy.Table]) -> None:
    symbols, index = draw(20_000, seed=1)
    coder = entropy.Encoder()
    coder.encode(symbols, index, tables)
    ideal = entropy.cost(symbols, index, tables)
    assert ideal <= 8 * len(coder.finish()) <= 1.001 * ideal + 40


def test_tables_are_those_of_compressai(tables: list[entropy.Table]) -> None:
    model = GaussianConditional(None)
    model.update_scale_table(entropy.SCALES.tolist())
    for k, table in enumerate(tables):
        theirs = np.diff(model._quantized_cdf[k, : model._cdf_length[k]].numpy()) / 2**16
        reach = -int(model._offset[k])
        mine = 2.0 ** -table.bits[:-1]
        centre = len(mine) // 2
        width = min(reach, centre)
        here = slice(centre - width, centre + width + 1)
        there = slice(reach - width, reach + width + 1)
        assert np.abs(mine[here] - theirs[there]).max() <= 2 / 2**16  # a count or two, of float32


def test_random_bytes_never_crash(tables: list[entropy.Table]) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 64, 200).astype(np.int32)
    for _ in range(300):
        decoder = entropy.Decoder(rng.bytes(int(rng.integers(0, 40))))
        with contextlib.suppress(StreamError):
            assert np.abs(decoder.decode(index, tables)).max() < 2**21


def test_the_nearest_scale_costs_next_to_nothing(tables: list[entropy.Table]) -> None:
    """Rounded up, as CompressAI does, it costs several times as much."""
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(np.log(0.11), np.log(2), 200_000))
    symbols = np.rint(rng.normal(size=len(scale)) * scale).astype(np.int32)
    sigma, k = torch.from_numpy(scale), torch.from_numpy(np.abs(symbols)).double()
    mass = torch.special.ndtr((0.5 - k) / sigma) - torch.special.ndtr((-0.5 - k) / sigma)
    ideal = -torch.log2(mass).sum().item()
    nearest = entropy.scale_index(sigma).numpy().astype(np.int32)
    upwards = GaussianConditional(list(entropy.SCALES)).build_indexes(sigma.float()).numpy()
    excess = entropy.cost(symbols, nearest, tables) / ideal - 1
    assert excess < 0.001
    assert entropy.cost(symbols, upwards.astype(np.int32), tables) / ideal - 1 > 3 * excess


def test_every_level_is_its_own_nearest() -> None:
    scales = torch.as_tensor(entropy.SCALES)
    assert torch.equal(entropy.scale_index(scales), torch.arange(len(scales)))
    assert entropy.scale_index(torch.tensor([1e-6, 1e6])).tolist() == [0, len(scales) - 1]
