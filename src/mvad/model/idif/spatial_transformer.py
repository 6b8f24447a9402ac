"""STN (Jaderberg et al. 2015): the fused voxel in each view's frame, by a learnable rotation (eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.idif.config import SpatialTransformerConfig, VoxelConfig


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Return (K, 3, 3) rotations of (K, 3) Euler angles xyz in radians: Rz @ Ry @ Rx."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros_like(cos[:, 0]), torch.ones_like(cos[:, 0])

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=1).view(-1, 3, 3)

    rx = matrix(one, zero, zero, zero, cos[:, 0], -sin[:, 0], zero, sin[:, 0], cos[:, 0])
    ry = matrix(cos[:, 1], zero, sin[:, 1], zero, one, zero, -sin[:, 1], zero, cos[:, 1])
    rz = matrix(cos[:, 2], -sin[:, 2], zero, sin[:, 2], cos[:, 2], zero, zero, zero, one)
    return rz @ ry @ rx


def rotate_voxel(voxel: Tensor, rotation: Tensor) -> Tensor:
    """Rotate (B, C, D, H, W) about its centre by (B, 3, 3), trilinear, zero outside; axes x = W, y = H, z = D."""
    affine = torch.cat([rotation, rotation.new_zeros(len(rotation), 3, 1)], dim=2)
    grid = functional.affine_grid(affine, list(voxel.shape), align_corners=False)
    return functional.grid_sample(voxel, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class SpatialTransformer(nn.Module):
    """From P_n to f_p of each view: rotate by alpha, reduce depth to a plane (``stn.depth_reduction``), 1x1 convolution to C.

    ``angles`` is alpha: (K, 3) Euler angles xyz in radians, (K, 1) angles about fixed axes, or (K, 9) matrices.
    """

    axes: Tensor

    def __init__(self, angles: Tensor, voxel: VoxelConfig, config: SpatialTransformerConfig, channels: int, plane: int) -> None:
        super().__init__()
        self.plane, self.config = plane, config
        start = angles.clone().float()
        if config.init == "zeros":
            start = torch.zeros_like(start)
        elif config.init == "random":
            start = (torch.rand(start.shape) - 0.5) * torch.pi
        size = start.norm(dim=1, keepdim=True)
        # A rotation needs an axis: that of a view without initial rotation is the vertical.
        self.register_buffer("axes", torch.where(size > 1e-6, start / size.clamp(min=1e-6), torch.tensor([0.0, 1.0, 0.0])))
        initial = {"euler": start, "single": size, "affine": euler_to_matrix(start).flatten(1)}[config.transform]
        self.angles = nn.Parameter(initial)
        folded = voxel.channels * (voxel.size if config.depth_reduction == "fold" else 1)
        self.density = nn.Conv3d(voxel.channels, 1, 1) if config.depth_reduction == "composite" else None
        self.depth_reduction = nn.Conv2d(folded, channels, 1)

    def matrices(self) -> Tensor:
        """Return the matrices alpha (K, 3, 3)."""
        if self.config.transform == "affine":
            return self.angles.view(-1, 3, 3)
        return euler_to_matrix(self.angles if self.config.transform == "euler" else self.angles * self.axes)

    def forward(self, voxel: Tensor) -> Tensor:
        """Return f_p (B, K, C, h, w) of P_n (B, Cv, D, D, D)."""
        b, rotation = len(voxel), self.matrices()
        planes = []
        for view in range(len(rotation)):
            rotated = rotate_voxel(voxel.float(), rotation[view].expand(b, 3, 3))
            plane = self.depth_reduction(self._flatten(rotated))
            if plane.shape[-1] != self.plane:
                plane = functional.interpolate(plane, size=self.plane, mode="bilinear", align_corners=False)
            planes.append(plane)
        return torch.stack(planes, dim=1)

    def _flatten(self, voxel: Tensor) -> Tensor:
        """Return (B, Cv or Cv * D, H, W) from (B, Cv, D, H, W)."""
        if self.config.depth_reduction == "fold":
            return voxel.flatten(1, 2)
        if self.config.depth_reduction == "mean":
            return voxel.mean(dim=2)
        if self.config.depth_reduction == "max":
            return voxel.amax(dim=2)
        assert self.density is not None
        opacity = torch.sigmoid(self.density(voxel))
        transmittance = torch.cumprod(torch.cat([torch.ones_like(opacity[:, :, :1]), 1 - opacity[:, :, :-1]], dim=2), dim=2)
        return (voxel * opacity * transmittance).sum(dim=2)
