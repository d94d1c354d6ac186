"""The standard networks: Inception for FID and KID, AlexNet for LPIPS, from local files.

Nothing is downloaded.  `companion.lab.standard` turns the published files, once, into safetensors
that say which file they are made of; only weights of the right origin give the standard names.  They
are looked for in `$COMPANION_STANDARD`, by default `companion/standard` in the user's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from companion.errors import WeightsError
from companion.metrics.realism import STANDARD

# The published files and the beginning of their sha256, which their names carry.
ORIGINS = {
    "inception": ("pt_inception-2015-12-05-6726825d.pth", "6726825d"),
    "lpips": ("alexnet-owt-7be5be79.pth", "7be5be79"),
}
INCEPTION_SIDE = 299


def folder() -> Path:
    """Return where the standard weights are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("COMPANION_STANDARD", cache / "companion" / "standard"))


def standard_weights(name: str, path: Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of `NAME.safetensors`, after checking which file they were made of."""
    from safetensors import safe_open

    path = folder() / f"{name}.safetensors" if path is None else path
    source, beginning = ORIGINS[name]
    if not path.exists():
        raise WeightsError(
            f"The standard weights {path} are not here. Fetch {source} and run "
            f"`python -m companion.lab.standard {source}`; or use companion.metrics.network('judge')."
        )
    with safe_open(path, "pt") as file:
        origin = (file.metadata() or {}).get("sha256", "unknown")
        if not origin.startswith(beginning):
            raise WeightsError(
                f"{path} was not made of {source} (sha256 {origin[:8]}…, not {beginning}…): numbers "
                "by it must not bear the standard names."
            )
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


class Inception(nn.Module):
    """The 2015 Inception v3 of the original FID, 2,048 pooled features.

    Torchvision's network but for the pooling inside its blocks: averages leave the padding out, and
    the last block takes a maximum.  Pictures are resized to 299×299 bilinearly, as in the paper.
    """

    name = STANDARD

    def __init__(self, weights: dict[str, Tensor]) -> None:
        from torchvision.models import Inception3

        super().__init__()
        net = Inception3(1008, aux_logits=False, transform_input=False, init_weights=False)
        try:
            net.load_state_dict(weights)
        except RuntimeError as problem:
            raise WeightsError(f"These weights are not the Inception's: {problem}") from problem
        net.fc = nn.Identity()
        for name, block in net.named_children():
            if name.startswith("Mixed") and hasattr(block, "branch_pool"):
                replace_pool(block, maximum if name == "Mixed_7c" else average)
        self.net = net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [N, 2048] of pictures in [0, 1]."""
        side = (INCEPTION_SIDE, INCEPTION_SIDE)
        x = functional.interpolate(x, size=side, mode="bilinear", align_corners=False)
        return self.net(2 * x - 1)


def average(x: Tensor) -> Tensor:
    """Return 3×3 means that leave out what is beyond the border."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Return 3×3 maxima."""
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def replace_pool(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Feed a block's pooling branch with `pool` of the block's input."""
    kept: list[Tensor] = []
    branch = block.branch_pool
    assert isinstance(branch, nn.Module)
    block.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    branch.register_forward_pre_hook(lambda _, given: (pool(kept.pop()),))


class AlexNet(nn.Module):
    """AlexNet's five layers with the published LPIPS weights (version 0.1), for `lpips`."""

    name = "lpips-alex-0.1"
    ends = (2, 5, 8, 10, 12)  # one past each of the five ReLUs
    mean = (-0.030, -0.088, -0.188)  # of pictures in [-1, 1], as LPIPS has them
    spread = (0.458, 0.448, 0.450)

    def __init__(self, weights: dict[str, Tensor]) -> None:
        from torchvision.models import alexnet

        super().__init__()
        net = alexnet(weights=None).features
        own = {k.removeprefix("features."): v for k, v in weights.items() if "features." in k}
        try:
            net.load_state_dict(own)
            self.linear = [weights[f"linear.{k}"].flatten() for k in range(len(self.ends))]
        except (RuntimeError, KeyError) as problem:
            raise WeightsError(f"These weights are not those of LPIPS: {problem}") from problem
        self.net = net.eval().requires_grad_(False)

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return the maps after each ReLU, of pictures in [0, 1]."""
        mean, spread = x.new_tensor(self.mean), x.new_tensor(self.spread)
        h = (2 * x - 1 - mean[:, None, None]) / spread[:, None, None]
        maps = []
        for start, end in zip((0, *self.ends), self.ends, strict=False):
            for layer in list(self.net)[start:end]:
                h = functional.relu(h) if isinstance(layer, nn.ReLU) else layer(h)  # not in place
            maps.append(h)
        return maps

    def layer_weights(self) -> list[Tensor]:
        """Return the channels' weights, fitted by the authors to people's judgements."""
        return self.linear


def inception(path: Path | None = None) -> Inception:
    """Return the Inception network that FID and KID are named after."""
    return Inception(standard_weights("inception", path))


def lpips_network(path: Path | None = None) -> AlexNet:
    """Return the network and weights that LPIPS is named after."""
    return AlexNet(standard_weights("lpips", path))
