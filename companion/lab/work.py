"""A long computation as a list of independent items, so that it can be cut anywhere and spread.

An item is a name and a call that returns tensors.  Its result is one file, written atomically: an item
whose file is there is done, whoever made it, and a kill at any moment costs at most the items in
progress.  Several processes, graphics cards or nodes take a part of the list each; what an item gives
does not depend on who runs it, so neither does the whole.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from companion import zoo
from companion.errors import CompanionError


@dataclass(frozen=True)
class Item:
    """One piece of work; `seconds` is what it is thought to take, for plans and progress bars."""

    name: str
    run: Callable[[], dict[str, Tensor]]
    seconds: float

    def file(self, folder: Path) -> Path:
        """Return where its result is."""
        return folder / f"{self.name}.safetensors"

    def result(self, folder: Path) -> dict[str, Tensor]:
        """Return what it gave."""
        return load_file(self.file(folder))


def part_of(items: Sequence[Item], part: tuple[int, int]) -> list[Item]:
    """Return part k of n of the list, every n-th item, so that parts are alike."""
    k, n = part
    if not 0 <= k < n:
        raise CompanionError(f"Part {k} of {n} does not exist: parts count from 0.")
    return list(items[k::n])


def undone(items: Sequence[Item], folder: Path) -> list[Item]:
    """Return the items without a result."""
    return [item for item in items if not item.file(folder).exists()]


def work(items: Sequence[Item], folder: Path, part: tuple[int, int] = (0, 1)) -> None:
    """Do the items of a part that are not done, with a progress bar in seconds of estimated work."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = undone(part_of(items, part), folder)
    with tqdm(total=round(sum(i.seconds for i in todo)), unit="s", desc="items") as bar:
        for item in todo:
            bar.set_postfix_str(item.name)
            store(item.run(), item.file(folder))
            bar.update(round(item.seconds))


def results_of(
    items: Sequence[Item], folder: Path, part: tuple[int, int] = (0, 1)
) -> dict[str, dict[str, Tensor]] | None:
    """Do a part of the items; return the results of all by name, or None while some are left."""
    work(items, folder, part)
    if left := undone(items, folder):
        print(f"This part is done; others have {len(left)} of {len(items)} items yet to finish.")
        return None
    return {item.name: item.result(folder) for item in items}


def mark(models: Iterable[str], *settings: object) -> str:
    """Return eight digits that change with the weights of the models, and with the settings."""
    told = [*(zoo.card(name)["sha256"] for name in models), *map(str, settings)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def recipe(call: partial[Any]) -> str:
    """Return what a sampler is called and told, for marks."""
    return f"{call.func.__name__} {sorted(call.keywords.items())}"


def store(result: dict[str, Tensor], path: Path) -> None:
    """Write tensors so that the file is there whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({k: v.contiguous() for k, v in result.items()}, partial)
    os.replace(partial, path)


def spread(command: Sequence[str], processes: int) -> None:
    """Run `command --part k/n` in n processes at once; fail when one of them does, with its reason."""
    started = [
        subprocess.Popen([*command, "--part", f"{k}/{processes}"], stdout=sys.stderr)
        for k in range(processes)
    ]
    try:
        while any(p.poll() is None for p in started):
            time.sleep(0.2)
    finally:
        for p in started:
            if p.poll() is None:
                p.terminate()
    failed = [k for k, p in enumerate(started) if p.returncode]
    if failed:
        raise CompanionError(
            f"Of {processes} processes, number {', '.join(map(str, failed))} failed; the reason is "
            "above. What was finished is kept: run the same command again."
        )


def plan(items: Sequence[Item], folder: Path) -> str:
    """Return the list of items, which of them are done, and the hours that are left."""
    left = {item.name for item in undone(items, folder)}
    lines = [
        f"{'todo' if i.name in left else 'done'}  {i.seconds / 60:7.1f} min  {i.name}"
        for i in items
    ]
    hours = sum(i.seconds for i in items if i.name in left) / 3600
    return "\n".join([*lines, f"{len(left)} of {len(items)} items left, about {hours:.1f} hours"])
