"""The networks: *Hyper* and *ELIC* at tutorial scale, as CompressAI models, and *Hific*.

All are a transform y = g_a(x), a hyper-latent z = h_a(y), and a Gaussian model of y whose mean μ and
scale σ the decoder can compute from what it has decoded so far (chapter 2).  What differs is *how
much* has been decoded when an element of y is modelled.  `conditionals` says it, for all, as a
conversation: the network yields the mean and scale of the next batch of elements and is sent their
decoded values ŷ.  The encoder, the decoder, the training loss and the cell are four partners in that
one conversation, so they cannot disagree about it.

State-dict names are CompressAI's (`mbt2018-mean` and `elic2022-official`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import AttentionBlock, CheckerboardMaskedConv2d
from compressai.models.base import SimpleVAECompressionModel
from compressai.models.google import MeanScaleHyperprior
from compressai.models.sensetime import Elic2022Official, ResidualBottleneckBlock
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from companion.errors import WeightsError

STRIDE = 16  # an element of y covers 16×16 pixels: pictures are padded to multiples of that
HYPER = 4  # an element of z covers 4×4 of y, or what there is of them at the border


@dataclass(frozen=True)
class Conditional:
    """The Gaussian model of the next elements of y: which they are, their mean and their scale."""

    mean: Tensor  # [N, C, h, w]
    scale: Tensor  # [N, C, h, w], not yet bounded from below
    channels: slice  # which channels of y
    mask: Tensor  # bool [h, w]: which positions


Conversation = Generator[Conditional, Tensor, Tensor]
Grid = tuple[int, int]  # (h, w), how many elements y has


def everywhere(like: Tensor) -> Tensor:
    """Return the mask of all positions of a latent [N, C, h, w]."""
    return torch.ones(like.shape[-2:], dtype=torch.bool, device=like.device)


def grid_of(y: Tensor) -> Grid:
    """Return how many elements a latent [N, C, h, w] has: (h, w)."""
    return y.shape[-2], y.shape[-1]


def cropped(x: Tensor, grid: Grid) -> Tensor:
    """Return what of x [N, C, 4h', 4w'] lies on the grid of y: z covers a little more than y."""
    return x[..., : grid[0], : grid[1]]


def checkerboard(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks of the even and of the odd squares of a latent [N, C, h, w]."""
    h, w = like.shape[-2:]
    rows = torch.arange(h, device=like.device)[:, None]
    even = (rows + torch.arange(w, device=like.device)) % 2 == 0
    return even, ~even


class Hyper(MeanScaleHyperprior):
    """The mean–scale hyperprior of Minnen, Ballé & Toderici (2018), with 3×3 hyper-transforms.

    All of y is modelled at once, given ẑ.
    """

    def __init__(self, N: int = 48, M: int = 64) -> None:
        super().__init__(N, M)
        self.h_a = nn.Sequential(
            conv(M, N, kernel_size=3, stride=1),
            nn.LeakyReLU(inplace=True),
            conv(N, N, kernel_size=3),
            nn.LeakyReLU(inplace=True),
            conv(N, N, kernel_size=3),
        )
        self.h_s = nn.Sequential(
            deconv(N, M, kernel_size=3),
            nn.LeakyReLU(inplace=True),
            deconv(M, M * 3 // 2, kernel_size=3),
            nn.LeakyReLU(inplace=True),
            conv(M * 3 // 2, M * 2, kernel_size=3, stride=1),
        )

    @property
    def bottleneck(self) -> EntropyBottleneck:
        """Return the factorised model of z."""
        return self.entropy_bottleneck

    def hyper_analysis(self, y: Tensor) -> Tensor:
        """Return z = h_a(y)."""
        return self.h_a(y)

    def conditionals(self, z_hat: Tensor, grid: Grid) -> Conversation:
        """Yield the one conditional of y given ẑ; be sent ŷ; return ŷ."""
        scale, mean = cropped(self.h_s(z_hat), grid).chunk(2, dim=1)
        y_hat = yield Conditional(mean, scale, slice(None), everywhere(mean))
        return y_hat


class Elic(Elic2022Official):
    """ELIC (He et al., CVPR 2022) made small: three uneven channel groups, a narrow context net.

    Each group is modelled given ẑ and the groups before it, first on the even squares of a
    checkerboard, then on the odd ones given the even.  Against the published model: three groups
    instead of five, one residual block a stage instead of three, 3×3 hyper- and context transforms
    of 32 channels instead of 5×5 of 224.
    """

    def __init__(self, N: int = 48, groups: tuple[int, ...] = (8, 16, 40)) -> None:
        SimpleVAECompressionModel.__init__(self)
        self.groups = list(groups)
        M = sum(groups)
        self.g_a = nn.Sequential(
            conv(3, N),
            ResidualBottleneckBlock(N, N),
            conv(N, N),
            ResidualBottleneckBlock(N, N),
            AttentionBlock(N),
            conv(N, N),
            ResidualBottleneckBlock(N, N),
            conv(N, M),
        )
        self.g_s = nn.Sequential(
            deconv(M, N),
            ResidualBottleneckBlock(N, N),
            deconv(N, N),
            AttentionBlock(N),
            ResidualBottleneckBlock(N, N),
            deconv(N, N),
            ResidualBottleneckBlock(N, N),
            deconv(N, 3),
        )
        h_a = nn.Sequential(
            conv(M, N, kernel_size=3, stride=1),
            nn.ReLU(inplace=True),
            conv(N, N, kernel_size=3),
            nn.ReLU(inplace=True),
            conv(N, N, kernel_size=3),
        )
        h_s = nn.Sequential(
            deconv(N, N, kernel_size=3),
            nn.ReLU(inplace=True),
            deconv(N, N * 3 // 2, kernel_size=3),
            nn.ReLU(inplace=True),
            conv(N * 3 // 2, N * 2, kernel_size=3, stride=1),
        )
        context = {
            f"y{k}": nn.Sequential(
                conv(sum(groups[:k]), 32, kernel_size=3, stride=1),
                nn.ReLU(inplace=True),
                conv(32, groups[k] * 2, kernel_size=3, stride=1),
            )
            for k in range(1, len(groups))
        }
        group_codecs = {}
        for k, width in enumerate(groups):
            inputs = width * 2 * (2 if k else 1) + N * 2
            group_codecs[f"y{k}"] = CheckerboardLatentCodec(
                latent_codec={"y": GaussianConditionalLatentCodec(quantizer="ste")},
                context_prediction=CheckerboardMaskedConv2d(
                    width, width * 2, kernel_size=5, stride=1, padding=2
                ),
                entropy_parameters=nn.Sequential(
                    nn.Conv2d(inputs, 96, 1), nn.ReLU(inplace=True), nn.Conv2d(96, width * 2, 1)
                ),
            )
        self.latent_codec = HyperpriorLatentCodec(
            latent_codec={
                "y": ChannelGroupsLatentCodec(
                    groups=list(groups), channel_context=context, latent_codec=group_codecs
                ),
                "hyper": HyperLatentCodec(
                    entropy_bottleneck=EntropyBottleneck(N), h_a=h_a, h_s=h_s, quantizer="ste"
                ),
            },
        )

    @property
    def bottleneck(self) -> EntropyBottleneck:
        """Return the factorised model of z."""
        return self.latent_codec.hyper.entropy_bottleneck

    def hyper_analysis(self, y: Tensor) -> Tensor:
        """Return z = h_a(y)."""
        return self.latent_codec.hyper.h_a(y)

    def conditionals(self, z_hat: Tensor, grid: Grid) -> Conversation:
        """Yield group by group, even squares then odd ones; be sent their ŷ; return the whole ŷ."""
        hyper = cropped(self.latent_codec.hyper.h_s(z_hat), grid)
        done: list[Tensor] = []
        start = 0
        for k, width in enumerate(self.groups):
            parts = self.latent_codec.y.latent_codec[f"y{k}"]
            side = [hyper]
            if k:
                side.append(self.latent_codec.y.channel_context[f"y{k}"](torch.cat(done, dim=1)))
            channels = slice(start, start + width)
            y_hat = hyper.new_zeros(len(hyper), width, *hyper.shape[-2:])
            for parity, mask in enumerate(checkerboard(hyper)):
                spatial = (
                    parts.context_prediction(y_hat)
                    if parity
                    else hyper.new_zeros(len(hyper), 2 * width, *hyper.shape[-2:])
                )
                parameters = parts.entropy_parameters(torch.cat([spatial, *side], dim=1))
                scale, mean = parameters.chunk(2, dim=1)
                y_hat = y_hat + (yield Conditional(mean, scale, channels, mask)) * mask
            done.append(y_hat)
            start += width
        return torch.cat(done, dim=1)


class Hific(Hyper):
    """Hyper with a decoder that is large enough to draw: for training against a critic, end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.g_s.append(Refinement())


class Refinement(nn.Module):
    """A picture [N, 3, H, W] to a better one, at a quarter of its resolution; at first to itself.

    Without norms over the whole picture, and looking no farther than 64 pixels, so that it may be
    applied in strips.
    """

    def __init__(self, width: int = 104, blocks: int = 7, fold: int = 4) -> None:
        super().__init__()
        self.fold = fold
        self.first = nn.Conv2d(3 * fold**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, 3 * fold**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures, not clamped."""
        h = self.first(nn.functional.pixel_unshuffle(2 * x - 1, self.fold))
        for block in self.blocks:
            h = h + block(h)
        return x + nn.functional.pixel_shuffle(self.last(nn.functional.silu(h)), self.fold)


Network = Hyper | Elic
ARCHITECTURES: dict[str, type[Network]] = {"hyper": Hyper, "elic": Elic, "hific": Hific}


def converse(
    network: Network, z_hat: Tensor, grid: Grid, answer: Callable[[Conditional], Tensor]
) -> Tensor:
    """Hold the conversation of `conditionals`: answer each with its ŷ [N, C, h, w]; return ŷ."""
    conversation = network.conditionals(z_hat, grid)
    try:
        question = next(conversation)
        while True:
            question = conversation.send(answer(question))
    except StopIteration as end:
        return end.value


def straight_through_round(x: Tensor) -> Tensor:
    """Return round(x) with the gradient of the identity: the surrogate used for inversion too."""
    return x + (torch.round(x) - x).detach()


# Buffers that are not weights: coding tables, of which `entropy` computes its own, and constants such
# as a bound of 1e-9, which half precision would turn into 0.
NOT_WEIGHTS = (
    *("_offset", "_quantized_cdf", "_cdf_length", "scale_table", "scale_bound"),
    *("lower_bound.bound", "pedestal"),
)


def load_weights(network: Network, state: dict[str, Tensor]) -> None:
    """Load weights, and only those."""
    kept = {k: v for k, v in state.items() if not k.endswith(NOT_WEIGHTS)}
    # Not CompressAI's own method: it insists on the tables.
    missing, unexpected = nn.Module.load_state_dict(network, kept, strict=False)
    wrong = [k for k in [*missing, *unexpected] if not k.endswith(NOT_WEIGHTS)]
    if wrong:
        raise WeightsError(
            f"These tensors do not fit the architecture {type(network).__name__}: {wrong}."
        )


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without what is not weights."""
    return {k: v for k, v in network.state_dict().items() if not k.endswith(NOT_WEIGHTS)}
