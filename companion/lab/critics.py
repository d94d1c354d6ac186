"""What judges the competitors while they are trained: patch critics, and a namer of patches."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

CODES = 256  # labels of the namer
CELL = 8  # pixels a side that one label is for
DETAIL = 8.0  # how much what is added to the MSE decode is enlarged


def _conv(a: int, b: int, size: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(a, b, size, stride, padding=(size - 1) // 2))


class PatchCritic(nn.Module):
    """Scores of patches, given the bytes: HiFiC's critic, or with more outputs ILLM's.

    The latents are reduced to 12 channels, enlarged, and laid beside the picture, as in HiFiC; and beside
    them what the picture adds to the MSE decode, eightfold.  That is where decodes and originals differ:
    from the picture alone a critic of this size has learned nothing after a hundred and fifty steps.
    A score sees 38 pixels a side.
    """

    def __init__(self, outputs: int = 1, latents: int = 64) -> None:
        super().__init__()
        self.told = _conv(latents, 12, 3)
        widths = (3 + 3 + 12, 48, 96, 160)
        halving = [_conv(a, b, 4, 2) for a, b in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([*halving, _conv(widths[-1], widths[-1], 3)])
        self.last = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, x: Tensor, y_hat: Tensor, mse: Tensor) -> Tensor:
        """Return scores [N, outputs, H/8, W/8] of pictures in [0, 1]; of a codec's own use `blurred`."""
        side = functional.leaky_relu(self.told(y_hat.asinh()), 0.2)
        side = functional.interpolate(side, size=x.shape[-2:])
        h = torch.cat([2 * x - 1, DETAIL * (x - mse), side], dim=1)
        for layer in self.layers:
            h = functional.leaky_relu(layer(h), 0.2)
        return self.last(h)


def blurred(x: Tensor) -> Tensor:
    """Return pictures without their finest octave: what detail is held against where no MSE decode is."""
    halved = functional.avg_pool2d(x, 2)
    return functional.interpolate(halved, scale_factor=2, mode="bilinear")


class PatchNamer(nn.Module):
    """A small VQ-VAE: names each 8×8 square of a picture by one of 256 codes (ILLM's labels).

    Codes are moved by exponential averages of what is assigned to them (van den Oord et al., 2017);
    those that nothing is assigned to are set anew.
    """

    def __init__(self, dims: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, dims, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(dims, 64, 3, 1, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
            nn.ConvTranspose2d(32, 3, 4, 2, 1),
        )
        self.register_buffer("codes", torch.randn(CODES, dims))
        self.register_buffer("counts", torch.zeros(CODES))  # so that the first batch sets all
        self.codes: Tensor
        self.counts: Tensor

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """Return the names of the squares, int64 [N, H/8, W/8]."""
        return self._nearest(self.encoder(2 * x - 1))

    def _nearest(self, h: Tensor) -> Tensor:
        flat = h.permute(0, 2, 3, 1)
        return torch.cdist(flat.flatten(0, 2), self.codes).argmin(1).view(flat.shape[:-1])

    def loss(self, x: Tensor, decay: float = 0.95) -> Tensor:
        """Return reconstruction and commitment errors, and move the codes."""
        h = self.encoder(2 * x - 1)
        flat = h.detach().permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad():
            idle = self.counts < 0.2
            some = torch.randint(len(flat), (int(idle.sum()),), device=flat.device)
            self.codes[idle], self.counts[idle] = flat[some], 1.0
            names = self._nearest(h)
            onehot = functional.one_hot(names.flatten(), CODES).to(flat)
            self.counts.lerp_(onehot.sum(0), 1 - decay)
            used = onehot.sum(0) > 0
            found = (onehot.T @ flat)[used] / onehot.sum(0)[used, None]
            self.codes[used] = torch.lerp(self.codes[used], found, 1 - decay)
        quantised = self.codes[names].permute(0, 3, 1, 2)
        straight = h + (quantised - h).detach()
        again = self.decoder(straight)
        return (again - (2 * x - 1)).square().mean() + 0.25 * (h - quantised).square().mean()
