"""Copies of trained networks that are only evaluated: batch norms folded into convolutions, weights in the precision of use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mvad.model.training.weights import WEIGHTED

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M, run: Callable[[M], object], bfloat16: bool) -> M:
    """Return a copy of a network in evaluation mode, which gives the same features to rounding in two thirds of the launches.

    Each batch norm that follows a convolution is folded into its weights, and weights are stored as autocast would cast them.

    Parameters
    ----------
    module
        The network; it is not changed.
    run
        Runs a network once on an example: which batch norm follows which convolution is seen in that pass.
    bfloat16
        Whether the copy is used under autocast to bfloat16.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> frozen_copy(network, lambda copy: copy(torch.zeros(1, 3, 2, 2)), False)
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
      (1): Identity()
    )
    """
    made = copy.deepcopy(module).eval()
    for convolution, norm in _pairs(made, run):
        _replace(made, norm, nn.Identity())
        # Names and buffers of the convolution stay: only its weights change.
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types devices only
    made.requires_grad_(False)
    if bfloat16:
        for part in made.modules():
            if isinstance(part, WEIGHTED):
                part.to(torch.bfloat16)
    return made


def _pairs(module: M, run: Callable[[M], object]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions whose output a batch norm takes, with that batch norm, as seen when ``run`` runs the network."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def left(convolution: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        outputs[id(output)] = convolution, output  # held, so that no other tensor gets its identity

    def entered(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        before = outputs.get(id(inputs[0]))
        if before is not None and isinstance(norm, nn.BatchNorm2d):
            found.append((before[0], norm))

    handles = [part.register_forward_hook(left) for part in module.modules() if isinstance(part, nn.Conv2d)]
    handles += [part.register_forward_pre_hook(entered) for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    try:
        with torch.no_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for part in module.modules():
        for name, child in part.named_children():
            if child is old:
                setattr(part, name, new)
