"""STN (Jaderberg et al. 2015): the fused voxel in each view's frame, by a learnable rotation (eq. 9)."""

from __future__ import annotations

from functools import lru_cache

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.idif.config import SpatialTransformerConfig, VoxelConfig
from mvad.model.idif.voxel_fusion import lattice


@lru_cache(maxsize=8)
def _cells(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the centres of a voxel's cells (D * H * W, 3) in -1..1, x, y, z, on a device; they must not be changed."""
    return lattice(shape).to(device)


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Return (K, 3, 3) rotations of (K, 3) Euler angles xyz in radians: Rz @ Ry @ Rx."""
    of_cos_and_sin, always = _elements(angles.device)
    numbers = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    rx, ry, rz = torch.addmm(always.to(angles), numbers, of_cos_and_sin.to(angles)).view(-1, 3, 3, 3).unbind(1)
    return rz @ ry @ rx


@lru_cache(maxsize=8)
def _elements(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what each element of Rx, Ry, Rz is: shares (6, 27) of the cosines and sines of x, y, z, and a constant (27,)."""
    shares, always = torch.zeros(6, 3, 3, 3), torch.zeros(3, 3, 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        always[axis, axis, axis] = 1
        shares[axis, axis, first, first] = shares[axis, axis, second, second] = 1
        shares[3 + axis, axis, first, second], shares[3 + axis, axis, second, first] = -1, 1
    return shares.view(6, 27).to(device), always.view(27).to(device)


def rotate_voxel(voxel: Tensor, rotation: Tensor) -> Tensor:
    """Rotate (B, C, D, H, W) about its centre by (B, 3, 3), trilinear, zero outside; axes x = W, y = H, z = D."""
    shape = voxel.shape[2:]
    # The product with constant places: affine_grid makes these anew in each pass, and again for its gradient.
    grid = (_cells(tuple(int(n) for n in shape), voxel.device) @ rotation.transpose(1, 2)).view(-1, *shape, 3)
    return functional.grid_sample(voxel, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _about(axes: Tensor, angles: Tensor) -> Tensor:
    """Return the rotations (K, 3, 3) about unit axes (K, 3) by angles (K, 1), radians (Rodrigues)."""
    cross = torch.linalg.cross(axes[:, :, None].expand(-1, 3, 3), torch.eye(3, device=axes.device).expand(len(axes), 3, 3), dim=1)
    sine, cosine = torch.sin(angles)[:, :, None], torch.cos(angles)[:, :, None]
    rotation: Tensor = cosine * torch.eye(3, device=axes.device) + sine * cross + (1 - cosine) * axes[:, :, None] * axes[:, None]
    return rotation


class SpatialTransformer(nn.Module):
    """From P_n to f_p of each view: rotate by alpha, reduce depth to a plane (``stn.depth_reduction``), 1x1 convolution to C.

    ``angles`` is alpha: (K, 3) Euler angles xyz in radians, (K, 1) angles about fixed axes, or (K, 9) matrices.
    """

    turn_axes: Tensor
    initial: Tensor
    """``angles`` before training."""

    def __init__(self, angles: Tensor, voxel: VoxelConfig, config: SpatialTransformerConfig, channels: int, plane: int) -> None:
        super().__init__()
        self.plane, self.config = plane, config
        start = angles.clone().float()
        if config.init == "zeros":
            start = torch.zeros_like(start)
        elif config.init == "random":
            start = (torch.rand(start.shape) - 0.5) * torch.pi
        turned = torch.from_numpy(Rotation.from_matrix(euler_to_matrix(start).numpy()).as_rotvec()).float()
        size = turned.norm(dim=1, keepdim=True)
        # A rotation needs an axis: that of a view without initial rotation is the vertical.
        axes = torch.where(size > 1e-6, turned / size.clamp(min=1e-6), torch.tensor([0.0, 1.0, 0.0]))
        # Stored where it is used, under a name of its own: what models of before have as axes was read as Euler angles.
        self.register_buffer("turn_axes" if config.transform == "single" else "axes", axes)
        initial = {"euler": start, "single": size, "affine": euler_to_matrix(start).flatten(1)}[config.transform]
        self.angles = nn.Parameter(initial)
        self.register_buffer("initial", initial.clone(), persistent=False)
        folded = voxel.channels * (voxel.size if config.depth_reduction == "fold" else 1)
        self.density = nn.Conv3d(voxel.channels, 1, 1) if config.depth_reduction == "composite" else None
        self.depth_reduction = nn.Conv2d(folded, channels, 1)

    def matrices(self) -> Tensor:
        """Return the matrices alpha (K, 3, 3)."""
        if self.config.transform == "affine":
            return self.angles.view(-1, 3, 3)
        return euler_to_matrix(self.angles) if self.config.transform == "euler" else _about(self.turn_axes, self.angles)

    def forward(self, voxel: Tensor) -> Tensor:
        """Return f_p (B, K, C, h, w) of P_n (B, Cv, D, D, D)."""
        b = len(voxel)
        with torch.autocast(voxel.device.type, enabled=False):  # in bfloat16 a rotation is wrong by 3e-3
            rotation, voxel = self.matrices(), voxel.float()
            if voxel.device.type == "cpu":  # view by view, what is rotated stays in the cache
                rotated = torch.stack([rotate_voxel(voxel, one.expand(b, 3, 3)) for one in rotation], dim=1).flatten(0, 1)
            else:
                of_each = voxel[:, None].expand(-1, len(rotation), -1, -1, -1, -1).flatten(0, 1)
                rotated = rotate_voxel(of_each, rotation.repeat(b, 1, 1))
        plane = self.depth_reduction(self._flatten(rotated))
        if plane.shape[-1] != self.plane:
            plane = functional.interpolate(plane, size=self.plane, mode="bilinear", align_corners=False)
        out: Tensor = plane.view(b, -1, *plane.shape[1:])
        return out

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
