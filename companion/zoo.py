"""Weights: what is shipped, whether it is intact, and what its card says.

A model is two files in `companion/data/weights`: `NAME.safetensors` in half precision, or the competitors
and the GAN, to keep the tree small, in 8-bit steps, a step for each output channel (of a competitor with
an encoder of its own, the decoder alone: bytes should not pay for it); and the card
`NAME.json` with its architecture, the command that made it, data, seed, steps, hardware, time,
learning curve, metrics and the sha256 of the weights; beside the card of a model that draws pictures
lies a sheet of them, `NAME.png`.  The diffusion prior is a folder instead, which diffusers opens
unchanged.  Nothing is ever unpickled, and no weights are used whose checksum differs from their card's.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from companion.errors import WeightsError

FOLDER = Path(__file__).parent / "data" / "weights"
STEP = ".step"  # what the name of a tensor's steps ends in
ALL = ""  # what the names of all tensors begin with
Net = TypeVar("Net", bound=nn.Module)
NETWORK = Path("unet", "diffusion_pytorch_model.safetensors")  # inside a diffusers pipeline


def names() -> list[str]:
    """Return the names of the shipped models, sorted."""
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def card(name: str) -> dict[str, Any]:
    """Return a model's card."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = ", ".join(names()) or "none yet"
        raise WeightsError(f"There is no model called {name!r} here. The zoo has: {known}.")
    return json.loads(path.read_text())


def load(name: str) -> dict[str, Tensor]:
    """Return a shipped model's tensors in float32, after checking the file against its card."""
    from safetensors.torch import load_file

    expected = card(name)["sha256"]
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise WeightsError(f"The weights {path} are missing although their card is there.")
    if sha256(path) != expected:
        raise WeightsError(
            f"The weights {path} are not the ones their card describes (sha256 differs). "
            "Restore the file from the repository."
        )
    return as_float32(stepped(load_file(path)))


def folder(name: str) -> Path:
    """Return the folder of a shipped diffusers pipeline, after checking its weights."""
    path = FOLDER / name
    if not (path / NETWORK).exists() or sha256(path / NETWORK) != card(name)["sha256"]:
        raise WeightsError(
            f"The pipeline in {path} is missing, or not the one its card describes (sha256 differs). "
            "Restore the folder from the repository."
        )
    return path


def as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with every half-precision one widened to float32."""
    half = (torch.float16, torch.bfloat16)
    return {k: v.float() if v.dtype in half else v for k, v in tensors.items()}


def in_steps(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights [C, …] of more than one dimension as int8, beside them `NAME.step` [C, 1, …]."""
    found = {}
    for name, value in tensors.items():
        found[name] = value
        if value.is_floating_point() and value.ndim > 1:
            step = value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True) / 127
            step = step.clamp(min=1e-7).half()  # rounded before it is used
            found[name] = torch.round(value / step.float()).clamp(-127, 127).to(torch.int8)
            found[f"{name}{STEP}"] = step
    return found


def stepped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `in_steps`, but for what was rounded; tensors without steps stay as they are."""
    return {
        k: v.float() * tensors[f"{k}{STEP}"].float() if f"{k}{STEP}" in tensors else v
        for k, v in tensors.items()
        if not k.endswith(STEP)
    }


def as_shipped(network: Net, small: str = ALL) -> Net:
    """Return a copy of a network as `load` gives it back after `ship(…, small=small)`.

    What a card tells is measured with it, not with the weights before they were rounded.
    """
    copied = copy.deepcopy(network)
    kept = narrow({k: v.detach().cpu() for k, v in network.state_dict().items()}, small)
    copied.load_state_dict(as_float32(stepped(kept)))
    return copied


def narrow(tensors: dict[str, Tensor], small: str | None) -> dict[str, Tensor]:
    """Return tensors as they are stored: float16, those whose names begin with `small` in 8-bit steps."""
    coarse = [k for k in tensors if small is not None and k.startswith(small)]
    stored = tensors | in_steps({k: tensors[k] for k in coarse})
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in stored.items()}


def ship(
    name: str,
    tensors: dict[str, Tensor],
    description: dict[str, Any],
    samples: Tensor | None = None,
    *,
    small: str | None = None,
) -> None:
    """Write a model into the zoo: its weights, its card, and the sheet of its samples.

    Weights are float16, those whose names begin with `small` in 8-bit steps (`ALL`: every one).
    """
    from safetensors.torch import save_file

    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = narrow({k: v.detach().cpu() for k, v in tensors.items()}, small)
    too_large = [k for k, v in kept.items() if v.is_floating_point() and not v.isfinite().all()]
    if too_large:
        raise WeightsError(f"These tensors of {name!r} do not fit half precision: {too_large}.")
    path = FOLDER / f"{name}.safetensors"
    save_file(kept, path)
    write_card(name, path, description, samples)


def ship_pipeline(
    name: str, pipeline: Any, description: dict[str, Any], samples: Tensor | None = None
) -> None:
    """Write a diffusers pipeline into the zoo, its network in float16, its card, and the sheet."""
    pipeline.unet.half()
    pipeline.save_pretrained(str(FOLDER / name), safe_serialization=True)
    pipeline.unet.float()
    write_card(name, FOLDER / name / NETWORK, description, samples)


def write_card(name: str, path: Path, description: dict[str, Any], samples: Tensor | None) -> None:
    """Write a model's card, with the checksum of its weights, and what it has drawn [N, 3, H, W]."""
    from companion.photos import write_sheet

    described = {"name": name, **description, "sha256": sha256(path), "bytes": path.stat().st_size}
    if samples is not None:
        described["sheet"] = f"{name}.png"
        write_sheet(FOLDER / described["sheet"], samples)
    (FOLDER / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    card.cache_clear()
