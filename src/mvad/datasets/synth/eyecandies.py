"""Generated parts in the format of Eyecandies: a scene of floor, walls, panel and ledge, and a known camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mvad import files
from mvad.datasets.eyecandies import FOCAL_PX, FOCAL_WIDTH, KINDS, OPENGL_TO_CAMERA, SPLIT_FOLDERS
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.raycast import Hits, cast
from mvad.datasets.synth.shapes import Grid

DEFECTS = ("bump", "dent", "stain", "rough", "bump+dent+stain+rough")
KIND_OF = {"bump": "bumps", "dent": "dents", "stain": "colors", "rough": "normals"}
POSE = np.array(
    [
        [1.0, 0.0, 0.0, 0.0],
        [0.0, np.sqrt(0.5), -np.sqrt(0.5), -2.121320343559642],
        [0.0, np.sqrt(0.5), np.sqrt(0.5), 2.221320343559643],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Camera (OpenGL) to world, as in the files of the dataset."""
NEAR, FAR = 2.0, 5.2
UNITS_PER_METRE = 22.0
"""Candies are 1.5 units of the dataset long; the generated parts are 5 cm."""
WALL_X = 1.1861
LEDGE = 0.05
LIGHTS = {4: (-1.0, -0.3, 1.0)}
"""Direction of the light, in world coordinates, by image number; only the dataset's default light."""


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one sample's files below the category's folder ``root``."""
    rng = sample.sensor_rng()
    v = sample.variation
    stages = sample.stages()
    line = (np.arange(size) + 0.5 - size / 2) / (FOCAL_PX * size / FOCAL_WIDTH)
    x, y = np.meshgrid(line, line)
    rays = np.stack([x, y, np.ones_like(x)], axis=2).reshape(-1, 3)
    camera = POSE[:3, :3] * OPENGL_TO_CAMERA
    world = rays @ camera.T
    spin = Rotation.from_euler("z", 360 * v.angle, degrees=True).as_matrix()
    middle = np.array([0.12 * (2 * v.offset_x - 1), 0.12 * (2 * v.offset_y - 1), 0.0])
    origin = (POSE[:3, 3] - middle) @ spin / UNITS_PER_METRE
    direction = world @ spin / UNITS_PER_METRE
    hits = cast(stages[-1], origin, direction)
    panel = rng.uniform(1.19, 1.32)
    distance, normal, albedo = _add_scene(hits, hits.normal @ spin.T, world, panel)
    depth = np.clip((distance - NEAR) / (FAR - NEAR) * 65535 + 0.5, 0, 65535).astype(np.uint16)
    file_normal = (normal @ camera) * OPENGL_TO_CAMERA
    folder = root / SPLIT_FOLDERS[sample.split] / "data"
    name = f"{sample.number:0{3 if sample.split == 'train' else 2}d}"

    def image(item: str, pixels: NDArray[Any]) -> None:
        coded = imagecodecs.png_encode(pixels.reshape(size, size, -1).squeeze(), level=1)
        files.write_bytes(folder / f"{name}_{item}.png", coded)

    for number, light in LIGHTS.items():
        to_light = np.array(light) / np.linalg.norm(light)
        color = albedo * (0.35 + 0.65 * np.clip(normal @ to_light, 0, 1)[:, None]) + rng.normal(0, 0.006, albedo.shape)
        image(f"image_{number}", np.clip(color * 255 + 0.5, 0, 255).astype(np.uint8))
    image("depth", depth)
    image("normals", np.clip((file_normal + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8))
    kinds = [] if sample.defect == GOOD else [KIND_OF[kind] for kind in sample.defect.split("+")]
    image("mask", hits.gt.astype(np.uint8) * 255)
    for kind in KINDS:
        mask = np.zeros(len(rays), bool)
        if kind in kinds:
            index = kinds.index(kind)
            of_kind = stages[index + 1].gt & ~stages[index].gt
            mask = cast(replace(stages[-1], gt=of_kind), origin, direction).gt
        image(f"{kind}_mask", mask.astype(np.uint8) * 255)
    metadata = {"anomalous": int(bool(kinds))} | {f"anomalous_{kind}": int(kind in kinds) for kind in KINDS}
    files.write_text(folder / f"{name}_metadata.yaml", yaml.safe_dump(metadata, sort_keys=False))
    files.write_text(folder / f"{name}_info_depth.yaml", yaml.safe_dump({"normalization": {"max": FAR, "min": NEAR}}))
    rows = (" ".join(f"{value:.18e}" for value in row) for row in POSE)
    files.write_text(folder / f"{name}_pose.txt", "\n".join(rows) + "\n")


def write_category(root: Path, size: int) -> None:
    """Write nothing: Eyecandies has no files other than those of its samples."""


def _add_scene(hits: Hits, normal: Grid, world: Grid, panel: float) -> tuple[Grid, Grid, Grid]:
    """Return distance, world normal and albedo of the first surface that each ray hits: part, floor, wall, panel, ledge."""
    eye = POSE[:3, 3]
    distance = np.where(np.isfinite(hits.distance), hits.distance, np.inf)
    normal = normal.copy()
    albedo = np.where(hits.on_part[:, None], hits.albedo, 0.75)
    front = panel - 0.045

    def add_plane(at: Grid, plane_normal: tuple[float, float, float], inside: NDArray[np.bool_]) -> None:
        closer = (at > 0) & (at < distance) & inside
        distance[closer], normal[closer], albedo[closer] = at[closer], plane_normal, 0.65

    with np.errstate(divide="ignore", invalid="ignore"):
        for side in (-1.0, 1.0):
            at = (side * WALL_X - eye[0]) / world[:, 0]
            add_plane(at, (-side, 0.0, 0.0), np.ones(len(at), bool))
        at = (panel - eye[1]) / world[:, 1]
        add_plane(at, (0.0, -1.0, 0.0), np.ones(len(at), bool))
        at = (front - eye[1]) / world[:, 1]
        add_plane(at, (0.0, -1.0, 0.0), eye[2] + at * world[:, 2] < LEDGE)
        at = (LEDGE - eye[2]) / world[:, 2]
        add_plane(at, (0.0, 0.0, 1.0), eye[1] + at * world[:, 1] > front)
    return distance, normal, albedo


FORMAT = Format(DEFECTS, write, write_category)
