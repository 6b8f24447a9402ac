"""Reader of Eyecandies as downloaded (Bonfiglioli et al. 2022): six lights, 16-bit depth, normals, pose, masks.

    <Category>/{train,val,test_public,test_private}/data/<id>_<item>

The camera frame of mvad is x right, y down, z forward; normals and pose in the files use the frame of OpenGL (y up, z back).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mvad.datasets.folders import (
    Files,
    below,
    category_folders,
    check_name,
    refuse_other_folders,
    split_folders,
    visible,
)
from mvad.datasets.images import placeholder, read_gray16, read_rgb
from mvad.datasets.masks import NO_MASK, check_label, read_mask
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ReadOptions, Scan, ScanRef, new_id
from mvad.errors import BadInput

FOCAL_PX = 711.11
"""Focal length in pixels of the 512 x 512 images; it scales with the width."""

FOCAL_WIDTH = 512
OPENGL_TO_CAMERA = np.array([1.0, -1.0, -1.0])
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test_public", "private": "test_private"}
KINDS = ("bumps", "dents", "colors", "normals")
MAX_TEXT_BYTES = 1 << 16
ASSUMED_GOOD = "no metadata.yaml; taken as good, as all scans of its split are"

_FILE = re.compile(
    r"(.+?)_((?:bumps|dents|colors|normals)_mask|depth|image_\d+|normals|info_depth|pose|mask|metadata|object_params)\.(png|yaml|yml|txt)",
    re.IGNORECASE,
)
_NAMES = {
    "depth": "depth.png", "normals": "normals.png", "info": "info_depth.yaml", "pose": "pose.txt", "mask": "mask.png",
    "metadata": "metadata.yaml",
}  # fmt: skip
"""Files of a scan by kind, after its number; the image's name depends on the light."""


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
        return [
            folder.name
            for folder in category_folders(raw)
            if any((split.path / "data").is_dir() for split in split_folders(folder, {"train": "train"}).values())
        ]

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted: each number that any file has; ``load`` reports what is missing.

        The defect is the kind in ``metadata.yaml``. Folders of splits under other names are read with a note (``folders``).

        Raises
        ------
        BadInput
            If the category is missing, has no scan, no scan has an image of ``options.light``, or a split is not in a folder
            ``data``.
        """
        root = raw / category
        if not root.is_dir():
            raise BadInput(f"{root}: not found; --raw must hold <Category>/train/data")
        found = []
        splits = split_folders(root, SPLIT_FOLDERS)
        refuse_other_folders(root, splits, "data/*_depth.png")
        for split, named in splits.items():
            if any(_FILE.fullmatch(path.name) for path in visible(named.path.iterdir())):
                raise BadInput(f"{named.path}: expected its files in {named.path.name}/data; move them there")
            data = named.path / "data"
            for number, files in _by_number(visible(data.iterdir()) if data.is_dir() else (), options).items():
                found.append(_labelled(ScanRef(self.name, category, split, UNKNOWN, number, {}, named.notes), files))
        if not found:
            raise BadInput(f"{root}: no scan found; expected train/data/*_depth.png")
        if not any(ref.paths["rgb"].exists() for ref in found):
            raise BadInput(f"{found[0].paths['rgb']}: not found; download this light or give another --light")
        return sorted(found)

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: every ``NAME_depth.png`` with its image, normals, range and pose beside it."""
        found = []
        for place in sorted({path.parent for path in below(folder) if _FILE.fullmatch(path.name)}):
            for number, files in _by_number(visible(place.iterdir()), options).items():
                paths = {kind: path for kind, path in files.paths.items() if kind not in ("mask", "metadata")}
                name = new_id(place.relative_to(folder), number)
                found.append(ScanRef(self.name, category, NEW, UNKNOWN, name, paths, (), files.fault))
        return sorted(found)

    def load(self, ref: ScanRef) -> Scan:
        """Read one scan: points from depth, normals and pose converted to the camera frame.

        Raises
        ------
        BadInput
            If a file is missing, damaged, or contradicts another, as a mask that marks a good scan.
        """
        if ref.fault:
            raise BadInput(ref.fault)
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
        gt: NDArray[np.bool_] | None = None
        notes: tuple[str, ...] = ()
        if "gt" in ref.paths:
            gt, notes = read_mask(ref.paths["gt"], shape)
            notes += check_label(ref.paths["gt"], gt, ref.defect == GOOD)
        rgb = read_rgb(ref.paths["rgb"], shape)
        return Scan(xyz.astype(np.float32), valid, rgb, gt, normals, _pose(ref.paths["pose"]), notes)


def _by_number(paths: Iterable[Path], options: ReadOptions) -> dict[str, Files]:
    """Return the files of each scan by its number; what is missing, but for mask and metadata, has its expected path."""
    names = _NAMES | {"rgb": f"image_{options.light}.png"}
    kinds = {name.partition(".")[0]: kind for kind, name in names.items()}
    found: dict[str, Files] = {}
    places = set()
    for path in paths:
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        check_name(path)
        places.add(path.parent)
        scan, kind = found.setdefault(match[1], Files()), kinds.get(match[2].lower(), "")
        if kind:
            scan.add(kind, path)
    for number, scan in found.items():
        for kind, name in names.items():
            if kind not in ("mask", "metadata"):
                scan.paths.setdefault(kind, next(iter(places)) / f"{number}_{name}")
    return dict(sorted(found.items()))


def _labelled(ref: ScanRef, files: Files) -> ScanRef:
    """Return the scan of some files with its defect, mask and notes; what its label cannot be is its fault."""
    paths, notes, fault = dict(files.paths), ref.notes, files.fault
    metadata, mask = paths.pop("metadata", None), paths.pop("mask", None)
    defect = UNKNOWN
    if metadata is not None:
        try:
            defect = _defect(metadata)
        except BadInput as error:  # concerns this scan only
            fault, paths["metadata"] = fault or str(error), metadata
    elif ref.split == "test":
        expected = paths["depth"].with_name(f"{ref.id}_{_NAMES['metadata']}")
        fault = fault or f"{expected}: not found, so the scan has no label; download it again"
    elif ref.split != "private":
        defect, notes = GOOD, (*notes, ASSUMED_GOOD)
    if ref.split in ("train", "validation") and defect not in (GOOD, UNKNOWN):
        fault = (
            fault
            or f"{metadata}: says that the scan has {defect}, but {ref.split} is taken as good scans only; move it to the test split"
        )
    if mask is not None and ref.split != "private":
        paths["gt"] = mask
    elif ref.split == "test" and defect == GOOD:
        notes = (*notes, NO_MASK)
    elif ref.split == "test":
        paths["gt"] = paths["depth"].with_name(f"{ref.id}_{_NAMES['mask']}")
    return ScanRef(ref.dataset, ref.category, ref.split, defect, ref.id, paths, notes, fault)


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
        if placeholder(path):
            raise BadInput(f"{path}: {placeholder(path)}") from error
        raise BadInput(f"{path}: not readable as YAML: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(value, dict):
        if placeholder(path):
            raise BadInput(f"{path}: {placeholder(path)}")
        raise BadInput(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def _defect(path: Path) -> str:
    """Return the kind of defect that a ``metadata.yaml`` states, ``combined`` for several."""
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
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("it is empty")
        pose = np.loadtxt(io.StringIO(text), dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ValueError(f"shape {pose.shape}")
        if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-4:
            raise ValueError("not rigid")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a rigid 4 x 4 matrix ({error})") from error
    camera = pose.copy()
    camera[:3, :3] *= OPENGL_TO_CAMERA
    return camera
