"""Turn the published Inception or AlexNet weights into safetensors, once, after checking them.

    python -m companion.lab.standard pt_inception-2015-12-05-6726825d.pth
    python -m companion.lab.standard alexnet-owt-7be5be79.pth

The second needs the package `lpips` beside it, for the small linear weights.  A file is read, by
torch's reader of tensors only, after its sha256 was found to be the published one.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from companion import zoo
from companion.errors import WeightsError
from companion.metrics.standard import ORIGINS, folder

LINEAR = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"  # lpips 0.1, alex.pth


def read(source: Path, beginning: str) -> dict[str, Tensor]:
    """Return the tensors of a published file whose sha256 begins as it must."""
    if not source.exists():
        raise WeightsError(f"{source} does not exist.")
    if not zoo.sha256(source).startswith(beginning):
        raise WeightsError(
            f"{source} is not the published file: its sha256 does not begin with {beginning}."
        )
    return torch.load(source, map_location="cpu", weights_only=True)


def linear_weights() -> dict[str, Tensor]:
    """Return the weights of the channels, from the installed package `lpips`."""
    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        raise WeightsError("The linear weights of LPIPS come with its package: pip install lpips.")
    given = read(Path(found.origin).parent / "weights" / "v0.1" / "alex.pth", LINEAR)
    return {f"linear.{k}": given[f"lin{k}.model.1.weight"].flatten() for k in range(5)}


def convert(source: Path, target: Path | None = None) -> Path:
    """Write the safetensors of a published file, named by its sha256; return where."""
    from safetensors.torch import save_file

    beginnings = {beginning: name for name, (_, beginning) in ORIGINS.items()}
    digest = zoo.sha256(source) if source.exists() else ""
    name = beginnings.get(digest[:8])
    if name is None:
        known = ", ".join(origin for origin, _ in ORIGINS.values())
        raise WeightsError(f"{source} is none of the published files: {known}.")
    tensors = read(source, digest)
    if name == "lpips":
        tensors = {k: v for k, v in tensors.items() if k.startswith("features.")}
        tensors |= linear_weights()
    path = folder() / f"{name}.safetensors" if target is None else target
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"sha256": digest})
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    print(f"{convert(parser.parse_args().source)}: written")
