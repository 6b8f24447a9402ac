"""STN (Jaderberg et al. 2015): the fused voxel as each view sees it, by a learnable rotation (eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    """P_n to f_p of each view: rotate by alpha, fold depth into channels, 1x1 to C (stn.collapse)."""

    def __init__(self, angles: Tensor, voxel_channels: int, voxel_size: int, channels: int, plane: int) -> None:
        super().__init__()
        self.plane = plane
        self.angles = nn.Parameter(angles.clone().float())
        self.collapse = nn.Conv2d(voxel_channels * voxel_size, channels, 1)

    def forward(self, voxel: Tensor) -> Tensor:
        """Return f_p (B, K, C, h, w) of P_n (B, Cv, D, D, D)."""
        views, b = len(self.angles), len(voxel)
        rotation = euler_to_matrix(self.angles)
        seen = []
        for view in range(views):
            turned = rotate_voxel(voxel.float(), rotation[view].expand(b, 3, 3))
            plane = self.collapse(turned.flatten(1, 2))
            if plane.shape[-1] != self.plane:
                plane = functional.interpolate(plane, size=self.plane, mode="bilinear", align_corners=False)
            seen.append(plane)
        return torch.stack(seen, dim=1)
