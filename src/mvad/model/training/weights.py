"""Weights of a network that trains under autocast: cast together once a step, and batch norms that count no steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d, nn.Linear)
"""Modules whose arithmetic autocast does in bfloat16."""


class UncountedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that does not count its batches: the running means have a fixed momentum, and nothing reads the count.

    One value per channel has no deviation; it is normalised by the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape and dtype."""
        assert self.momentum is not None
        by_batch = self.training and x.numel() != x.shape[1]
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, by_batch, self.momentum, self.eps
        )  # fmt: skip


def count_no_batches(module: nn.Module) -> None:
    """Replace each batch norm of fixed momentum in a module by ``UncountedBatchNorm2d``; weights and names stay."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d and child.momentum is not None and child.track_running_stats:
            child.__class__ = UncountedBatchNorm2d


class CastWeights:
    """Copies in bfloat16 of the weights that autocast would cast one by one, in every step, and again their gradients.

    Parameters
    ----------
    module
        The network; its parameters stay as they are, and optimizers move them.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> weights = CastWeights(layer)
    >>> with weights.used():
    ...     layer(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    >>> weights.give_gradients()
    >>> layer.weight.grad.dtype
    torch.float32
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (part, name)
            for part in module.modules()
            if isinstance(part, WEIGHTED)
            for name, parameter in part.named_parameters(recurse=False)
            if parameter.requires_grad
        ]
        self._weights: list[Tensor] = [part.get_parameter(name) for part, name in self._places]
        self._copies: list[Tensor] = [nn.Parameter(weight.detach().to(torch.bfloat16)) for weight in self._weights]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Have the network compute with the copies, which get the weights of this moment and have no gradients yet."""
        for copy in self._copies:
            copy.grad = None  # where a step was not recorded to its end, some are left
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._weights)
        self._put(self._copies)
        try:
            yield
        finally:
            self._put(self._weights)

    def give_gradients(self) -> None:
        """Move the gradients of the copies to the weights; those that were not used keep none."""
        used = [(weight, c) for weight, c in zip(self._weights, self._copies, strict=True) if c.grad is not None]
        gradients = [torch.empty_like(weight) for weight, _ in used]
        torch._foreach_copy_(gradients, [cast.grad for _, cast in used if cast.grad is not None])
        for (weight, cast), gradient in zip(used, gradients, strict=True):
            weight.grad, cast.grad = gradient, None

    def _put(self, weights: Sequence[Tensor]) -> None:
        for (part, name), weight in zip(self._places, weights, strict=True):
            part._parameters[name] = weight  # type: ignore[assignment]
