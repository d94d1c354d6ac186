"""The assignment gives nothing away, and its grader tells right answers from wrong ones.

The commands are those of `book/teaching.md`, run on a temporary folder.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools.execution import ROOT, Book

SOURCE = ROOT / "book" / "assignments" / "finite-sources.md"
NAME = f"{SOURCE.stem}.ipynb"
BY_MACHINE, BY_READER = 24, 16  # points

# Answers that satisfy the public tests and are wrong: hard-coded, or an error that students make.
SHALLOW = {
    "posterior": """
def posterior(p_x, f, m):
    return np.array([[0.625, 0.375, 0], [0, 0, 1]])
def least_mse(p_x, f, atoms):
    return 0.75
""",
    "mismatch": """
def mismatch(p_x, encoder, decoder, again):
    f = encoder.argmax(1)  # as if it were deterministic
    return 1 - sum(p_x[x] * decoder[f[x]][f == f[x]].sum() for x in range(len(p_x)))
""",
    "noisy_encoder": "noisy_encoder = np.eye(2)[[0, 0, 1]]",
    "in_cell": """
def in_cell(prior, f, m):
    table = (np.arange(m)[:, None] == f) * prior  # forgets a cell without mass
    return table / table.sum(1, keepdims=True)
""",
    "at_the_floor": "at_the_floor = at_the_ceiling = np.eye(4)[[0, 2]]",
    "dearest": "def dearest(p_x, atoms, m):\n    return 0.0",
    "worst_idempotent": """
def worst_idempotent(p_x, f, m):
    return np.array([list(f).index(y) for y in range(m)])
""",
    "contrary": "contrary = np.full((2, 4), 0.25)",
}


def run(command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> list[str]:
    """The commands of the page for teachers, in order."""
    page = (ROOT / "book" / "teaching.md").read_text()
    found = [b for b in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S) if "otter" in b]
    assert len(found) == 2, "one block makes the assignment, one grades it"
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder with the versions for students and for the grader."""
    folder = tmp_path_factory.mktemp("made") / "new"
    make = commands()[0].replace("_build/assignments", str(folder)).rstrip()
    run(f"{make} --no-run-tests")  # they are run below
    return folder


def grade(made: Path, submission: Path, results: Path) -> dict[str, tuple[float, float]]:
    """Return question -> points got, points to be had."""
    command = commands()[1].replace("_build/assignments/results", str(results))
    command = command.replace("_build/assignments", str(made))
    assert "HANDED-IN.ipynb" in command
    run(command.replace("HANDED-IN.ipynb", str(submission)))
    tests = json.loads((results / "results.json").read_text())["tests"]
    return {t["name"]: (t["score"], t["max_score"]) for t in tests if "max_score" in t}


# ---- grading -------------------------------------------------------------------------------------


def test_the_solution_gets_full_marks(made, tmp_path):
    marks = grade(made, made / "autograder" / NAME, tmp_path)
    assert all(got == most for got, most in marks.values()), marks
    assert sum(most for _, most in marks.values()) == BY_MACHINE


def test_the_empty_notebook_gets_none(made, tmp_path):
    marks = grade(made, made / "student" / NAME, tmp_path)
    assert len(marks) == 6
    assert all(got == 0 for got, _ in marks.values()), marks


def test_answers_that_only_fit_the_public_tests_get_a_part(made, tmp_path):
    nb = json.loads((made / "student" / NAME).read_text())
    left = dict(SHALLOW)
    for cell in nb["cells"]:
        if "..." in (code := "".join(cell["source"])) and cell["cell_type"] == "code":
            name = next(n for n in left if re.search(rf"^(def )?{n}\b", code, re.M))
            given = [line for line in code.splitlines() if re.match(r"p_\w+(, \w+)? = ", line)]
            cell["source"] = "\n".join([*given, left.pop(name)])
    assert not left
    submission = tmp_path / NAME
    submission.write_text(json.dumps(nb))
    marks = grade(made, submission, tmp_path)
    assert all(0 < got < most for got, most in marks.values()), marks


# ---- the student's version -----------------------------------------------------------------------


def cells(notebook: Path) -> list[dict]:
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in json.loads(notebook.read_text())["cells"]
    ]


def strings(value) -> Iterator[str]:
    """Every string of a JSON document, metadata and keys included."""
    if isinstance(value, dict):
        yield from strings([*value.keys(), *value.values()])
    elif isinstance(value, list):
        yield "".join(v for v in value if isinstance(v, str))
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def code_lines(source: str) -> set[str]:
    """The lines of code as the grader stores them: without comments, in one style."""
    return {line.strip() for line in ast.unparse(ast.parse(source)).splitlines()}


def secrets() -> set[str]:
    """Every line that only the teacher may see: solutions, rubrics, hidden tests."""
    import jupytext

    secret: set[str] = set()
    public: set[str] = set()
    inside = False
    for cell in jupytext.reads(SOURCE.read_text(), fmt="md:myst").cells:
        text = cell.source
        if cell.cell_type == "raw":
            inside = (inside or "# BEGIN SOLUTION" in text) and "# END SOLUTION" not in text
        elif cell.cell_type == "markdown":
            (secret if inside else public).update(line.strip() for line in text.splitlines())
        elif text.startswith("# HIDDEN"):
            secret |= code_lines(text)
        elif not inside:
            public |= code_lines(text)
        else:
            block = re.sub(r"# BEGIN SOLUTION\n(.*?)# END SOLUTION", "...", text, flags=re.S)
            stub = re.sub(r"^(\w+) = .*# SOLUTION$", r"\1 = ...", block, flags=re.M)
            public |= code_lines(stub)
            secret |= code_lines(text)
    shown = "\n".join(public)
    return {line for line in secret if len(line) > 10 and line not in shown}


def given_away(notebook: Path) -> set[str]:
    """Which secrets occur anywhere in a notebook, however its code is laid out."""
    text = "\n".join(strings(json.loads(notebook.read_text())))
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            text += "\n" + "\n".join(code_lines(cell["source"]))
    return {secret for secret in secrets() if secret in text}


def test_students_get_no_solution_and_no_hidden_test(made):
    assert [p.name for p in (made / "student").rglob("*")] == [NAME]
    assert len(secrets()) > 100
    assert given_away(made / "student" / NAME) == set()
    text = (made / "student" / NAME).read_text()
    assert not [w for w in ("SOLUTION", "HIDDEN", "hidden=True", "Rubric") if w in text]


def test_the_search_finds_every_solution_where_there_is_one(made):
    assert given_away(made / "autograder" / NAME) == secrets()


def test_every_answer_is_left_open(made):
    notebook = cells(made / "student" / NAME)
    answers = [c for c in notebook if "otter_answer_cell" in c["metadata"].get("tags", [])]
    functions, blanks, proofs = [], [], []
    for cell in answers:
        if cell["cell_type"] == "markdown":
            assert cell["source"].startswith("_Type your answer here")
            proofs.append(cell)
            continue
        for node in ast.parse(cell["source"]).body:
            if isinstance(node, ast.FunctionDef):
                assert ast.unparse(node.body[1:]) == "...", f"{node.name} is not a stub"
                assert ast.get_docstring(node)
                functions.append(node.name)
            elif ast.unparse(node).endswith(" = ..."):
                blanks.append(node)
    assert (len(functions), len(blanks), len(proofs)) == (6, 4, 3)


def test_the_student_can_check_every_coding_question_before_handing_in(made):
    source = "\n".join(c["source"] for c in cells(made / "student" / NAME))
    assert re.findall(r'^grader\.check\("(q\d)"\)', source, re.M) == [f"q{i}" for i in range(1, 7)]
    tests = json.loads((made / "student" / NAME).read_text())["metadata"]["otter"]["tests"]
    assert sorted(tests) == [f"q{i}" for i in range(1, 7)]
    assert all("hidden=False" in t for t in tests.values())


def test_notebooks_for_students_have_no_outputs(made):
    for cell in cells(made / "student" / NAME):
        assert not cell.get("outputs")


# ---- the source ----------------------------------------------------------------------------------


def test_points_and_rubrics_add_up():
    text = SOURCE.read_text()
    parts = re.findall(r"# BEGIN QUESTION\n(.*?)```(.*?)# END QUESTION", text, re.S)
    points = {True: 0, False: 0}
    for config, body in parts:
        question = yaml.safe_load(config)
        manual = question.get("manual", False)
        points[manual] += question["points"]
        if manual:
            rubric = body.split("*Rubric.*")[1]
            assert sum(int(n) for n in re.findall(r"\s(\d):", rubric)) == question["points"]
    assert points == {True: BY_READER, False: BY_MACHINE}
    assert f"{BY_MACHINE} points awarded by machine, {BY_READER} by a reader" in text


def test_assignments_with_their_solutions_are_no_pages_of_the_book():
    assert not [c for c in Book().chapters() if "assignments" in c.parts]
    assert "assignments" not in (ROOT / "_toc.yml").read_text()
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["only_build_toc_files"] is True
