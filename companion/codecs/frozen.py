"""Convolutions with constant weights, whose gradient can be differentiated again without waste.

The soft cell needs J v for the encoder's derivative J, and has it by differentiating Jᵀ u (see
`companion.inversion.soft`).  PyTorch, asked for the derivative of a convolution's gradient, works out
also how the weights would have to change, which for a network that is only used nobody wants to know.
Here the gradient is said to be what it is, a transposed
convolution, and its derivative is a convolution and nothing else: the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class Convolution(torch.autograd.Function):
    """conv2d, differentiable in its input alone."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        """Return conv2d(x, weight, bias, stride, padding)."""
        return conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the transposed convolution needs: not the input."""
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(weight)
        ctx.size = x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of the input, by an operation whose own derivative is conv2d."""
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        reach = [
            (n - 1) * s - 2 * p + k
            for n, s, p, k in zip(
                gradient.shape[-2:], ctx.stride, ctx.padding, weight.shape[-2:], strict=True
            )
        ]
        # It cuts the padding off at both ends; at the far one the stride may have read less of it.
        more = [n - r for n, r in zip(ctx.size, reach, strict=True)]
        found = conv_transpose2d(gradient, weight, None, ctx.stride, ctx.padding, more)
        return found, None, None, None, None


class _Constant(TorchFunctionMode):
    """While it lasts, convolutions take their weights for constants."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is conv2d:
            return _convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pair(n: int | Pair) -> Pair:
    return (n, n) if isinstance(n, int) else (n[0], n[1])


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    if groups != 1 or _pair(dilation) != (1, 1):
        raise NotImplementedError("No transform here has groups or holes.")
    return Convolution.apply(x, weight, bias, _pair(stride), _pair(padding))


def frozen(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a network of convolutions as a function of its input alone."""

    def apply(x: Tensor) -> Tensor:
        with _Constant():
            return transform(x)

    return apply
