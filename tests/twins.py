"""Reference implementations in plain code, to which the compiled rasteriser is compared."""

from __future__ import annotations

import numpy as np
import trimesh

from mvad.render.rig import Rig
from mvad.render.surface import Surface


def rays_of(rig: Rig, view: int, samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a view's origin (3,) and ray directions (H * n, W * n, 3) through its samples, of length 1 along the optical axis."""
    at = (np.arange(rig.size * samples) + 0.5) / samples
    k = rig.intrinsics[view]
    x, y = np.meshgrid((at - k[0, 2]) / k[0, 0], (at - k[1, 2]) / k[1, 1])
    return rig.poses[view, :3, 3], np.stack([x, y, np.ones_like(x)], axis=-1) @ rig.poses[view, :3, :3].T


def drawn_faces(surface: Surface, rig: Rig, view: int) -> np.ndarray:
    return surface.faces[: surface.drawn_in(rig.poses[view])]


def plain_faces(surface: Surface, rig: Rig, view: int, samples: int) -> np.ndarray:
    """Return the nearest face of every sample, computed face by face from the intersection of ray and plane."""
    side = rig.size * samples
    origin, directions = rays_of(rig, view, samples)
    nearest, face_at = np.full((side, side), np.inf), np.full((side, side), -1, np.int32)
    for number, face in enumerate(drawn_faces(surface, rig, view)):
        a, b, c = surface.vertices[face].astype(np.float64) - origin
        normal = np.cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (normal @ a) / (directions @ normal)
        point = directions * distance[..., None]
        inside = np.ones((side, side), bool)
        for p, q in ((a, b), (b, c), (c, a)):
            inside &= np.cross(q - p, point - p) @ normal >= 0
        closer = inside & (distance > 0) & (distance < nearest)
        nearest[closer], face_at[closer] = distance[closer], number
    return face_at


def embree_hits(surface: Surface, rig: Rig, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Return depth (H, W) along the optical axis and face (H, W) that a ray caster hits; 0 and -1 for none."""
    faces = drawn_faces(surface, rig, view)
    mesh = trimesh.Trimesh(surface.vertices.astype(np.float64), faces, process=False)
    origin, directions = rays_of(rig, view)
    flat = directions.reshape(-1, 3)
    points, hit, face = mesh.ray.intersects_location(np.tile(origin, (len(flat), 1)), flat, multiple_hits=False)
    depth, face_at = np.zeros(len(flat)), np.full(len(flat), -1)
    depth[hit] = ((points - origin) @ rig.poses[view, :3, :3])[:, 2]
    face_at[hit] = face
    return depth.reshape(rig.size, rig.size), face_at.reshape(rig.size, rig.size)


def supersampled(surface: Surface, rig: Rig, view: int, face_at: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean colour (H, W, 3) over a pixel's samples that see a surface, and their number (H, W)."""
    seen = face_at >= 0
    faces = surface.faces[face_at[seen]]
    origin, directions = rays_of(rig, view, samples)
    corners = surface.vertices[faces].astype(np.float64) - origin
    a, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(e1, e2)
    point = directions[seen] * ((normal * a).sum(1) / (normal * directions[seen]).sum(1))[:, None] - a
    squared = (normal * normal).sum(1)
    wb, wc = (np.cross(point, e2) * normal).sum(1) / squared, (np.cross(e1, point) * normal).sum(1) / squared
    weights = np.stack([1 - wb - wc, wb, wc], axis=1)
    bridging = face_at[seen] >= len(surface.faces) - surface.bridges
    weights[bridging] = np.eye(3)[weights[bridging].argmax(axis=1)]
    color = np.zeros((*seen.shape, 3))
    color[seen] = (surface.colors[faces] * np.clip(weights, 0, 1)[..., None]).sum(axis=1)
    shape = (rig.size, samples, rig.size, samples)
    count = seen.reshape(shape).sum(axis=(1, 3))
    return color.reshape(*shape, 3).sum(axis=(1, 3)) / np.maximum(count, 1)[..., None], count


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))
