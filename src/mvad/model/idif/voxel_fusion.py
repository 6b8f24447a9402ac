"""Implicit Voxel Construction: a learnable prototype attends to the views' features (eq. 7, 8 and 12, Figure 2c)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.idif.config import FusionConfig, VoxelConfig
from mvad.model.presence import Presence

_NEAREST_FIRST_GAIN = 1.5
"""Initial gain of queries and keys, so that attention is greatest between near positions."""

_EMBEDDING = 0.5
"""Standard deviation of new learned encodings, beside features of deviation 1."""


class Attention(nn.Module):
    """softmax(M + Q K^T / sqrt(d)) V (eq. 12); M is -inf at absent keys."""

    def __init__(self, width: int, heads: int, nearest_first: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        if nearest_first:  # before training, equal position encodings then match in every head
            with torch.no_grad():
                weight = torch.empty(width, width)
                nn.init.orthogonal_(weight, _NEAREST_FIRST_GAIN)
                self.query.weight.copy_(weight)
                self.key_value.weight[:width].copy_(weight)

    def forward(self, tokens: Tensor, context: Tensor | None = None, is_key: Tensor | None = None) -> Tensor:
        """Return (B, N, width) from tokens (B, N, width) and context (B, T, width); ``is_key`` (B, T) bool."""
        source = tokens if context is None else context
        q, (k, v) = self._split(self.query(tokens)), self.key_value(source).chunk(2, dim=-1)
        mask = None if is_key is None else is_key[:, None, None, :]
        attended = functional.scaled_dot_product_attention(q, self._split(k), self._split(v), attn_mask=mask)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        return x.view(b, n, self.heads, width // self.heads).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers; the hidden width is 4 times the width."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Residual(nn.Module):
    """x + f(norm(x)) (``fusion.norm = pre``) or norm(x + f(x))."""

    def __init__(self, width: int, inner: nn.Module, norm: str) -> None:
        super().__init__()
        self.inner, self.first = inner, norm == "pre"
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Return (B, N, width) from the same shape."""
        out: Tensor = x + self.inner(self.norm(x), *context) if self.first else self.norm(x + self.inner(x, *context))
        return out


class FusionBlock(nn.Module):
    """P' = FFN(SA(P)), P_next = FFN(CA(P', f_s)) (eq. 7, 8), with residuals; l self-attention layers per block."""

    def __init__(self, width: int, config: FusionConfig) -> None:
        super().__init__()

        def attention() -> Residual:
            return Residual(width, Attention(width, config.heads, config.position == "geometric"), config.norm)

        def feed() -> Residual:
            return Residual(width, FeedForward(width), config.norm)

        self.self_part = nn.Sequential(*(layer for _ in range(config.self_layers) for layer in (attention(), feed())))
        self.cross_attention = attention()
        self.cross_feed = feed()

    def forward(self, voxel: Tensor, context: Tensor, is_key: Tensor | None) -> Tensor:
        """Return (B, N, width) from voxel tokens (B, N, width), view tokens (B, T, width) and their presence (B, T) bool; None: all."""
        out: Tensor = self.cross_feed(self.cross_attention(self.self_part(voxel), context, is_key))
        return out


class VoxelFusion(nn.Module):
    """From the prototype P_0 to the fused voxel P_n."""

    voxel_position: Tensor
    plane_position: Tensor

    def __init__(self, channels: int, plane: int, rotations: Tensor, voxel: VoxelConfig, fusion: FusionConfig) -> None:
        """``rotations`` (K, 3, 3) of the voxel for each view are used for the encodings of ``fusion.position = geometric``."""
        super().__init__()
        self.voxel, views = voxel, len(rotations)
        side = voxel.size // voxel.patch
        self.prototype = nn.Parameter(torch.randn(voxel.channels, voxel.size, voxel.size, voxel.size) * 0.02)
        self.patchify = nn.Conv3d(voxel.channels, voxel.width, voxel.patch, voxel.patch)
        self.unpatchify = nn.ConvTranspose3d(voxel.width, voxel.channels, voxel.patch, voxel.patch)
        if fusion.position == "learned":
            self.voxel_position = nn.Parameter(_EMBEDDING * torch.randn(side**3, voxel.width))
            self.plane_position = nn.Parameter(_EMBEDDING * torch.randn(plane**2, voxel.width))
        elif fusion.position == "sine":
            self.register_buffer("voxel_position", sine_position((side,) * 3, voxel.width), persistent=False)
            self.register_buffer("plane_position", sine_position((plane,) * 2, voxel.width), persistent=False)
        else:
            cells = lattice((side,) * 3)
            on_plane = functional.pad(lattice((plane,) * 2), (0, 1))  # x, y, z = 0
            # The spatial transformer samples cell p of a view at R p of the voxel, so R p is the cell's position.
            in_voxel = torch.einsum("kij,nj->kni", rotations, on_plane)
            self.register_buffer("voxel_position", coordinate_encoding(cells, voxel.width), persistent=False)
            self.register_buffer("plane_position", coordinate_encoding(in_voxel, voxel.width), persistent=False)
        self.feature_norm = nn.LayerNorm(voxel.width)
        self.tokens = nn.Linear(channels, voxel.width)
        self.token_norm = nn.LayerNorm(voxel.width)
        self.view_embedding = nn.Parameter(_EMBEDDING * torch.randn(views, voxel.width))
        self.blocks = nn.ModuleList(FusionBlock(voxel.width, fusion) for _ in range(fusion.blocks))

    def forward(self, specific: Tensor, given: Presence | Tensor) -> Tensor:
        """Fuse f_s (B, K, C, h, w) of the views that are there (``Presence`` or (B, K) bool) into P_n (B, Cv, D, D, D)."""
        present = Presence.of(given, specific.device)
        b, k, _, h, w = specific.shape
        side = self.voxel.size // self.voxel.patch
        context = self.feature_norm(self.tokens(specific.flatten(3).transpose(2, 3)))
        context = context + self.plane_position + self.view_embedding[None, :, None]
        context = self.token_norm(context).flatten(1, 2)
        is_key = None if present.everything else present.on_device[:, :, None].expand(b, k, h * w).flatten(1)
        tokens = self.patchify(self.prototype[None]).flatten(2).transpose(1, 2) + self.voxel_position
        tokens = tokens.expand(b, -1, -1)
        for block in self.blocks:
            tokens = block(tokens, context, is_key)
        if tokens.requires_grad:  # else the gradient is transposed in memory through all blocks, and each layer copies it
            tokens.register_hook(Tensor.contiguous)
        grid = tokens.transpose(1, 2).reshape(b, self.voxel.width, side, side, side)
        fused: Tensor = self.unpatchify(grid)
        return fused + self.prototype


def sine_position(shape: tuple[int, ...], width: int) -> Tensor:
    """Return (cells, width) float32 sine and cosine encodings (Vaswani et al. 2017), with an equal share of width per axis."""
    share = width // (2 * len(shape))
    rates = torch.exp(-math.log(10_000.0) * torch.arange(share) / share)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    parts = [f(axis.flatten()[:, None] * rates) for axis in axes for f in (torch.sin, torch.cos)]
    encoding = torch.cat(parts, dim=1)
    return functional.pad(encoding, (0, width - encoding.shape[1]))


def lattice(shape: tuple[int, ...]) -> Tensor:
    """Return the centres of a grid's cells (N, axes) float32 in -1..1, last axis first (x, y, z)."""
    lines = [(torch.arange(n) + 0.5) * 2 / n - 1 for n in shape]
    return torch.stack([axis.flatten() for axis in reversed(torch.meshgrid(*lines, indexing="ij"))], dim=1)


def coordinate_encoding(positions: Tensor, width: int) -> Tensor:
    """Return (..., width) sines and cosines of positions (..., 3) in -1..1; near positions have similar encodings."""
    share = width // 6
    rates = torch.pi * torch.linspace(0.5, 2.0, share)
    angles = positions[..., None] * rates
    encoding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)
    return functional.pad(encoding, (0, width - encoding.shape[-1]))
