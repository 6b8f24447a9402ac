"""Reader of Eyecandies as downloaded (Bonfiglioli et al. 2022): six lights, 16-bit depth, normals, pose, masks.

    <Category>/{train,val,test_public,test_private}/data/<id>_<item>

The camera frame here is x right, y down, z forward; the file's normals and pose use OpenGL's (y up, z back).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mvad.datasets.images import read_gray, read_gray16, read_rgb
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ReadOptions, Scan, ScanRef, new_id
from mvad.errors import BadInput

FOCAL_PX = 711.11
"""Focal length in pixels of the 512 x 512 images; it scales with the width."""

FOCAL_WIDTH = 512
OPENGL_TO_CAMERA = np.array([1.0, -1.0, -1.0])
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test_public", "private": "test_private"}
KINDS = ("bumps", "dents", "colors", "normals")
MAX_TEXT_BYTES = 1 << 16


class Eyecandies:
    """Reader of Eyecandies."""

    name = "eyecandies"
    licence = "Eyecan.ai, non-commercial research"
    modalities: tuple[str, ...] = ("rgb", "normal")
    known_categories: tuple[str, ...] = (
        "CandyCane", "ChocolateCookie", "ChocolatePraline", "Confetto", "GummyBear", "HazelnutTruffle",
        "LicoriceSandwich", "Lollipop", "Marshmallow", "PeppermintCandy",
    )  # fmt: skip

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders that hold a folder ``train/data``, sorted."""
        return sorted(folder.name for folder in raw.iterdir() if (folder / "train" / "data").is_dir())

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted. The defect is the kind in ``metadata.yaml``.

        Raises
        ------
        BadInput
            If the category is missing, has no scan, or no scan has an image of ``options.light``.
        """
        root = raw / category
        if not root.is_dir():
            raise BadInput(f"{root}: not found; --raw must hold <Category>/train/data")
        found = []
        for split, folder in SPLIT_FOLDERS.items():
            for depth in sorted((root / folder / "data").glob("*_depth.png")):
                number, paths = _files_of(depth, options)
                mask = depth.with_name(f"{number}_mask.png")
                if split == "test" or (split != "private" and mask.exists()):
                    paths["gt"] = mask
                try:
                    defect = _defect(depth, number)
                except BadInput:  # concerns this scan only; ``load`` raises it again
                    defect, paths["metadata"] = UNKNOWN, _metadata(depth, number)
                found.append(ScanRef(self.name, category, split, defect, number, paths))
        if not found:
            raise BadInput(f"{root}: no scan found; expected train/data/*_depth.png")
        if not any(ref.paths["rgb"].exists() for ref in found):
            raise BadInput(f"{found[0].paths['rgb']}: not found; download this light or give another --light")
        return sorted(found)

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: every ``NAME_depth.png`` with its image, normals, range and pose beside it."""
        found = []
        for depth in sorted(folder.rglob("*_depth.png")):
            number, paths = _files_of(depth, options)
            found.append(ScanRef(self.name, category, NEW, UNKNOWN, new_id(depth.parent.relative_to(folder), number), paths))
        return sorted(found)

    def load(self, ref: ScanRef) -> Scan:
        """Read one scan: points from depth, normals and pose converted to the camera frame.

        Raises
        ------
        BadInput
            If a file is missing, damaged, or contradicts another.
        """
        if "metadata" in ref.paths:
            _defect(ref.paths["depth"], ref.id)
        coded = read_gray16(ref.paths["depth"])
        shape = coded.shape
        near, far = _depth_range(ref.paths["info"])
        depth = coded.astype(np.float64) / 65535 * (far - near) + near
        xyz = points_from_depth(depth)
        valid = depth > 0
        if not valid.any():
            raise BadInput(f"{ref.paths['depth']}: no valid depth in the scan; download it again")
        normals = read_rgb(ref.paths["normals"], shape).astype(np.float32) / 127.5 - 1
        normals *= OPENGL_TO_CAMERA.astype(np.float32)
        normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-6)
        gt = read_gray(ref.paths["gt"], shape) > 0 if "gt" in ref.paths else None
        return Scan(xyz.astype(np.float32), valid, read_rgb(ref.paths["rgb"], shape), gt, normals, _pose(ref.paths["pose"]))


def _files_of(depth: Path, options: ReadOptions) -> tuple[str, dict[str, Path]]:
    """Return the number of a scan and the paths of its files, from the path of its depth map."""
    number = depth.name.removesuffix("_depth.png")
    kinds = {"rgb": f"image_{options.light}.png", "normals": "normals.png", "info": "info_depth.yaml", "pose": "pose.txt"}
    return number, {"depth": depth, **{kind: depth.with_name(f"{number}_{name}") for kind, name in kinds.items()}}


def points_from_depth(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (H, W, 3) points in the camera frame of an (H, W) depth map along the optical axis, in its unit."""
    h, w = depth.shape
    focal = FOCAL_PX * w / FOCAL_WIDTH
    x = (np.arange(w) + 0.5 - w / 2) / focal
    y = (np.arange(h) + 0.5 - h / 2) / focal
    return np.stack([x[None, :] * depth, y[:, None] * depth, depth], axis=2)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a small YAML mapping with the safe loader; aliases are rejected, since they can expand exponentially.

    Raises
    ------
    BadInput
        If the file is missing, large, tagged, aliased, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise BadInput(f"{path}: larger than {MAX_TEXT_BYTES} bytes; this is no Eyecandies file")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadInput(f"{path}: uses YAML aliases, which no Eyecandies file does; refused")
        value = yaml.load(text, yaml.SafeLoader)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; the scan is incomplete, download it again") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def _metadata(depth: Path, number: str) -> Path:
    return depth.with_name(f"{number}_metadata.yaml")


def _defect(depth: Path, number: str) -> str:
    path = _metadata(depth, number)
    if not path.exists():
        return UNKNOWN
    metadata = read_yaml(path)
    try:
        present = [kind for kind in KINDS if int(metadata[f"anomalous_{kind}"])]
        anomalous = int(metadata["anomalous"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: expected 'anomalous' and one flag for each of {', '.join(KINDS)}") from error
    if not anomalous:
        return GOOD
    return present[0] if len(present) == 1 else "combined"


def _depth_range(path: Path) -> tuple[float, float]:
    try:
        normalization = read_yaml(path)["normalization"]
        near, far = float(normalization["min"]), float(normalization["max"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: expected normalization: {{max, min}} as numbers") from error
    if not (np.isfinite([near, far]).all() and 0 <= near < far < 1e6):
        raise BadInput(f"{path}: depth range {near} to {far} is invalid; expected 0 <= min < max")
    return near, far


def _pose(path: Path) -> NDArray[np.float64]:
    """Return the pose (4, 4) from the camera frame (x right, y down, z forward) to world; the file's frame is OpenGL's."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError("too large")
        pose = np.loadtxt(path, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ValueError(f"shape {pose.shape}")
        if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-4:
            raise ValueError("not rigid")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a rigid 4 x 4 matrix ({error})") from error
    camera = pose.copy()
    camera[:3, :3] *= OPENGL_TO_CAMERA
    return camera
