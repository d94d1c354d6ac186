"""The networks whose features realism is judged by: *loss*, *judge*, and the standard Inception.

Two small networks, trained on the train photos to tell from which photo a 64×64 crop comes
(`companion.lab.features`): *loss features* may be trained and searched against, *judge features* are
kept for final tables, so that no decoder has been fitted to its judge.  They differ in architecture,
depth, non-linearity, pooling and seed.

A feature is the mean of one channel over the picture, taken at several depths, so fine texture
counts as much as arrangement, and any size from 32 pixels goes in.  Every feature is scaled to mean 0
and variance 1 over the train crops.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from companion import zoo
from companion.errors import PictureError, WeightsError
from companion.metrics.patches import Patches
from companion.metrics.realism import Features
from companion.metrics.resampling import Photos

SMALLEST = 32
MOMENTUM = 0.02  # of running means: they are what the shipped network normalises with


class Extractor(Protocol):
    """A network that maps pictures [N, 3, H, W] in [0, 1] to features [N, d]."""

    name: str

    def __call__(self, x: Tensor) -> Tensor:
        """Return the features."""
        ...


class FeatureNetwork(nn.Module):
    """Stages of convolutions; the features are channel means after some of them."""

    def __init__(self, name: str, stages: list[nn.Module], widths: list[int], first: int) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleList(stages)
        self.first = first  # stage from which channel means are features
        self.dims = sum(widths[first:])
        self.scale = nn.BatchNorm1d(self.dims, affine=False, momentum=MOMENTUM)
        self.widths = widths

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps after every stage, for LPIPS-P."""
        if min(x.shape[-2:]) < SMALLEST:
            raise PictureError(f"The feature networks need sides of at least {SMALLEST} pixels.")
        # Channels last: the same numbers but for rounding, in three quarters of the time.
        h, maps = (4 * x - 2).contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        return maps

    def layer_weights(self) -> list[Tensor]:
        """Return ones: our networks have no weights fitted to people's judgements."""
        return [torch.ones(width) for width in self.widths]

    def forward(self, x: Tensor) -> Tensor:
        """Return features [N, d] of pictures in [0, 1]; differentiable."""
        means = [m.mean((2, 3)) for m in self.layers(x)[self.first :]]
        return self.scale(torch.cat(means, dim=1).float())


def convolution(a: int, b: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution with batch normalisation."""
    return [
        nn.Conv2d(a, b, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(b, momentum=MOMENTUM),
    ]


class Residual(nn.Module):
    """h + F(h), with two 3×3 convolutions and SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *convolution(width, width, 3), nn.SiLU(), *convolution(width, width, 3)
        )
        self.act = nn.SiLU()

    def forward(self, h: Tensor) -> Tensor:
        """Return the block's output."""
        return self.act(h + self.inner(h))


def loss_network() -> FeatureNetwork:
    """Return *loss*: a plain chain of strided convolutions with ReLU; 24 + 40 + 64 features."""
    relu = nn.ReLU
    stages = [
        nn.Sequential(*convolution(3, 24, 5, 2), relu(), *convolution(24, 24, 3), relu()),
        nn.Sequential(*convolution(24, 40, 3, 2), relu(), *convolution(40, 40, 3), relu()),
        nn.Sequential(*convolution(40, 64, 3, 2), relu(), *convolution(64, 64, 3), relu()),
    ]
    return FeatureNetwork("loss", list(stages), [24, 40, 64], first=0)


def judge_network() -> FeatureNetwork:
    """Return *judge*: residual blocks with SiLU and average pooling; 32 + 64 features."""
    stages = [
        nn.Sequential(*convolution(3, 16, 3), nn.SiLU(), nn.AvgPool2d(2)),
        nn.Sequential(*convolution(16, 32, 3), nn.SiLU(), Residual(32), nn.AvgPool2d(2)),
        nn.Sequential(*convolution(32, 64, 3), nn.SiLU(), nn.AvgPool2d(2), Residual(64)),
    ]
    return FeatureNetwork("judge", list(stages), [16, 32, 64], first=1)


NETWORKS = {"loss": loss_network, "judge": judge_network}


@functools.cache
def network(name: str) -> FeatureNetwork:
    """Return *loss* or *judge* with the zoo's weights, frozen."""
    if name not in NETWORKS:
        raise WeightsError(
            f"There is no feature network {name!r}; there are: {', '.join(NETWORKS)}."
        )
    made = NETWORKS[name]()
    made.load_state_dict(zoo.load(f"features-{name}"))
    return made.eval().requires_grad_(False)


@torch.no_grad()
def embed(
    extractor: Extractor,
    pictures: Tensor | Patches,
    photo: Photos | None = None,
    *,
    batch: int = 16,
) -> Features:
    """Return the features of pictures [N, 3, H, W] in [0, 1], or of patches, and what they are of."""
    if isinstance(pictures, Patches):
        photo = pictures.photo if photo is None else photo
        pictures = pictures.pictures
    parts = tqdm(pictures.split(batch), desc=f"{extractor.name} features", delay=3, leave=False)
    values = torch.cat([extractor(part).float() for part in parts])
    height, width = pictures.shape[-2:]
    return Features(values, extractor.name, photo, f"{width}×{height}")
