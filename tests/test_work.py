"""Work in items: atomic, resumable, the same however it is spread."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.lab.runs import in_lines
from companion.lab.work import (
    Item,
    mark,
    measurement,
    part_of,
    plan,
    results_of,
    spread,
    store,
    undone,
    unpacked,
    work,
)


def items(n: int = 5, log: list[int] | None = None) -> list[Item]:
    def make(k: int) -> Item:
        def run() -> dict[str, Tensor]:
            if log is not None:
                log.append(k)
            return {"x": torch.randn(3, generator=torch.Generator().manual_seed(k))}

        return Item(f"item-{k}", run, 60.0)

    return [make(k) for k in range(n)]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    log: list[int] = []
    work(items(3, log), tmp_path)
    work(items(5, log), tmp_path)
    assert log == [0, 1, 2, 3, 4]
    assert undone(items(5), tmp_path) == []


def test_parts_are_the_whole(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    work(items(), one)
    for k in range(2):
        work(items(), two, part=(k, 2))
    for item in items():
        assert torch.equal(item.result(one)["x"], item.result(two)["x"])
    names = [i.name for k in range(3) for i in part_of(items(), (k, 3))]
    assert sorted(names) == sorted(i.name for i in items())


def test_results_come_when_all_parts_are_done(tmp_path: Path) -> None:
    assert results_of(items(), tmp_path, (0, 2)) is None
    found = results_of(items(), tmp_path, (1, 2))
    assert found is not None
    assert list(found) == [item.name for item in items()]


def sums(folder: Path, log: list[int] | None = None) -> list[Item]:
    """Return two measurements: of the first three items, and of all five."""
    made = items(5, log)

    def total(some: list[Item]) -> float:
        return round(sum(item.result(folder)["x"].sum().item() for item in some), 4)

    return [
        measurement(f"sum-{n}", lambda some=made[:n]: {"sum": total(some)}, 1.0, made[:n])
        for n in (3, 5)
    ]


def test_a_measurement_is_made_by_who_makes_the_last_that_it_needs(tmp_path: Path) -> None:
    one, two, log = tmp_path / "one", tmp_path / "two", []
    work(sums(one), one)
    work(sums(two, log), two, (0, 2))
    assert log == [0, 2, 4]
    assert [i.name for i in undone(sums(two), two)] == ["sum-3", "sum-5"]
    found = results_of(sums(two, log), two, (1, 2))
    assert log == [0, 2, 4, 1, 3]
    assert found is not None
    for item in sums(one):
        assert unpacked(item.result(one)) == unpacked(found[item.name])


def test_what_is_measured_outlives_what_it_was_made_from(tmp_path: Path) -> None:
    log: list[int] = []
    work(sums(tmp_path)[:1], tmp_path)
    for item in items(3):
        item.file(tmp_path).unlink()
    work(sums(tmp_path, log)[:1], tmp_path)
    assert log == []
    assert plan(sums(tmp_path)[:1], tmp_path).endswith("0 of 4 items left, about 0.0 hours")
    work(sums(tmp_path, log), tmp_path)  # the second needs all five
    assert log == [0, 1, 2, 3, 4]


def test_a_measurement_that_was_cut_off_is_made_by_the_next(tmp_path: Path) -> None:
    work(items(5), tmp_path)
    assert results_of(sums(tmp_path), tmp_path) is not None


def test_a_mark_changes_with_weights_and_settings() -> None:
    marks = {mark(("hyper-1",), 3), mark(("hyper-2",), 3), mark(("hyper-1",), 4), mark((), 3)}
    assert len(marks) == 4


def test_a_failure_leaves_what_was_finished(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    broken = [*items(2), Item("broken", fail, 1.0), *items(3)[2:]]
    with pytest.raises(KeyboardInterrupt):
        work(broken, tmp_path)
    assert [i.name for i in undone(broken, tmp_path)] == ["broken", "item-2"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_cut_short_never_has_the_name_of_a_result(tmp_path: Path, monkeypatch) -> None:
    from companion.lab import work as module

    def half(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(module, "save_file", half)
    with pytest.raises(OSError, match="no space"):
        store({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_the_plan_counts_what_is_left(tmp_path: Path) -> None:
    work(items(2), tmp_path)
    text = plan(items(5), tmp_path)
    assert text.count("done ") == 2
    assert text.endswith("3 of 5 items left, about 0.1 hours")


def test_processes_share_the_work_and_a_failure_is_told() -> None:
    ok = [sys.executable, "-c", "import sys; sys.exit(0)"]
    spread(ok, 2)
    bad = [sys.executable, "-c", "import sys; sys.exit(sys.argv[-1] == '1/2')"]
    with pytest.raises(CompanionError, match="number 1 failed"):
        spread(bad, 2)
    with pytest.raises(CompanionError, match="count from 0"):
        part_of(items(), (2, 2))


def test_a_result_has_a_line_for_each_entry_and_row() -> None:
    result = {"date": "β", "nothing": [], "weights": {"a": "1"}, "rows": [{"x": [1, 2]}, {"x": []}]}
    text = in_lines(result)
    assert json.loads(text) == result
    assert [line.strip(" ,") for line in text.splitlines()] == [
        "{",
        '"date": "β"',
        '"nothing": []',
        '"weights": {"a": "1"}',
        '"rows": [',
        '{"x": [1, 2]}',
        '{"x": []}',
        "]",
        "}",
    ]
