"""`companion bench paces`: the seconds of a step of each competitor's training, on one machine in turns.

All competitors have the same hours on the same machine: this bench's.  Their trainings may run on any:
each gets the steps that those hours come to here, no more where a machine is quicker, and no fewer
where it is slower.
"""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from companion.errors import CompanionError
from companion.lab.decoders import NAMES
from companion.lab.runs import RESULTS, accelerated, clocks, since, write_result
from companion.lab.yardstick import Moment

RESULT = RESULTS / "paces.json"
ROUNDS = 16  # of one step of each shape


def run() -> None:
    """Time all of them, and store the table."""
    from companion.lab import train_decoder

    torch.set_num_threads(1)
    accelerator, midway = accelerated(), Moment(0.5, 1.0)
    entrants = []
    for name in NAMES:
        student = train_decoder.trainee(name)  # not begun: that it knows nothing takes no less time
        student.to(accelerator.device)
        entrants.append((name, student, train_decoder.Batches("train", 0, student.shapes)))
    took: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in tqdm(range(ROUNDS), desc="rounds"):
        for name, student, batches in entrants:
            clock = clocks()
            for _ in student.shapes:
                drawn = tuple(t.to(accelerator.device) for t in batches.draw(student.told))
                student.step(drawn, midway, accelerator)
            took[name].append(since(clock) / len(student.shapes))
    # Whatever else a machine does only makes it slower: the quickest of each counts.
    rows: list[dict[str, Any]] = [
        {"name": name, "seconds": round(min(every), 4), "median": round(median(every), 4)}
        for name, every in took.items()
    ]
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    write_result(RESULT, "companion bench paces", rows)


def pace(name: str) -> float:
    """Return the seconds of a step of a competitor's training on this bench's machine."""
    if not RESULT.exists():
        raise CompanionError(
            "How long steps take has not been measured: run `companion bench paces` first."
        )
    return {row["name"]: row["seconds"] for row in json.loads(RESULT.read_text())["rows"]}[name]
