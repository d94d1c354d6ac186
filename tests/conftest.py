"""One thread a worker, the repository importable, and what the notebooks cost in the report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch is imported
sys.path.insert(0, str(Path(__file__).parents[1]))


def pytest_report_teststatus(report, config):
    """Say in place of PASSED what a test has to tell, such as the seconds a notebook took."""
    note = dict(report.user_properties).get("note")
    if report.when == "call" and report.passed and note:
        return "passed", ".", f"PASSED ({note})"
    return None


def pytest_terminal_summary(terminalreporter):
    """List the seconds of every notebook, and those that took too long."""
    notes = {
        properties["notebook"]: properties
        for report in terminalreporter.getreports("passed")
        if "notebook" in (properties := dict(report.user_properties))
    }
    if notes:
        terminalreporter.section("notebooks, seconds of processor time, slowest first")
        for name, n in sorted(notes.items(), key=lambda item: -item[1]["seconds"]):
            slow = "   TOO SLOW for a chapter" if n["slow"] else ""
            terminalreporter.line(f"{n['seconds']:7.1f} s  {name}{slow}")
        terminalreporter.line(f"{sum(n['seconds'] for n in notes.values()):7.1f} s  in all")


def pytest_collection_modifyitems(items):
    """Start with the chapters, so that the longest work is not what is left at the end."""
    items.sort(key=lambda item: "test_chapter_executes" not in item.nodeid)


@pytest.fixture
def own_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Give a test a zoo and a runs folder of its own; no card of either is remembered."""
    from companion import zoo

    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setenv("COMPANION_RUNS", str(tmp_path / "runs"))
    zoo.card.cache_clear()
    yield tmp_path
    zoo.card.cache_clear()


@pytest.fixture
def tiny() -> Callable[[], Any]:
    """Return what makes an unconditional network of a few thousand parameters."""
    from diffusers import UNet2DModel

    return partial(
        UNet2DModel,
        sample_size=64,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
