"""From files to files: what a command reads and writes, for one file or a whole folder.

Nothing that is read is written over, nothing is written twice, and one bad file of a folder does not
stop the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from companion.errors import CompanionError


def pairs(
    source: Path,
    target: Path,
    kinds: tuple[str, ...],
    kind: str,
    endings: tuple[str, ...] = ("",),
) -> list[tuple[Path, Path]]:
    """Return (from, to) for one file, or for every file of a folder that has one of the kinds.

    What is written for `to` has its name with these endings.  No file may be written twice, nor over
    a file that is read; into a folder that it reads from, a command writes new files only.
    """
    if not source.exists():
        raise CompanionError(f"{source} does not exist.")
    if source.is_file():
        path = target / (source.stem + kind) if target.is_dir() else target
        if kind and path.suffix.lower() != kind:
            raise CompanionError(
                f"What is written is a {kind} file: name {path} so, or name a folder that exists."
            )
        if not path.parent.is_dir():
            raise CompanionError(f"{path} cannot be written: there is no folder {path.parent}.")
        beside = target.is_dir() and target.samefile(source.parent)
        for out in outputs(path, endings) if kind else ():
            if out.exists() and out.samefile(source):
                raise CompanionError(f"{source} would be written over: choose another target.")
            if out.exists() and beside:
                raise CompanionError(f"{out} is there already: name the target, or another folder.")
        return [(source, path)]
    found = sorted(p for p in source.iterdir() if is_one_of(p, kinds))
    if not found:
        raise CompanionError(f"The folder {source} holds no file ending in {', '.join(kinds)}.")
    todo = [(p, target / (p.stem + kind)) for p in found]
    if kind:
        in_place = target.exists() and target.samefile(source)
        made: dict[Path, Path] = {}
        for path, out in ((p, o) for p, to in todo for o in outputs(to, endings)):
            if (first := made.setdefault(out, path)) is not path:
                raise CompanionError(
                    f"{first.name} and {path.name} in {source} would both become {out.name}: "
                    "rename one of them."
                )
            if in_place and out.exists():
                raise CompanionError(f"{out} is there already: write into another folder.")
    target.mkdir(parents=True, exist_ok=True)
    return todo


def is_one_of(path: Path, kinds: tuple[str, ...]) -> bool:
    """Return whether a path is a file, not a hidden one, that ends in one of the kinds."""
    return path.suffix.lower() in kinds and not path.name.startswith(".") and path.is_file()


def outputs(target: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return what is written for a target: NAME-0.png, …"""
    return [target.with_stem(target.stem + ending) for ending in endings]


def each(todo: list[tuple[Path, Path]], what: str, do: Callable[[Path, Path], None]) -> int:
    """Do every file of a folder, also where one of them cannot be done; return the exit status."""
    from tqdm import tqdm

    wrong = 0
    for pair in tqdm(todo, desc=what, unit="file", disable=len(todo) == 1):
        try:
            do(*pair)
        except (CompanionError, OSError) as problem:
            if len(todo) == 1:
                raise
            print(f"companion: {problem}", file=sys.stderr)
            wrong += 1
    if wrong:
        print(
            f"companion: {wrong} of {len(todo)} files could not be done, as said above; the others are.",
            file=sys.stderr,
        )
    return 2 if wrong else 0
