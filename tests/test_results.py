"""Stored results: of the weights that are here, by a command that is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from companion import zoo
from companion.cli import parser
from companion.lab.bench_codecs import RESULT

FILES = sorted(RESULT.parent.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_result_is_of_the_weights_of_the_zoo(path: Path) -> None:
    told = json.loads(path.read_text())
    for name, sha256 in told.get("weights", {}).items():
        assert zoo.card(name)["sha256"] == sha256, f"{name} has changed: run `{told['command']}`"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    told = json.loads(path.read_text())
    assert {"commit", "date", "hardware"} <= set(told)
    parser().parse_args(told["command"].split()[1:])  # a command that exists
