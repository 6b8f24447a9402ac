"""Consistency bottleneck (paper, section Intra-view Decoupling, eq. 2-6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.idif.config import BottleneckConfig
from mvad.model.presence import Presence

Noise = Callable[[torch.Size], Tensor]
"""Draws standard normal numbers; the first axis of the shape is the batch."""

_MOST_LOG_VARIANCE = 2.0
_LEAST_NORM = 1e-3


class ConsistencyBottleneck(nn.Module):
    """Information bottleneck for f_c, the features that all views of a sample have in common.

    p(f_c | f_E) = N(mu_e(f_E), Sigma_e(f_E)) (eq. 4): mean and log-variance are weighted means over the present views, so any
    subset of views is possible, and their order does not matter (``bottleneck.aggregate``). The mean has a mean square of 1 over
    the code's channels, and the noise a least deviation (``bottleneck.noise``): with a free scale the code would grow until noise
    counts no more. f_c is the mean of q(f_E | f_c) (eq. 5) up to an offset per view, so that f_s = f_E - f_c is what the common
    features do not explain.
    """

    def __init__(self, channels: int, views: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.config = config
        code = config.channels
        self.mean = nn.Conv2d(channels, code, 1)
        self.log_variance = nn.Conv2d(channels, code, 1)
        self.attention = nn.Conv2d(channels, 1, 1) if config.aggregate == "attention" else None
        self.lift = nn.Conv2d(code, channels, 1)
        self.view_offset = nn.Parameter(torch.zeros(views, channels))
        self.log_spread = nn.Conv2d(code, channels, 1) if config.decoder == "learned" else None

    def forward(self, encoded: Tensor, given: Presence | Tensor, noise: Noise | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split features into common and view-specific ones.

        Parameters
        ----------
        encoded
            f_E (B, K, C, h, w) float.
        given
            Presence of the inputs, or (B, K) bool.
        noise
            Draws epsilon; None uses the mean, unless ``bottleneck.at_test`` is ``sample``.

        Returns
        -------
        tuple
            f_c (B, C, h, w); f_s = f_E - f_c (B, K, C, h, w) where present, else 0; L_IB, a scalar (eq. 5), 0 in evaluation.
        """
        present = Presence.of(given, encoded.device)
        b, k, c, h, w = encoded.shape
        flat = encoded.reshape(b * k, c, h, w)
        weight = self._weights(flat, present)
        mean = _over_views(self.mean(flat).view(b, k, -1, h, w), weight)
        # The mean over channels stays: without it, two channels would be a sign, which has no gradient.
        mean = functional.normalize(mean, dim=1, eps=_LEAST_NORM) * math.sqrt(self.config.channels)
        log_variance = _over_views(self.log_variance(flat).view(b, k, -1, h, w), weight)
        log_variance = log_variance.clamp(2 * math.log(self.config.noise), _MOST_LOG_VARIANCE)
        if noise is None and self.config.at_test == "sample":
            noise = partial(_fixed_noise, device=encoded.device)
        code = mean
        if noise is not None:
            code = mean + noise(mean.shape).to(mean) * torch.exp(log_variance / 2)  # reparameterised
        common = self.lift(code)
        specific = encoded - common[:, None]
        if not present.everything:
            specific = specific * present.on_device.to(encoded.dtype)[:, :, None, None, None]
        loss = self._loss(encoded, present, common, code, mean, log_variance) if self.training else mean.new_zeros(())
        return common, specific, loss

    def _weights(self, flat: Tensor, presence: Presence) -> Tensor | None:
        """Return weights (B, K, 1, 1 or h, 1 or w), 0 where absent, with sum 1 over K; None: all are 1 / K."""
        if self.attention is None and presence.everything:
            return None
        present = presence.on_device
        b, k = present.shape
        if self.attention is not None:
            logits: Tensor = self.attention(flat)
            logits = logits.view(b, k, 1, *flat.shape[-2:]).float().masked_fill(~present[:, :, None, None, None], -torch.inf)
            return torch.softmax(logits, dim=1).to(flat)
        equal: Tensor = present.to(flat.dtype)[:, :, None, None, None] / present.sum(dim=1).view(b, 1, 1, 1, 1)
        return equal

    def _loss(
        self, encoded: Tensor, present: Presence, common: Tensor, code: Tensor, mean: Tensor, log_variance: Tensor
    ) -> Tensor:  # fmt: skip
        """Return L_IB = E[-log q(f_E | f_c)] with a Gaussian q (eq. 5) over the present views, without constant terms."""
        predicted = present.take(common[:, None] + self.view_offset[None, :, :, None, None]).float()
        target = present.take(encoded)
        target = (target.detach() if self.config.detach_target else target).float()
        if self.log_spread is not None:
            log_spread = present.take(self.log_spread(code)[:, None].expand_as(encoded)).float().clamp(-6, 6)
            loss: Tensor = ((predicted - target) ** 2 * torch.exp(-log_spread) + log_spread).mean() / 2
        else:
            loss = functional.mse_loss(predicted, target)
        if self.config.kl:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
            loss = loss + self.config.kl * divergence.float().mean()
        return loss


def _over_views(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weighted mean over the K views of values (B, K, ...)."""
    return values.mean(dim=1) if weight is None else (values * weight).sum(dim=1)


def _fixed_noise(shape: torch.Size, device: torch.device) -> Tensor:
    """Return the same numbers (B, C, h, w) for each sample, whatever batch it is in."""
    return _numbers_of_a_sample(tuple(shape[1:]), device).expand(shape)


@lru_cache(maxsize=8)
def _numbers_of_a_sample(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return random numbers (1, C, h, w) on a device; they are copied there once, which a recorded step must not do again."""
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(device)
