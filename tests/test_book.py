"""The traps of building an executable book, each kept shut (in `tools`)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tools import book as site
from tools import execution
from tools.api import api_page, prose
from tools.book import build, notebook_text, write_notebooks
from tools.execution import ROOT, Book, NotebookFailed, closure, execute, fresh_copy, key

HEADER = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3, language: python}
---

# A page

"""


@pytest.fixture
def book(tmp_path) -> Book:
    """A book of one page beside a package of four modules."""
    for name, text in {
        "companion/__init__.py": "",
        "companion/used.py": "def f():\n    from companion.deep import inner\n",
        "companion/deep/__init__.py": "",
        "companion/deep/inner.py": "from . import sibling\n",
        "companion/deep/sibling.py": "x = 1\n",
        "companion/other.py": "x = 1\n",
        "companion/data/photo.bin": "1",
        "constraints.txt": "",
        "_toc.yml": "format: jb-book\nroot: book/page\n",
        "book/_vendor/nothing.txt": "",
        "book/references.bib": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    page(Book(tmp_path), "print(1 + 1)")
    return Book(tmp_path)


def page(book: Book, code: str, text: str = "") -> Path:
    """Write the page, with one code cell, and return its notebook."""
    source = f"{HEADER}{text}\n\n```{{code-cell}} ipython3\n{code}\n```\n"
    (book.root / "book" / "page.md").write_text(source)
    write_notebooks(book)
    return book.chapters()[0]


# ---- a crash never goes unseen, and leaves nothing behind ----------------------------------------


@pytest.mark.parametrize("crash", ["1/0", "import os; os._exit(1)"])
def test_a_crash_fails_and_leaves_no_executed_copy(book, crash):
    notebook = page(book, crash)
    with pytest.raises((NotebookFailed, RuntimeError), match=r"ZeroDivisionError|Kernel died"):
        execute(book, notebook)
    assert fresh_copy(book, notebook) is None
    with pytest.raises(SystemExit, match="has not been executed"):
        build(book)


def test_a_crash_removes_the_copy_of_an_earlier_success(book):
    notebook = page(book, "x = 1")
    execute(book, notebook)
    page(book, "1/0")
    with pytest.raises(NotebookFailed):
        execute(book, notebook)
    assert not book.executed(notebook).exists()


def test_what_failed_is_not_tried_again_by_every_test(book):
    notebook = page(book, "1/0")
    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        execute(book, notebook)
    with pytest.raises(NotebookFailed, match="fails when it is executed"):
        execute(book, notebook, retry=False)
    page(book, "1 + 1")
    assert execute(book, notebook, retry=False)[1].startswith("executed")


def test_progress_bars_are_left_out_and_warnings_kept_for_the_tests(book):
    code = "import sys, warnings\nprint('50 %', file=sys.stderr)\nwarnings.warn('ours')"
    nb, _ = execute(book, page(book, code))
    assert nb["cells"][1]["outputs"] == []
    (warning,) = nb["metadata"]["companion"]["warnings"]
    assert warning.endswith("UserWarning: ours")


def test_a_page_is_executed_once(book):
    notebook = book.chapters()[0]
    first, note = execute(book, notebook)
    assert note.startswith("executed")
    again, note = execute(book, notebook)
    assert note.startswith("unchanged")
    assert again == first
    assert first["cells"][1]["outputs"][0]["text"] == ["2\n"]
    assert json.loads(notebook.read_text())["cells"][1]["outputs"] == []  # a copy was run


# ---- the key sees whatever the outputs depend on -------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("companion/used.py", True),
        ("companion/deep/inner.py", True),  # imported inside a function
        ("companion/deep/sibling.py", True),  # imported by a relative import
        ("companion/data/photo.bin", True),
        ("constraints.txt", True),
        ("companion/other.py", False),
    ],
)
def test_a_change_of_the_package_makes_outputs_stale(book, changed, matters):
    notebook = page(book, "%time\nfrom companion import used")
    before = key(notebook, book.root)
    path = book.root / changed
    path.write_text(path.read_text() + "# changed\n")
    assert (key(notebook, book.root) != before) == matters


def test_a_change_of_the_tools_makes_outputs_stale(book, monkeypatch):
    before = key(book.chapters()[0], book.root)
    monkeypatch.setattr(execution, "environment", lambda: "another nbclient")
    assert key(book.chapters()[0], book.root) != before


def test_the_closure_of_this_package_finds_its_modules():
    found = closure("from companion.widgets import explore", ROOT)
    assert {p.name for p in found} == {"__init__.py", "widgets.py", "viz.py"}


# ---- the site: warnings are errors, each time ----------------------------------------------------


def test_a_broken_reference_fails_every_time_and_leaves_no_pages(book, capfd):
    execute(book, page(book, "1 + 1", text="See {ref}`nowhere`."))
    for _ in range(2):  # a second build on warm files used to pass
        with pytest.raises(SystemExit, match="not built"):
            build(book)
        assert re.findall(r"WARNING: (.*)", capfd.readouterr().out) == [
            "undefined label: 'nowhere'"
        ]
        assert not (book.build / "html").exists()


def test_the_site_knows_what_it_was_built_from(book):
    execute(book, book.chapters()[0])
    before = site.site_key(book)
    (book.root / "book" / "_static" / "book.css").write_text("p {}")
    assert site.site_key(book) != before


# ---- notebooks from Markdown ---------------------------------------------------------------------


def test_the_graded_assignments_are_not_copied_to_the_site(book, monkeypatch):
    graded = book.root / "book" / "assignments" / "graded.md"
    graded.parent.mkdir()
    graded.write_text("# An assignment\n")
    monkeypatch.setattr(site, "fresh_copy", lambda *_: {})
    files = site.site_files(book)
    assert "book/references.bib" in files
    assert "book/assignments/graded.md" not in files


def test_ids_change_only_where_a_cell_does(tmp_path):
    def ids(*cells: str) -> list[str]:
        path = tmp_path / "page.md"
        blocks = [f"```{{code-cell}} ipython3\n{cell}\n```\n\n" for cell in cells]
        path.write_text(HEADER + "".join(blocks))
        return [cell["id"] for cell in json.loads(notebook_text(path))["cells"]][1:]

    before, after = ids("a", "b", "a"), ids("a", "c", "a")
    assert len(set(before)) == 3
    assert (before[0], before[2]) == (after[0], after[2])
    assert before[1] != after[1]
    assert ids("a", "b", "a") == before


# ---- the reference page --------------------------------------------------------------------------


def test_the_reference_page_has_new_modules_and_escapes_free_hand_markup(tmp_path):
    (tmp_path / "companion").mkdir()
    source = '"""A module with `code` and a_b[0] < |c|.\n\n    1 + 1\n\nAnd so on.\n"""\n\n'
    (tmp_path / "companion" / "new.py").write_text(
        source + 'def f(x: int, *, y: float = 1.0) -> None:\n    """Do *it*."""\n'
    )
    text = api_page(tmp_path)
    assert "## `companion.new`" in text
    assert "f(x: int, *, y: float=1.0) -> None" in text
    assert prose("a_b < c") == r"a\_b \< c"
    assert "```text\n1 + 1\n```" in text
