"""The default sampler as a diffusers pipeline, for those who know diffusers.

pipe = IdempotentPipeline.of(diffusion_prior())    # ours, or from_pretrained(any unconditional model)
picture = pipe(data).images[0]                     # data: the bytes of a .idem or JPEG file
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from companion.cell import to_8bit
from companion.codecs.classical import pixels
from companion.contracts import Boxes
from companion.decode import check_size, default_seed, lost, luma, open_stream
from companion.errors import CompanionError
from companion.inversion.descent import Watcher
from companion.inversion.presets import PRESETS, ours
from companion.priors.diffusion import DiffusionPrior, bfloat16_is_fast
from companion.priors.tiles import fitted


class IdempotentPipeline(DiffusionPipeline):
    """Decodes bitstreams, or draws inside cells, with an unconditional U-Net and its scheduler."""

    unet: Any
    scheduler: Any

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        errors: Sequence[Sequence[float]] | None = None,
        autocast: bool | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)  # type: ignore[attr-defined]
        self.register_to_config(errors=errors, autocast=autocast)  # type: ignore[attr-defined]

    @classmethod
    def of(cls, prior: DiffusionPrior) -> IdempotentPipeline:
        """Return the pipeline of a prior, whose decodes are those of `decode` with that prior."""
        return cls(prior.unet, prior.scheduler, prior.errors, prior.autocast)

    def __call__(
        self,
        streams: bytes | Sequence[bytes] | Boxes,
        *,
        num_inference_steps: int = PRESETS["fast"].keywords["steps"],
        generator: torch.Generator | None = None,
        callback: Watcher | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Return one picture for each stream, or for each of a batch of cells.

        Every picture re-compresses to its stream.  Without a `generator` the bytes decide the seed;
        cells have none, and get 0, 1, …  `callback` is told each step, its noise level and the
        estimate.  `output_type`: pil, np or pt.
        """
        if output_type not in ("pil", "np", "pt"):
            raise CompanionError(f"There is no output type {output_type!r}: it is pil, np or pt.")
        batches: list[tuple[Boxes, list[int], bool]] = []
        if isinstance(streams, bytes):
            streams = [streams]
        if isinstance(streams, Boxes):
            batches.append((streams, _seeds(generator, len(streams), 0), False))
        else:
            for data in streams:
                opened = open_stream(data)
                check_size(opened)
                seeds = _seeds(generator, 1, default_seed(data))
                batches.append((opened.cells, seeds, opened.grey))
        found = []
        errors = self.config.errors  # type: ignore[attr-defined]
        quick = self.config.autocast  # type: ignore[attr-defined]
        quick = bfloat16_is_fast() if quick is None else quick
        quick = quick and self.unet.dtype == torch.float32  # other weights run as they are
        for cells, seeds, grey in batches:
            own = DiffusionPrior(self.unet, self.scheduler, errors=errors, autocast=quick)
            prior = fitted(own, cells.decodes().shape[-2:])
            drawn, record = ours(
                prior, cells, steps=num_inference_steps, seeds=seeds, watch=callback
            )
            if lost(record):
                warnings.warn("The sampler went astray: try another generator.", stacklevel=2)
            pictures, exact = cells.project(luma(drawn) if grey else drawn)
            if not bool(exact.all()):
                raise CompanionError(
                    f"{int((~exact).sum())} of {len(exact)} pictures could not be brought into their "
                    "cells; use more steps."
                )
            found.append(to_8bit(pictures))
        images: Any = [picture for batch in found for picture in batch]
        if output_type == "pil":
            images = [Image.fromarray(array) for x in images for array in pixels(x[None])]
        elif output_type == "np":
            images = [x.permute(1, 2, 0).numpy() for x in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _seeds(generator: torch.Generator | None, count: int, default: int) -> list[int]:
    if generator is None:
        return [default + k for k in range(count)]
    return torch.randint(2**48, (count,), generator=generator, device=generator.device).tolist()
