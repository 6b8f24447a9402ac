"""Generated parts in the format of MVTec 3D-AD: xyz TIFF with (0, 0, 0) where the sensor has no return."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvad import files
from mvad.datasets.scan import GOOD, Scan
from mvad.datasets.synth.defects import FAMILIES
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.raycast import Hits, cast
from mvad.datasets.synth.shapes import Grid

DEFECTS = tuple(kind for kinds in FAMILIES.values() for kind in kinds)
CAMERA = {"focus": 0.0103431, "kappa": -2205.03, "sx": 3.74983e-06, "sy": 3.75e-06}
_DISTANCE_M = 0.66
_FIELD_M = 0.088
"""Width of the scanned field at the object's distance."""
_PLANE_TILT_DEG = 22.0
_NOISE_M = 3e-5


def scan_of(sample: PlannedSample, size: int) -> Scan:
    """Simulate the scan of a planned sample: (size, size) points in the sensor's camera frame, metres."""
    rng = sample.sensor_rng()
    v = sample.variation
    rays = camera_rays(size)
    tilt = Rotation.from_euler("x", 180 - _PLANE_TILT_DEG - 1.0 * (2 * v.tilt - 1), degrees=True)
    spin = Rotation.from_euler("z", 360 * v.angle, degrees=True)
    to_camera = (tilt * spin).as_matrix()  # part frame (z up) to camera frame
    middle = np.array([0.004 * (2 * v.offset_x - 1), 0.004 * (2 * v.offset_y - 1), _DISTANCE_M])
    hits = cast(sample.part(), -middle @ to_camera, rays @ to_camera)
    support = _support_color(hits, rng)
    rgb = shade(hits, support, rng, light=np.array([0.25, -0.3, -1.0]) @ to_camera)
    facing = -np.einsum("ij,ij->i", hits.normal, rays @ to_camera) / np.linalg.norm(rays, axis=1)
    missing = _missing(facing.reshape(size, size), rng)
    depth = hits.distance + rng.normal(0, _NOISE_M, len(rays))
    xyz = (rays * depth[:, None]).reshape(size, size, 3).astype(np.float32)
    valid = np.isfinite(xyz).all(axis=2) & ~missing
    return Scan(np.where(valid[..., None], xyz, np.float32(0)), valid, rgb.reshape(size, size, 3), hits.gt.reshape(size, size))


def camera_rays(size: int) -> Grid:
    """Return (size * size, 3) rays with z = 1 of HALCON's area-scan division camera (``formats.md``)."""
    pixel = _FIELD_M / _DISTANCE_M * CAMERA["focus"] / size
    line = (np.arange(size) + 0.5 - size / 2) * pixel
    u, v = np.meshgrid(line, line)
    undistort = 1 / (1 + CAMERA["kappa"] * (u**2 + v**2))
    x, y = u * undistort / CAMERA["focus"], v * undistort / CAMERA["focus"]
    return np.stack([x, y, np.ones_like(x)], axis=2).reshape(-1, 3)


def camera_parameters(size: int) -> dict[str, float | int | str]:
    """Return the content of the calibration file for scans of ``size`` x ``size`` points."""
    pixel = _FIELD_M / _DISTANCE_M * CAMERA["focus"] / size
    middle = size / 2 - 0.5
    return {
        "camera_type": "area_scan_division",
        **CAMERA,
        "sx": pixel,
        "sy": pixel,
        "cx": middle,
        "cy": middle,
        "image_width": size,
        "image_height": size,
    }


def shade(hits: Hits, support: Grid, rng: np.random.Generator, light: Grid) -> NDArray[np.uint8]:
    """Return (R, 3) uint8 colours under one light (a direction in the part's frame) and ambient light."""
    color = lit(hits, support, light)
    color = color + rng.normal(0, 0.008, color.shape)
    return np.asarray(np.clip(color * 255 + 0.5, 0, 255), dtype=np.uint8)


def lit(hits: Hits, support: Grid, light: Grid) -> Grid:
    """Return (R, 3) float64 colours, 0 to 1, as ``shade`` does, but without noise."""
    to_light = light / np.linalg.norm(light)
    diffuse = np.clip(hits.normal @ to_light, 0, 1)
    albedo = np.where(hits.on_part[:, None], hits.albedo, support)
    return np.asarray(albedo * (0.35 + 0.65 * diffuse[:, None]))


def _support_color(hits: Hits, rng: np.random.Generator) -> Grid:
    return np.full((len(hits.distance), 3), 0.16) + rng.normal(0, 0.01, (len(hits.distance), 1))


def _missing(facing: Grid, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return missing returns: surfaces seen edge-on, single dropouts, patches of glare, a border outside of the projector."""
    size = facing.shape[0]
    missing = facing < rng.uniform(0.12, 0.25, facing.shape)
    missing |= rng.random(facing.shape) < 0.004
    glare = ndimage.gaussian_filter(rng.standard_normal(facing.shape), size / 90)
    missing |= glare > 3.4 * glare.std()
    border = np.ones_like(missing)
    left, right, top, bottom = rng.integers(1, max(2, size // 14), 4)
    border[top : size - bottom, left : size - right] = False
    return missing | border


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one sample's files below the category's folder ``root``."""
    scan = scan_of(sample, size)
    folder = root / sample.split / sample.defect
    name = f"{sample.number:03d}"
    files.write_bytes(folder / "rgb" / f"{name}.png", imagecodecs.png_encode(scan.rgb, level=1))
    if sample.split == "test":
        assert scan.gt is not None
        # As in the real dataset, each class has its own grey value (class_ids.json).
        value = 255 - (DEFECTS.index(sample.defect) if sample.defect != GOOD else 0)
        files.write_bytes(folder / "gt" / f"{name}.png", imagecodecs.png_encode((scan.gt * value).astype(np.uint8)))
    files.write_bytes(folder / "xyz" / f"{name}.tiff", as_tiff(scan.xyz))


def as_tiff(xyz: NDArray[np.float32]) -> bytes:
    """Return points (H, W, 3) as the bytes of a TIFF."""
    with io.BytesIO() as buffer:
        tifffile.imwrite(buffer, xyz, photometric="rgb", compression="zlib", predictor=True, metadata=None, software=False)
        return buffer.getvalue()


def write_category(root: Path, size: int) -> None:
    """Write the files of a category other than its scans: the calibration."""
    files.write_json(root / "calibration" / "camera_parameters.json", camera_parameters(size))


FORMAT = Format(DEFECTS, write, write_category)
