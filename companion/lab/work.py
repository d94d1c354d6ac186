"""A long computation as a list of independent items, so that it can be cut anywhere and spread.

An item is a name and a call that returns tensors.  Its result is one file, written atomically: an item
whose file is there is done, whoever made it, and a kill at any moment costs at most the items in
progress.  Several processes, graphics cards or nodes take a part of the list each; what an item gives
does not depend on who runs it, so neither does the whole.

An item may *need* others: a measurement needs the decodes that it is made from.  It is done as soon as
they are, by whoever makes the last of them; once it is there they are needed no more, so the few bytes
of a measurement outlive, and can be carried about instead of, the many of its decodes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from companion import zoo
from companion.errors import CompanionError
from companion.lab.runs import clocks, since

TOOK = "took"  # the seconds that an item was worked on, in its own result


@dataclass(frozen=True)
class Item:
    """One piece of work; `seconds` is what it is thought to take, for plans and progress bars."""

    name: str
    run: Callable[[], dict[str, Tensor]]
    seconds: float
    needs: tuple[Item, ...] = ()  # they need nothing themselves

    def file(self, folder: Path) -> Path:
        """Return where its result is."""
        return folder / f"{self.name}.safetensors"

    def done(self, folder: Path) -> bool:
        """Return whether its result is there."""
        return self.file(folder).exists()

    def result(self, folder: Path) -> dict[str, Tensor]:
        """Return what it gave."""
        return {k: v for k, v in load_file(self.file(folder)).items() if k != TOOK}

    def took(self, folder: Path) -> float:
        """Return the seconds that it took."""
        return float(load_file(self.file(folder))[TOOK])


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return results of parts of a batch as those of the whole."""
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def part_of(items: Sequence[Item], part: tuple[int, int]) -> list[Item]:
    """Return part k of n of the list, every n-th item, so that parts are alike."""
    k, n = part
    if not 0 <= k < n:
        raise CompanionError(f"Part {k} of {n} does not exist: parts count from 0.")
    return list(items[k::n])


def undone(items: Sequence[Item], folder: Path) -> list[Item]:
    """Return the items without a result."""
    return [item for item in items if not item.done(folder)]


def first_of(items: Sequence[Item]) -> list[Item]:
    """Return the items that need nothing, each once, in the order in which they are needed."""
    return list({one.name: one for item in items for one in item.needs or (item,)}.values())


def wanted(items: Sequence[Item], folder: Path) -> set[str]:
    """Return the names of what is left to do; what only items that are done need is not."""
    late = undone(items, folder)
    return {one.name for item in late for one in (item, *undone(item.needs, folder))}


def work(items: Sequence[Item], folder: Path, part: tuple[int, int] = (0, 1)) -> None:
    """Do the items of a part that are not done, with a progress bar in seconds of estimated work."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # seconds are those of one core, and sums are made in the same order
    todo, late = wanted(items, folder), [item for item in items if item.needs]
    # Parts are of all that there is, so that who comes later takes the same part.
    first = [item for item in part_of(first_of(items), part) if item.name in todo]
    total = first + [item for item in part_of(late, part) if item.name in todo]
    with tqdm(total=round(sum(i.seconds for i in total)), unit="s", desc="items") as bar:

        def do(item: Item) -> None:
            bar.set_postfix_str(item.name)
            clock = clocks()
            result = item.run()
            store(result | {TOOK: torch.tensor([since(clock)])}, item.file(folder))
            bar.update(round(item.seconds))

        for item in first:
            do(item)
            for other in late:  # who finishes the last that it needs does it at once
                asked = any(item.name == need.name for need in other.needs)
                if asked and not undone(other.needs, folder) and not other.done(folder):
                    do(other)
        for other in undone(part_of(late, part), folder):  # where someone was stopped before he did
            if not undone(other.needs, folder):
                do(other)


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


def measurement(
    name: str, call: Callable[[], dict[str, Any]], seconds: float, needs: Sequence[Item]
) -> Item:
    """Return an item whose result is figures, not tensors: JSON, kept as bytes in its file."""

    def run() -> dict[str, Tensor]:
        data = json.dumps(call(), ensure_ascii=False).encode()
        return {"json": torch.frombuffer(bytearray(data), dtype=torch.uint8)}

    return Item(name, run, seconds, tuple(needs))


def unpacked(result: dict[str, Tensor]) -> dict[str, Any]:
    """Return the figures of a measurement."""
    return json.loads(result["json"].numpy().tobytes())


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
    every = {one.name: one for item in items for one in (*item.needs, item)}.values()
    todo = wanted(items, folder)
    lines = [
        f"{'todo' if i.name in todo else 'done'}  {i.seconds / 60:7.1f} min  {i.name}"
        for i in every
    ]
    hours = sum(i.seconds for i in every if i.name in todo) / 3600
    return "\n".join([*lines, f"{len(todo)} of {len(every)} items left, about {hours:.1f} hours"])
