"""`companion reproduce --scale full`: the paper's own experiment, as a list of what it would take.

Four sets of 256×256 pictures, the paper's priors, codecs and rates, the published competitors, the
standard Inception.  None of these files is shipped or fetched; the plan names those that are not in the
folder of the standard weights (`$COMPANION_STANDARD`).  The items are real work lists with honest
estimates; running them comes with those files, and until then says so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from companion.errors import WeightsError
from companion.lab.work import Item
from companion.metrics.standard import folder

# What is needed, by its name in the folder of the standard weights.
FILES = {
    "inception.safetensors": "the Inception of 2015-12-05, see companion.lab.standard",
    "adm-ffhq-256": "ADM trained on FFHQ, 256×256, as a diffusers pipeline (ffhq_10m.pt)",
    "adm-imagenet-256": "ADM trained on ImageNet, 256×256, as a diffusers pipeline",
    **{
        f"bmshj2018-hyperprior-mse-{q}.safetensors": f"CompressAI's Hyper, MSE, quality {q}"
        for q in range(1, 7)
    },
    **{
        f"elic-{weight}.safetensors": f"ELIC, N = 192, M = 320, λ = {weight}"
        for weight in ("0.008", "0.016", "0.032", "0.15", "0.45")
    },
    "hific.safetensors": "HiFiC at its three rates",
    "ms-illm.safetensors": "MS-ILLM at the rates compared",
    "cdc.safetensors": "CDC at the rates compared",
    "pictures/ffhq": "the first 1,000 pictures of FFHQ",
    "pictures/imagenet": "the first 1,000 of the validation set of ImageNet-2012",
    "pictures/coco": "the first 1,000 of the validation set of COCO-2014",
    "pictures/clic": "CLIC 2020 test, professional and mobile, 428 pictures",
}
PICTURES = {"ffhq": 1000, "imagenet": 1000, "coco": 1000, "clic": 428}
RATES = {"hyper": 6, "elic": 5}
SHARD = 50
GPU_SECONDS = {"mse": 0.2, "ours-dps-1000": 60.0, "ours-fast": 1.0}  # a picture, on one GPU
PUBLISHED = {"hific": 3, "ms-illm": 3, "cdc": 3}  # rates


def missing(where: Path | None = None) -> dict[str, str]:
    """Return the files that are not there, and what each is."""
    home = folder() if where is None else where
    return {name: what for name, what in FILES.items() if not (home / name).exists()}


def items() -> list[Item]:
    """Return the whole list: method × codec × rate × shard of pictures."""
    methods = [
        (m, c, r, s) for m, s in GPU_SECONDS.items() for c, n in RATES.items() for r in range(n)
    ]
    methods += [(name, name, r, 1.0) for name, n in PUBLISHED.items() for r in range(n)]
    found = []
    for data, count in PICTURES.items():
        for method, codec, rate, seconds in methods:
            for start in range(0, count, SHARD):
                name = f"{data}-{method}-on-{codec}-{rate}-{start:04}"
                size = min(SHARD, count - start)
                found.append(Item(name, partial(refuse, name), seconds * size))
    return found


def refuse(name: str) -> dict[str, Tensor]:
    """Say why an item of the full scale is not run here."""
    gone = list(missing())
    words = (
        f"its files are not in {folder()}: {', '.join(gone)}"
        if gone
        else ("the conversion of these weights comes with the full-scale work")
    )
    raise WeightsError(f"The item {name} cannot be run: {words}.")


def plan(where: Path | None = None) -> str:
    """Return the list by method, with its GPU hours, and the files that are missing."""
    todo = items()
    groups: dict[str, list[Item]] = {}
    for item in todo:
        groups.setdefault("-".join(item.name.split("-")[:-1]), []).append(item)
    lines = [
        f"todo  {sum(i.seconds for i in some) / 3600:7.2f} GPU hours  {len(some):3} items  {name}"
        for name, some in groups.items()
    ]
    hours = sum(i.seconds for i in todo) / 3600
    lines.append(f"{len(todo):,} items, about {hours:,.0f} hours of one GPU")
    gone = missing(where)
    home = folder() if where is None else where
    lines += [f"Missing in {home}:"] if gone else ["No file is missing."]
    return "\n".join([*lines, *(f"  {name}: {what}" for name, what in gone.items())])
