"""`companion reproduce`: the results of part IV, from one command.

First decodes, then measurements, both as items that can be cut, resumed and spread
(`companion.lab.work`): what is decoded is in `methods`, `jobs` and `ablations`, what is measured in `rows`.
When all is there, `tables` puts it together and `claims` judges it, in seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from companion import zoo
from companion.errors import CompanionError
from companion.lab.claims import verdicts
from companion.lab.jobs import jobs
from companion.lab.measure import extractor
from companion.lab.rows import rows, unpacked
from companion.lab.runs import write_result
from companion.lab.scales import Scale, scale_of
from companion.lab.tables import tables
from companion.lab.work import Item, plan, undone, work

Stage = Literal["draw", "measure", "all"]


def drawing(scale: Scale) -> list[Item]:
    """Return the items that make decodes."""
    return [job.item() for job in jobs(scale)]


def reproduce(
    name: str,
    out: Path,
    part: tuple[int, int] = (0, 1),
    stage: Stage = "all",
    features: str | None = None,
) -> dict[str, Any] | None:
    """Do a part of the work; when all of it is there, write the results, and return them.

    `stage` draw or measure stops after a part of that, whatever others have done; without it, the
    part that finds all decodes done measures what is left, and writes the results.
    """
    scale, folder = scale_of(name, features), out / name
    extractor(scale.features)  # what is missing is said at once, not after hours
    todo = drawing(scale)
    if stage != "measure":
        work(todo, folder, part)
    if undone(todo, folder):
        if stage == "measure":
            raise CompanionError("There are decodes left to be made: run --stage draw first.")
        return None
    if stage == "draw":
        return None
    measures = rows(scale, folder)
    work(measures, folder, part if stage == "measure" else (0, 1))
    if stage == "measure" or undone(measures, folder):
        return None
    found = tables(scale, [unpacked(m.result(folder)) for m in measures])
    found["claims"] = verdicts(found) if scale.split == "test" else []  # val decides nothing
    path = result_file(name, out, features)
    write_result(path, **provenance(scale, features), **found)
    return json.loads(path.read_text())


def result_file(name: str, out: Path, features: str | None = None) -> Path:
    """Return where the results go."""
    return out / (f"{name}.json" if features is None else f"{name}-{features}.json")


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
        "absent": scale.absent(),
    }


def plan_of(name: str, out: Path) -> str:
    """Return the items of a scale, the hours left, and the models that are missing."""
    if name == "full":
        from companion.lab import full

        return full.plan()
    scale, folder = scale_of(name), out / name
    lines = [plan([*drawing(scale), *rows(scale, folder)], folder)]
    absent = scale.absent()
    lines += ["Left out, because models are missing:"] if absent else []
    lines += [f"  {method}: {', '.join(models)}" for method, models in absent.items()]
    return "\n".join(lines)
