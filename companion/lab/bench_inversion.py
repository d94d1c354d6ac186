"""`companion bench inversion`: every sampler on the same crops, realism and fidelity against time.

One codec at one rate, crops of 64×64, and for each trial (a sampler with its steps and options) the
pictures before and after projection: FID-P, KID-P, sliced Wasserstein, PSNR, how many lie in their
cells, the deviation of u = y(x̂) - μ - q, which in real pictures is known, and seconds a picture.
Choices are made on val crops with the *loss* features; the test crops are for the table.  Each trial's
pictures are kept in the runs folder, so that what was interrupted goes on, and are measured together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from companion import inversion, zoo
from companion.cell import LatentCells, to_8bit
from companion.codecs import learned
from companion.lab.bench_codecs import RESULT as CODECS_RESULT
from companion.lab.runs import runs_folder, write_result
from companion.metrics import embed, fid, kid, network, psnr, sliced_wasserstein
from companion.photos import Pictures, crops
from companion.priors import DiffusionPrior, diffusion_prior

RESULT = CODECS_RESULT.with_name("inversion.json")
CODEC = ("hyper", 1)
BATCH = 32
COUNT = {"val": 256, "test": 256}


@dataclass(frozen=True)
class Trial:
    """One row of the table: a sampler, its steps, its options."""

    name: str
    sampler: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    half: bool = True  # the prior in bfloat16

    @property
    def key(self) -> str:
        """Return a file name that says everything."""
        parts = [f"{k}{v}" for k, v in sorted(self.options.items())]
        return "-".join([self.sampler, str(self.steps), *parts, *([] if self.half else ["f32"])])


def grid(sampler: str, steps: tuple[int, ...], **options: Any) -> list[Trial]:
    """Return a trial for each number of steps."""
    said = ", ".join(f"{k} {v}" for k, v in options.items())
    return [Trial(f"{sampler} ({said})" if said else sampler, sampler, n, options) for n in steps]


# What is tried on val, to choose the presets and to be fair to the others.
SEARCH = [
    *grid("dps", (250,), zeta=0.1),
    *grid("dps", (250,), zeta=0.3),
    *grid("dps", (250,), zeta=0.6),
    *grid("dps", (250,), zeta=1.2),
    *grid("dsg", (50,), rate=0.1),
    *grid("proximal", (10, 20, 50), domain="picture"),
    *grid("proximal", (10, 20, 50), domain="latent"),
    *grid("proximal", (10, 20, 50), domain="cell", margin=0.25),
    *grid("proximal", (8, 16), domain="latent", start=1.0),
    *grid("soft", (10, 20)),
    *grid("soft", (8, 16, 32), drawn=False),
    *grid("soft", (8, 16, 32), drawn=False, order=2, calm=1.0),
    *grid("ours", (4, 8, 16, 32)),
    *grid("ours", (8, 16, 32), start=2.0),
    *grid("ours", (4, 8), start=0.5),
]


def draw(trial: Trial, prior: DiffusionPrior, cells: LatentCells) -> tuple[Tensor, float, int]:
    """Return 8-bit pictures, seconds a picture, and evaluations of the prior a picture."""
    if trial.sampler == "mse":
        return to_8bit(cells.decodes()), 0.0, 0
    prior.autocast = trial.half
    sampler: Callable[..., Any] = getattr(inversion, trial.sampler)
    parts, seconds, evaluations = [], 0.0, 0
    for start in tqdm(range(0, len(cells), BATCH), desc=f"{trial.name} × {trial.steps}"):
        some = cells[slice(start, start + BATCH)]
        seeds = list(range(start, start + len(some)))
        x, record = sampler(prior, some, steps=trial.steps, seeds=seeds, **trial.options)
        parts.append(to_8bit(x))
        seconds += record.seconds
        evaluations = record.evaluations
    return torch.cat(parts), seconds / len(cells), evaluations


def measure(
    trial: Trial, drawn: dict[str, Tensor], cells: LatentCells, real: Pictures, features: str
) -> dict[str, Any]:
    """Return a row: before projection, and after."""
    net, photo = network(features), real.photo.tolist()
    original = embed(net, real.pictures, photo)
    latents = cells.y_hat[0].numel()
    row: dict[str, Any] = {
        "name": trial.name,
        "sampler": trial.sampler,
        "steps": trial.steps,
        "options": trial.options,
        "evaluations": int(drawn["evaluations"]),
        "seconds": round(float(drawn["seconds"]), 4),
        "features": features,
    }
    for when in ("drawn", "projected"):
        x = drawn[when]
        fake = embed(net, x, photo)
        with torch.no_grad():
            u = (cells.analysis(x) - cells.centre)[:, :latents]
        row[when] = {
            "fid_p": fid(original, fake).as_dict(),
            "kid_p": kid(original, fake).as_dict(),
            "sliced_wasserstein": sliced_wasserstein(real.pictures, x, photo).as_dict(),
            "psnr": round(psnr(real.pictures, x).mean().item(), 3),
            "exact": round(drawn[f"{when} exact"].double().mean().item(), 4),
            "u_deviation": round(u.std().item(), 4),
            "u_beyond": round((u.abs() > 0.5).double().mean().item(), 5),
        }
    return row


def run(split: str = "val", trials: list[Trial] | None = None, features: str = "loss") -> None:
    """Draw what has not been drawn, measure everything, and store the table with its provenance.

    By default on val, where everything in `SEARCH` is tried; test crops see only what was chosen there.
    """
    trials = [Trial("MSE decode", "mse", 0), *(SEARCH if trials is None else trials)]
    real = crops(split, COUNT[split], size=64, seed=0)
    codec = learned(*CODEC)
    cells = codec.cells(codec.compress(real.pictures))
    prior = diffusion_prior()
    mark = f"{codec.fingerprint.hex()}-{zoo.card('prior')['sha256'][:8]}-{split}"
    folder = runs_folder() / "inversion" / mark
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for trial in trials:
        path = folder / f"{trial.key}.safetensors"
        if not path.exists():
            x, seconds, evaluations = draw(trial, prior, cells)
            home, exact = cells.project(x)
            kept = {
                "drawn": x,
                "projected": home,
                "drawn exact": cells.contains(x),
                "projected exact": exact,
                "seconds": torch.tensor(seconds),
                "evaluations": torch.tensor(evaluations),
            }
            save_file({k: v.contiguous() for k, v in kept.items()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        rows.append(measure(trial, load_file(path), cells, real, features))
        show(rows[-1])
    write_result(
        RESULT if split == "test" else folder / "table.json",
        "companion bench inversion",
        rows,
        weights=(codec.name, "prior", f"features-{features}"),
        pictures=f"{len(real.pictures)} {split} crops of 64×64",
        codec=codec.name,
        real={"u_deviation": real_deviation(cells, real)},
    )


def real_deviation(cells: LatentCells, real: Pictures) -> float:
    """Return the deviation of u in the originals: what a draw from the posterior must have."""
    with torch.no_grad():
        u = (cells.analysis(real.pictures) - cells.centre)[:, : cells.y_hat[0].numel()]
    return round(u.std().item(), 4)


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    after = row["projected"]
    print(
        f"{row['name']:44} {row['evaluations']:5} evaluations {1000 * row['seconds']:8.0f} ms  "
        f"FID-P {after['fid_p']['value']:6.2f}  KID-P {after['kid_p']['value']:8.4f}  "
        f"SW {after['sliced_wasserstein']['value']:6.2f}  {after['psnr']:6.2f} dB  "
        f"u {row['drawn']['u_deviation']:.3f}  exact {row['drawn']['exact']:.3f} → {after['exact']:.3f}"
    )
