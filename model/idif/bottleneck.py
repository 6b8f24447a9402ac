"""Consistency bottleneck (paper, section Intra-view Decoupling, eq. 2-6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.config import BottleneckConfig


class ConsistencyBottleneck(nn.Module):
    """f_c, what all views of a sample have in common, through a channel of small capacity.

    p(f_c | f_E) = N(mu_e(f_E), Sigma_e(f_E)) (eq. 4): mean and log-variance are means over the views that are
    there, so any subset works and order does not matter (bottleneck.aggregate).
    """

    def __init__(self, channels: int, views: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.config = config
        code = config.channels
        self.mean = nn.Conv2d(channels, code, 1)
        self.log_variance = nn.Conv2d(channels, code, 1)
        self.lift = nn.Conv2d(code, channels, 1)
        self.view_embedding = nn.Parameter(torch.randn(views, code) * 0.02)
        self.decoder = nn.Sequential(nn.Conv2d(code, channels, 1), nn.GELU(), nn.Conv2d(channels, channels, 1))

    def forward(self, encoded: Tensor, present: Tensor, noise: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split features into common and specific.

        Parameters
        ----------
        encoded
            f_E (B, K, C, h, w).
        present
            (B, K) bool.
        noise
            Generator of epsilon; None takes the mean (evaluation, bottleneck.at_test).

        Returns
        -------
        tuple
            f_c (B, C, h, w); f_s = f_E - f_c (B, K, C, h, w) where present, else 0; L_IB, a scalar (eq. 5).
        """
        b, k, c, h, w = encoded.shape
        flat = encoded.reshape(b * k, c, h, w)
        weight = present.to(encoded.dtype)[:, :, None, None, None] / present.sum(dim=1).view(b, 1, 1, 1, 1)
        mean = (self.mean(flat).view(b, k, -1, h, w) * weight).sum(dim=1)
        log_variance = (self.log_variance(flat).view(b, k, -1, h, w) * weight).sum(dim=1).clamp(-6, 2)
        code = mean
        if noise is not None:
            epsilon = torch.randn(mean.shape, generator=noise, dtype=torch.float32).to(mean)
            code = mean + epsilon * torch.exp(log_variance / 2)  # reparameterised
        common = self.lift(code)
        specific = (encoded - common[:, None]) * present.to(encoded.dtype)[:, :, None, None, None]
        loss = self._loss(encoded, present, code, mean, log_variance) if self.training else mean.new_zeros(())
        return common, specific, loss

    def _loss(self, encoded: Tensor, present: Tensor, code: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """L_IB = E[-log q(f_E | f_c)] with a unit-variance Gaussian q (eq. 5), for the views that are there."""
        per_view = code[:, None] + self.view_embedding[None, :, :, None, None]
        guess = self.decoder(per_view[present])
        target = encoded[present]
        loss = functional.mse_loss(guess.float(), (target.detach() if self.config.detach_target else target).float())
        if self.config.kl:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
            loss = loss + self.config.kl * divergence.float().mean()
        return loss
