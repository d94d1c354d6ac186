"""Every coding exercise: its check refuses the stub and accepts the solution.

A stub is a code cell tagged `stub` whose last line is `check_…(name)`; its solution is a later cell
tagged `solution` whose last line is `assert check_…(name)`.  What they printed is read from the
executed chapter.
"""

from __future__ import annotations

import re

import pytest

from tools.execution import Book, execute

BOOK = Book()


def tagged(cells: list[dict], tag: str) -> dict[str, tuple[int, str, str]]:
    """Return check's name -> (place, last line, what the cell printed), for the cells of a tag."""
    found = {}
    for place, cell in enumerate(cells):
        if tag in cell["metadata"].get("tags", []):
            last = "".join(cell["source"]).strip().splitlines()[-1].strip()
            name = re.search(r"\b(check_\w+)\(", last)
            if name:
                printed = "".join("".join(o.get("text", "")) for o in cell["outputs"])
                assert name[1] not in found, f"two {tag} cells for {name[1]}"
                found[name[1]] = place, last, printed
            else:
                assert tag != "stub", f"a stub must end in check_…(name), not in: {last}"
    return found


def refuted(cells: list[dict]) -> list[str]:
    """Return what is wrong with the exercises in the code cells of an executed chapter."""
    stubs, solutions = tagged(cells, "stub"), tagged(cells, "solution")
    wrong = [f"{name}: a solution without a stub" for name in solutions.keys() - stubs.keys()]
    for name, (place, last, printed) in stubs.items():
        if last.startswith("assert"):
            wrong.append(f"{name}: the stub asserts what it cannot pass")
        if "Not yet" not in printed or "Well done" in printed:
            wrong.append(f"{name}: the stub was not refused; it printed {printed!r}")
        if name not in solutions:
            wrong.append(f"{name}: a stub without a solution")
            continue
        where, last, printed = solutions[name]
        if where < place:
            wrong.append(f"{name}: the solution stands before the stub")
        if not re.match(r"assert check_", last):
            wrong.append(f"{name}: the solution's last line must be `assert {name}(…)`")
        if "Well done" not in printed or "Not yet" in printed:
            wrong.append(f"{name}: the solution was not accepted; it printed {printed!r}")
    return wrong


@pytest.mark.parametrize("notebook", BOOK.chapters(), ids=lambda p: p.stem)
def test_checks_refuse_the_stub_and_accept_the_solution(notebook):
    nb, _ = execute(BOOK, notebook, retry=False)
    assert not refuted([c for c in nb["cells"] if c["cell_type"] == "code"])


def cell(tag: str, source: str, printed: str) -> dict:
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed}]
    return {"source": source, "metadata": {"tags": [tag]}, "outputs": outputs}


STUB = cell("stub", "def f(x):\n    ...\n\ncheck_f(f)", "Not yet: f returned None.\n")
SOLUTION = cell("solution", "def f(x):\n    return x\n\nassert check_f(f)", "Well done.\n")


def test_a_good_exercise_passes():
    assert refuted([STUB, SOLUTION]) == []


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param([{**STUB, "outputs": SOLUTION["outputs"]}, SOLUTION], id="stub accepted"),
        pytest.param([STUB, {**SOLUTION, "outputs": STUB["outputs"]}], id="solution refused"),
        pytest.param([STUB, {**SOLUTION, "outputs": []}], id="solution silent"),
        pytest.param([STUB], id="no solution"),
        pytest.param([SOLUTION], id="no stub"),
        pytest.param([SOLUTION, STUB], id="wrong order"),
        pytest.param([STUB, {**SOLUTION, "source": "check_f(f)"}], id="not asserted"),
    ],
)
def test_a_bad_exercise_is_named(cells):
    assert refuted(cells)
