"""`companion reproduce`: the results of part IV, from one command.

Measurements, and the decodes that they need, are items that can be cut, resumed and spread
(`companion.lab.work`): what is decoded is in `methods`, `jobs` and `ablations`, what is measured in
`rows`.  When all rows are there, `tables` puts them together and `claims` judges, in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from companion import zoo
from companion.errors import CompanionError
from companion.lab import bench_conditional, bench_critics, bench_inversion
from companion.lab.claims import verdicts
from companion.lab.measure import extractor, perceiver
from companion.lab.rows import rows
from companion.lab.runs import RESULTS, write_result
from companion.lab.scales import Scale, scale_of
from companion.lab.tables import tables
from companion.lab.work import plan, results_of, unpacked

RESULT = RESULTS / "laptop.json"  # where the book keeps them: `--out` its folder


def reproduce(
    name: str, out: Path, part: tuple[int, int] = (0, 1), features: str | None = None
) -> dict[str, Any] | None:
    """Do a part of the work; who finds all of it done writes the results, and returns them."""
    scale, folder = scale_of(name, features), out / name
    # What is missing is said now, not after hours.
    extractor(scale.features)
    perceiver(scale.features)
    every = rows(scale, folder)
    waiting = unsettled() if scale.split == "test" else {}  # val may be looked at
    now = [row for row in every if not any(f"-{key}-" in row.name for key in waiting)]
    if len(now) < len(every):
        now.pop()  # the clock, for which all are run
    results = results_of(now, folder, part)
    if len(now) < len(every):
        reasons = "\n".join(waiting.values())
        raise CompanionError(f"What is settled is done or being done.  The rest waits:\n{reasons}")
    if results is None:
        return None
    rows_made = [unpacked(r) for r in results.values()]
    found = tables(scale, rows_made)
    found["claims"] = verdicts(found) if scale.split == "test" else []  # val decides nothing
    path = result_file(name, out, features)
    write_result(path, **provenance(scale, features), **made(rows_made), **found)
    return json.loads(path.read_text())


def unsettled() -> dict[str, str]:
    """Return the methods whose settings val has not decided, or not as they are, and why.

    None of them sees a test picture before.
    """
    checks: dict[str, Callable[[], None]] = {
        "dps-100-on-hyper": partial(bench_inversion.check, *bench_inversion.stages()[-1]),
        "diffusion-on-hyper": bench_conditional.check,
        **{name: partial(bench_critics.check_weights, name) for name in bench_critics.GRIDS},
    }
    found = {}
    for key, check in checks.items():
        try:
            check()
        except CompanionError as error:
            found[key] = str(error)
    return found


def result_file(name: str, out: Path, features: str | None = None) -> Path:
    """Return where the results go."""
    return out / (f"{name}.json" if features is None else f"{name}-{features}.json")


def made(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return where and by which commits rows were measured, and the hours that their decodes took."""
    by = [row["made"] for row in rows]
    return {
        "rows_by": sorted({f"{m['commit']} on {m['hardware']}" for m in by}),
        # A dial's decodes are those of other rows.
        "hours_of_decoding": round(
            sum(
                m["hours_of_decoding"]
                for m, r in zip(by, rows, strict=True)
                if r["table"] != "dial"
            ),
            2,
        ),
    }


def provenance(scale: Scale, features: str | None) -> dict[str, Any]:
    """Return what was run, on what, with which weights."""
    flag = "" if features is None else f" --features {features}"
    every = [*scale.present(), *scale.present_ablations()]
    used = {model for m in every for rate in m.rates for model in m.models(rate)}
    used |= {f"features-{scale.features}"} & set(zoo.names())
    return {
        "command": f"companion reproduce --scale {scale.name}{flag}",
        "weights": sorted(used),
        "pictures": f"{scale.pictures} {scale.split} pictures of {scale.side}×{scale.side}",
        "crops": f"{scale.crops} {scale.split} crops of 64×64, {scale.draws} draws each",
        "protocol": "realism on 64×64 patches, reference: the originals of the same patches",
        "features": scale.features,
        "seeds": "by the bytes; of crops by the numbers of crop and draw; a new one each generation",
        "absent": scale.absent(),
    }


def plan_of(name: str, out: Path, features: str | None = None) -> str:
    """Return the items of a scale, the hours left, and the models that are missing."""
    if name == "full":
        from companion.lab import full

        return full.plan()
    scale, folder = scale_of(name, features), out / name
    lines = [plan(rows(scale, folder), folder)]
    absent = scale.absent()
    lines += ["Left out, because models are missing:"] if absent else []
    lines += [f"  {method}: {', '.join(models)}" for method, models in absent.items()]
    return "\n".join(lines)
