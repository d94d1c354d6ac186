"""Execute chapters once, with nbmake, and know when an executed copy is stale.

The tests of the notebooks, the tests of the exercises and the site share the executed copies under
`_build/executed`.  A copy carries a key made of everything that its outputs depend on, the code of
the package included, and is used only while that key is right.
"""

from __future__ import annotations

import ast
import fcntl
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 300  # seconds
KERNEL = {  # what every chapter runs with, whoever starts it
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
SLOW = 60  # seconds of processor time: a chapter that takes more is reported


@dataclass(frozen=True)
class Book:
    """Where one book lies, and where what is made of it goes."""

    root: Path = ROOT

    @property
    def build(self) -> Path:
        """The folder of all products, never committed."""
        return self.root / "_build"

    def chapters(self) -> list[Path]:
        """Return the chapters: Markdown files that jupytext reads as notebooks."""
        pages = sorted((self.root / "book").rglob("*.md"))
        return [p.with_suffix(".ipynb") for p in pages if "jupytext:" in p.read_text()[:400]]

    def executed(self, notebook: Path) -> Path:
        """Return where the executed copy of a notebook belongs."""
        return self.build / "executed" / notebook.relative_to(self.root)


# ---- what the outputs of a notebook depend on ----------------------------------------------------


def imports(source: str, package: str = "") -> Iterator[str]:
    """Yield the dotted names that Python code imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def closure(source: str, root: Path) -> set[Path]:
    """Return the files of `companion` that code imports, directly or through one another."""
    found: set[Path] = set()
    names = [name for name in imports(source)]
    while names:
        parts = names.pop().split(".")
        for depth in range(1, len(parts) + 1):
            base = root.joinpath(*parts[:depth])
            is_package = (base / "__init__.py").exists()
            file = base / "__init__.py" if is_package else base.with_suffix(".py")
            if parts[0] == "companion" and file.exists() and file not in found:
                found.add(file)
                dotted = parts[:depth] if is_package else parts[: depth - 1]
                names += imports(file.read_text(), ".".join(dotted))
    return found


def code(notebook: Path) -> str:
    """Return a notebook's code, without the lines that only IPython understands."""
    cells = json.loads(notebook.read_text())["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return "\n".join(line for line in source.splitlines() if not re.match(r"\s*[%!]", line))


@functools.cache
def _sha256(file: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest(file: Path) -> str:
    """Return a file's sha256, read again only when the file has changed."""
    stat = file.stat()
    return _sha256(file, stat.st_mtime_ns, stat.st_size)


@functools.cache
def environment() -> str:
    """Return the interpreter and the installed version of everything in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = {line.split("==")[0] for line in lines if not line.startswith("#")}
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return "\n".join([sys.version, *(f"{n}=={installed.get(n)}" for n in sorted(names))])


def key(notebook: Path, root: Path = ROOT) -> str:
    """Return a hash of all that a notebook's outputs depend on."""
    data = {p for p in (root / "companion").rglob("*") if p.is_file() and p.suffix != ".py"}
    data = {p for p in data if "__pycache__" not in p.parts}
    constraints = root / "constraints.txt"
    files = sorted({notebook, *closure(code(notebook), root), *data, *{constraints}})
    lines = [f"{p.relative_to(root)} {digest(p)}" for p in files if p.exists()]
    return hashlib.sha256("\n".join([environment(), *lines]).encode()).hexdigest()


# ---- execution -----------------------------------------------------------------------------------


class NotebookFailed(Exception):
    """A cell of a notebook failed; the message shows the cell and the traceback."""


def cpu_seconds() -> float:
    """Return the processor time of the kernels that have ended: it does not count waiting."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def hush(nb: Any) -> list[str]:
    """Take what went to stderr (progress bars, other packages' notices) out; return our warnings."""
    ours = []
    for cell in nb.cells:
        errors = [o for o in cell.get("outputs", []) if o.get("name") == "stderr"]
        for output in errors:
            cell.outputs.remove(output)
            lines = re.findall(r".*(?:Warning|Error|Traceback).*", output.text)
            ours += [line for line in lines if "site-packages" not in line]
    return ours


def fresh_copy(book: Book, notebook: Path) -> dict[str, Any] | None:
    """Return the executed copy of a notebook, or None where there is none or it is stale."""
    target = book.executed(notebook)
    if not target.exists():
        return None
    nb: dict[str, Any] = json.loads(target.read_text())
    return (
        nb if nb["metadata"].get("companion", {}).get("key") == key(notebook, book.root) else None
    )


def execute(
    book: Book, notebook: Path, *, again: bool = False, retry: bool = True
) -> tuple[dict[str, Any], str]:
    """Return the executed copy of a notebook and how it came to be, running it where needed.

    `again` runs it even if nothing has changed; without `retry`, what failed is not tried again.
    """
    import nbformat
    from nbmake.nb_run import NotebookRun

    target = book.executed(notebook)
    failed = book.build / "failed" / target.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers, or two makes, run it once
        if not again and (nb := fresh_copy(book, notebook)):
            return nb, f"unchanged, {nb['metadata']['companion']['cpu']:.0f} s when executed"
        target.unlink(missing_ok=True)  # whatever happens now, no stale output stays
        made_of = key(notebook, book.root)
        if not retry and failed.exists() and made_of in failed.read_text():
            raise NotebookFailed(f"{notebook.name} fails when it is executed; see {failed}.")
        start, start_cpu = time.perf_counter(), cpu_seconds()
        shutil.copyfile(notebook, target)
        try:
            with unittest.mock.patch.dict(os.environ, KERNEL):
                result = NotebookRun(target, CELL_TIMEOUT).execute()
        finally:
            target.unlink(missing_ok=True)
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - start_cpu
        if result.error is not None:
            failed.parent.mkdir(exist_ok=True)
            result.nb.metadata["companion"] = {"key": made_of}
            nbformat.write(result.nb, failed)
            raise NotebookFailed(
                f"{notebook.relative_to(book.root)}: cell {result.error.failing_cell_index}\n"
                f"{result.error.trace}\nIts outputs so far are in {failed}."
            )
        failed.unlink(missing_ok=True)
        spent = {"seconds": round(seconds, 1), "cpu": round(cpu, 1)}
        result.nb.metadata["companion"] = {"key": made_of, **spent, "warnings": hush(result.nb)}
        partial = target.with_suffix(".partial")
        nbformat.write(result.nb, partial)
        os.replace(partial, target)
        return json.loads(
            target.read_text()
        ), f"executed in {cpu:.0f} s, {seconds:.0f} s by the clock"
