"""Build the book: notebooks from Markdown, then the HTML site from their executed copies.

    python tools/book.py notebooks    # every chapter's .md -> the .ipynb beside it
    python tools/book.py build        # executed copies + pages -> _build/html

Executing is the business of `tests/test_notebooks.py`, through `tools/execution.py`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.api import api_page  # noqa: E402
from tools.credits import credits_table  # noqa: E402
from tools.execution import Book, environment, fresh_copy  # noqa: E402


def notebook_text(markdown: Path) -> str:
    """Return the .ipynb of a chapter: no outputs, and ids that change only where a cell does."""
    import jupytext
    import nbformat

    nb = jupytext.reads(markdown.read_text(), fmt="md:myst")
    seen: Counter[str] = Counter()
    for cell in nb.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        cell["id"] = f"{digest}-{seen[digest]}"
        seen[digest] += 1
    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata = {
        "jupytext": {"formats": "ipynb,md:myst"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nb = nbformat.from_dict(nb)
    nbformat.validate(nb)
    return nbformat.writes(nb) + "\n"


def write_notebooks(book: Book) -> None:
    """Write every chapter's .ipynb that is not as its .md says."""
    for notebook in book.chapters():
        text = notebook_text(notebook.with_suffix(".md"))
        if not notebook.exists() or notebook.read_text() != text:
            notebook.write_text(text)
            print(f"wrote {notebook.relative_to(book.root)}")


def site_files(book: Book) -> dict[str, str | Path]:
    """Return what the site is built from: path in the site's source -> file, or text."""
    chapters, graded = book.chapters(), book.root / "book" / "assignments"  # no pages of the site
    files: dict[str, str | Path] = {n: book.root / n for n in ("_config.yml", "_toc.yml")}
    for path in sorted((book.root / "book").rglob("*")):
        if (
            path.is_file()
            and not path.is_relative_to(graded)
            and path.suffix != ".ipynb"
            and path.with_suffix(".ipynb") not in chapters
        ):
            files[path.relative_to(book.root).as_posix()] = path
    for notebook in chapters:
        if fresh_copy(book, notebook) is None:
            raise SystemExit(
                f"{notebook.relative_to(book.root)} has not been executed as it now is: `make book`"
                " executes what has changed, then builds."
            )
        files[notebook.relative_to(book.root).as_posix()] = book.executed(notebook)
    for name, rest in (("api", api_page), ("credits", credits_table)):
        page = book.root / "book" / f"{name}.md"
        if page.exists():
            files[f"book/{name}.md"] = page.read_text() + "\n" + rest(book.root)
    return files


def site_key(book: Book) -> str:
    """Return a hash of all that the site is built from; the built site carries its own."""
    lines = [environment(), Path(__file__).read_text()]
    for name, content in sorted(site_files(book).items()):
        data = content.encode() if isinstance(content, str) else content.read_bytes()
        lines.append(f"{name} {hashlib.sha256(data).hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def build(book: Book) -> Path:
    """Build the HTML, every warning an error, from scratch or not at all; return its folder."""
    source, html = book.build / "site-src", book.build / "html"
    earlier = (html / ".key").read_text() if (html / ".key").exists() else None
    try:
        files, made_of = site_files(book), site_key(book)
    except SystemExit:
        shutil.rmtree(html, ignore_errors=True)  # its outputs are not those of the chapters
        raise
    if made_of == earlier:
        return html  # this very site has been built without a warning
    shutil.rmtree(source, ignore_errors=True)  # with its doctrees: they hide earlier warnings
    shutil.rmtree(html, ignore_errors=True)
    for name, content in files.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            target.write_text(content)
        else:
            shutil.copyfile(content, target)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["build", str(source), "--all", "-W", "-n", "--keep-going"]
    with subprocess.Popen(
        [*jupyter_book, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        for line in run.stdout or ():
            if "HTML pages are in" in line:  # what follows names a folder that is about to move
                break
            print(re.sub(r"\x1b\[[\d;]*m", "", line), end="", flush=True)
        run.communicate()
    if run.returncode != 0:
        raise SystemExit("The book was not built: the warnings and errors above say why.")
    shutil.move(source / "_build" / "html", html)
    (html / ".key").write_text(made_of)
    return html


if __name__ == "__main__":
    task = sys.argv[1] if len(sys.argv) > 1 else ""
    if task == "notebooks":
        write_notebooks(Book())
    elif task == "build":
        print(f"\nThe book is built. Open {build(Book()) / 'index.html'}")
    else:
        raise SystemExit(__doc__)
