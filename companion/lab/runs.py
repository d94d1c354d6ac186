"""What every training has in common: a folder, checkpoints that survive a kill, a curve, a card.

A run lives in `$COMPANION_RUNS/NAME` (by default in the user's cache folder): `state.safetensors`
holds the weights in float32, `run.json` the step, the seconds spent and the learning curve.  Both are
written atomically.  Optimiser moments are not kept: after a resume they are rebuilt in a few dozen
steps under a short warm-up, which keeps a run resumable from its weights alone.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from companion import zoo
from companion.priors.diffusion import bfloat16_is_fast

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULTS = zoo.FOLDER.parent / "results"  # what benches store, and chapters draw


def runs_folder() -> Path:
    """Return where trainings keep their checkpoints."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "companion" / "runs"
    return Path(os.environ.get("COMPANION_RUNS", default))


def hardware() -> str:
    """Return the device that a training runs on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    can = torch.backends.cpu.get_cpu_capability()  # such as AVX2
    bits = "16" if bfloat16_is_fast() else "32"
    return f"{model} ({can}, {bits} bits), {torch.get_num_threads()} thread(s) of {os.cpu_count()}"


def accelerated() -> Accelerator:
    """Return what runs a training, in bfloat16 on graphics cards and processors that are made for it.

    Others compute each product in 32 bits and round it: twelve times slower.
    """
    from accelerate import Accelerator

    fast = torch.cuda.is_available() or bfloat16_is_fast()
    return Accelerator(mixed_precision="bf16" if fast else "no")


def commit() -> str:
    """Return the commit of the work tree, or 'unknown' outside one."""
    here = Path(__file__).parent
    answer = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True
    )
    return answer.stdout.strip() or "unknown"


def clocks() -> tuple[float, float]:
    """Return the seconds of the wall clock and those that this process has computed."""
    return time.monotonic(), time.process_time()


def since(earlier: tuple[float, float]) -> float:
    """Return the seconds since then in which this process was at work.

    One that was stopped for a while, or had no processor, was not.
    """
    return min(late - early for late, early in zip(clocks(), earlier, strict=True))


@dataclass
class Run:
    """One training: its name, how far it is, and its learning curve."""

    name: str
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    _since: tuple[float, float] = field(default_factory=clocks)

    @property
    def folder(self) -> Path:
        """Return the folder of the checkpoints."""
        return runs_folder() / self.name

    def restore(self) -> dict[str, Tensor] | None:
        """Read the last checkpoint, if there is one; return its tensors."""
        from safetensors.torch import load_file

        if not (self.folder / "run.json").exists():
            return None
        known = json.loads((self.folder / "run.json").read_text())
        self.step, self.seconds, self.curve = known["step"], known["seconds"], known["curve"]
        return load_file(self.folder / "state.safetensors")

    def save(self, tensors: dict[str, Tensor], seconds: float | None = None) -> None:
        """Write a checkpoint: first the weights, then the step that says they are there.

        `seconds` is the time of training so far, where not all the time since the start counts.
        """
        from safetensors.torch import save_file

        self.seconds = self.seconds + since(self._since) if seconds is None else seconds
        self._since = clocks()
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(kept, self.folder / "state.tmp")
        os.replace(self.folder / "state.tmp", self.folder / "state.safetensors")
        known = {"step": self.step, "seconds": round(self.seconds, 1), "curve": self.curve}
        (self.folder / "run.tmp").write_text(json.dumps(known))
        os.replace(self.folder / "run.tmp", self.folder / "run.json")

    def card(self, **facts: Any) -> dict[str, Any]:
        """Return what a model's card says of its training."""
        return {
            **facts,
            "steps": self.step,
            "hours": round(self.seconds / 3600, 3),
            "hardware": hardware(),
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "torch": torch.__version__,
            "curve": self.curve,
        }


def write_result(
    path: Path, command: str, rows: Any, *, weights: Iterable[str] = (), **facts: Any
) -> None:
    """Write what was measured, and where it comes from; `weights` names the models it stands on."""
    result = {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        **facts,
        "weights": {name: zoo.card(name)["sha256"] for name in weights},
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(in_lines(result))
    os.replace(partial, path)


def in_lines(result: dict[str, Any]) -> str:
    """Return JSON with a line for each entry and each row of a table: small, and its changes readable."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def entry(value: Any) -> str:
        if not isinstance(value, list) or not value:
            return text(value)
        return "[\n  " + ",\n  ".join(map(text, value)) + "\n ]"

    return "{\n" + ",\n".join(f" {text(k)}: {entry(v)}" for k, v in result.items()) + "\n}\n"


def cosine(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Return the learning rate at a step: linear warm-up, then a cosine down to floor · peak."""
    import math

    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
