"""Every chapter runs, is in the form that CONTRIBUTING.md asks for, and is never a stale copy."""

from __future__ import annotations

import json
import os
import re
import warnings

import pytest

from tools.book import notebook_text
from tools.execution import ROOT, SLOW, Book, execute

BOOK = Book()
CHAPTERS = BOOK.chapters()
each_chapter = pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda p: p.stem)


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(notebook) -> str:
    """The Markdown source of a chapter without its code, executed or not."""
    fenced = r"^(`{3,})(\{code-cell\}|\w*\s*$).*?^\1\s*$"
    source = notebook.with_suffix(".md").read_text()
    return re.sub(fenced, "", source, flags=re.MULTILINE | re.DOTALL)


# ---- the run -------------------------------------------------------------------------------------


@each_chapter
@pytest.mark.timeout(1200)
def test_chapter_executes(notebook, record_property):
    nb, note = execute(BOOK, notebook, again=os.environ.get("FRESH") == "1")
    seconds = nb["metadata"]["companion"]["cpu"]
    record_property("note", note)
    record_property("notebook", notebook.stem)
    record_property("seconds", seconds)
    record_property("slow", seconds > SLOW)
    if seconds > SLOW:
        warnings.warn(f"{notebook.stem} took {seconds:.0f} s, more than {SLOW}.", stacklevel=1)


@each_chapter
def test_executed_chapter_has_no_warnings(notebook):
    nb, _ = execute(BOOK, notebook, retry=False)
    assert nb["metadata"]["companion"]["warnings"] == []


@each_chapter
def test_every_figure_has_alt_text(notebook):
    nb, _ = execute(BOOK, notebook, retry=False)
    for cell in code_cells(nb):
        for output in cell["outputs"]:
            data = output.get("data", {})
            bare = [kind for kind in data if kind.startswith("image/")]
            assert not bare, f"shown without viz.show, so without alt text: {cell['source'][:300]}"
            for img in re.findall(r"<img\b[^>]*>", "".join(data.get("text/html", ""))):
                assert re.search(r'alt="[^"]+"', img), img[:200]
    for target in re.findall(r"!\[\s*\]\(([^)]*)\)", prose(notebook)):
        pytest.fail(f"picture without alt text: {target}")
    for figure in re.findall(
        r"^(`{3,}|:{3,})\{(?:figure|image)\}(.*?)^\1", prose(notebook), re.M | re.S
    ):
        assert ":alt:" in figure[1], f"figure without :alt: {figure[1][:80]}"


# ---- the form ------------------------------------------------------------------------------------


@each_chapter
def test_a_glue_key_is_used_once(notebook):
    keys = re.findall(r'glue\("([^"{]+)"', notebook.with_suffix(".md").read_text())
    assert sorted(keys) == sorted(set(keys))


@each_chapter
def test_notebook_is_what_its_markdown_says(notebook):
    assert notebook.exists(), "run `make notebooks`"
    same = notebook.read_text() == notebook_text(notebook.with_suffix(".md"))
    assert same, "the .ipynb and the .md differ: run `make notebooks`"


def test_notebooks_are_committed_without_outputs():
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        for cell in code_cells(json.loads(path.read_text())):
            assert not cell["outputs"], path
            assert cell["execution_count"] is None, path


@each_chapter
def test_one_title_that_starts_with_the_number(notebook):
    titles = re.findall(r"^# (.*)$", prose(notebook), flags=re.MULTILINE)
    assert len(titles) == 1
    number = re.match(r"(\d+)-", notebook.name)
    if number:
        assert re.match(rf"{int(number[1])}\b", titles[0]), f"the title should start: {number[1]}"


@each_chapter
def test_code_cells_are_short(notebook):
    for cell in code_cells(json.loads(notebook.read_text())):
        if "hide-input" not in cell["metadata"].get("tags", []):
            lines = "".join(cell["source"]).splitlines()
            assert len(lines) <= 20, f"{len(lines)} lines in one cell, from: {lines[0]}"


@each_chapter
def test_chapter_has_a_quiz_an_explorer_and_folded_solutions(notebook):
    source = notebook.with_suffix(".md").read_text()
    assert "display_quiz(" in source, "no quiz"
    assert "explore(" in source, "nothing to play with"
    exercises = re.findall(r"^[`:]{3,}\{exercise(?:-start)?\}", source, flags=re.MULTILINE)
    assert 3 <= len(exercises) <= 6, f"{len(exercises)} exercises, not 3 to 6"
    for block in re.findall(r"^[`:]{3,}\{solution(?:-start)?\}.*?(?=^$|\Z)", source, re.M | re.S):
        assert re.search(r":class:.*\bdropdown\b", block), f"solution not folded: {block}"


@each_chapter
def test_chapter_never_uses_what_is_dead_without_a_kernel(notebook):
    source = notebook.with_suffix(".md").read_text()
    for word in (r"\binteract\w*\(", r"\bPlay\(", r"\.observe\("):
        assert not re.search(word, source), f"{word} does nothing on the built page: use explore"


def test_every_chapter_is_in_the_table_of_contents():
    files = re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())
    assert len(files) == len(set(files))
    for file in files:
        assert (ROOT / f"{file}.md").exists(), f"_toc.yml names {file}, which is not there"
    for notebook in CHAPTERS:
        assert notebook.relative_to(ROOT).with_suffix("").as_posix() in files
