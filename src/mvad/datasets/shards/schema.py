"""The definition of the shard format, version 2. ``docs/shard-format.md`` is generated from it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import NO_POSE

SCHEMA = "mvad-shard"
SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
CARD = "README.md"

MAX_CHUNK_BYTES = 256 << 20
MAX_SAMPLES = 1 << 16
MAX_VIEWS = 256
MAX_SIDE = 8192
MAX_POSE_NUMBER = 32767
NO_TEMPLATE = -1.0
"""``pose_fit`` of a scan whose category has no template."""
MAX_TEXT_BYTES = 4096
MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_ATTRIBUTES = 32


@dataclass(frozen=True)
class Field:
    """One HDF5 dataset of a shard: shape in N, V, H, W; dtype; unit; meaning, which is stored in the file."""

    shape: str
    dtype: str
    unit: str
    meaning: str


FIELDS = {
    "rgb": Field("N V H W 3", "uint8", "", "colour; black where a render shows nothing"),
    "depth": Field("N V H W", "uint16", "metre", "offset + step * (value - 1) along the view's axis; 0 is nothing"),
    "normal": Field("N V H W 3", "uint8", "", "n = value / 127.5 - 1 in the view's frame, renormalise; (0, 0, 0) is nothing"),
    "mask": Field("N V H W", "uint8", "", "1 on the defect, else 0"),
    "seen": Field(
        "N V H W", "uint8", "", "1 where the object is; in photographs where the picture is, 0 beside it or where it is transparent"
    ),
    "source": Field("N V H W", "int32", "", "row * W + column of the raw scan, -1 where nothing is (renders only)"),
    "present": Field("N V", "uint8", "", "1 where the view exists; all else of a view that does not is 0"),
    "label": Field("N", "uint8", "", "1 if the sample is anomalous"),
    "view_label": Field("N V", "uint8", "", "1 if the view shows the defect"),
    "pose": Field(
        "N 4 4", "float64", "metre",
        "sensor's camera frame to the frame of rig/poses, a rigid motion or a mirrored one (renders only); a camera in the "
        "sensor's frame is inverse(pose) @ rig/poses",
    ),
    "pose_number": Field("N", "int16", "", "which stable pose of the category the scan took, -1 if it fits none (renders only)"),
    "pose_fit": Field(
        "N", "float64", "",
        "overlap of the scan's outline and its pose's template, 0 to 1; -1 where there is no template (renders only)",
    ),
    "turn_deg": Field("N", "float64", "degree", "turn about the support's normal that pose contains, -180 to 180 (renders only)"),
    "cut": Field("N V", "uint8", "", "1 where the object reaches beyond the view (renders only)"),
    "scan_size": Field("N 2", "int32", "pixel", "height H and width W of the raw scan, to which source refers (renders only)"),
    "key": Field("N", "S", "", "category/split/defect/id, UTF-8"),
    "defect": Field("N", "S", "", "good, or the defect's name, UTF-8"),
    "made_from": Field(
        "N", "S", "", "SHA-256 of what the sample was made from: a render's record, or the hashes of its photographs"
    ),
    "rig/poses": Field("V 4 4", "float64", "metre", "camera to the frame of the rig, x right, y down, z forward (renders only)"),
    "rig/intrinsics": Field("V 3 3", "float64", "pixel", "a pixel's centre lies at +0.5 (renders only)"),
    "rig/range": Field(
        "3", "float64", "metre", "near, far: the coded depths; radius of the objects around the rig's centre (renders only)"
    ),
}  # fmt: skip
IMAGES = ("rgb", "depth", "normal", "mask", "seen", "source")
"""Fields with one chunk per sample; each other field is one chunk."""

WRITTEN = "written.jsonl"
"""Hashes of the shards of a packing that has not reached its manifest yet."""

PICTURES = "pictures"
"""Member of a category's configuration that says how photographs become views."""

MODALITIES = ("rgb", "depth", "normal")
REQUIRED = ("mask", "present", "label", "view_label", "key", "defect", "made_from")
"""Fields of every shard; there is also at least one modality."""
PLACES = ("pose", "pose_number", "pose_fit", "turn_deg", "cut", "scan_size")
"""Fields that say where a scan's object lay and what the scan was, one row per sample."""
RENDERED = ("seen", *PLACES, "rig/poses", "rig/intrinsics", "rig/range")
"""Fields of every shard of renders: all or none, but for ``seen``, which photographs may have, too."""
OF_RENDERS = (*RENDERED[1:], "source")
"""Fields that only renders have; the last may have been left out."""
WITH_SEEN = ("depth", "normal")
"""Fields of views that say which pixels are seen."""

ROOT_ATTRIBUTES = {
    "schema": "mvad-shard",
    "schema_version": f"{SCHEMA_VERSION}, an integer",
    "dataset": "name of the dataset, such as mvtec3d, realiad or folder",
    "category": "the category's name",
    "split": "train, validation, test or private",
    "part": "number of this file within the split, an integer",
    "views": "JSON: names of the views in order",
    "config": "JSON: the configuration that made the samples; for photographs how they were resized and masks thresholded",
    "packing": "JSON: the filter and its level, the fields, the size, megabytes per shard",
    "sources": "SHA-256 over the hashes of everything the shard was made from",
    "mvad_version": "version that packed it",
    "licence": "licence of the dataset",
}
INTEGERS = ("schema_version", "part")
FIELD_ATTRIBUTES = {
    "meaning": "what the field holds (every field)",
    "unit": "metre, pixel or degree (fields that have one)",
    "step": "metres per level, a float64 (depth)",
    "offset": "metres of level 1, a float64 (depth)",
}
NUMBERS = ("step", "offset")


@dataclass(frozen=True)
class Sample:
    """One multi-view sample, coded as in a shard (as integers, except for ``pose``, ``pose_fit`` and ``turn_deg``).

    Attributes
    ----------
    key, defect
        Name of the sample, and of its defect.
    mask
        (V, H, W) uint8, 0 or 1.
    present, view_label
        (V,) uint8.
    label
        1 if anomalous.
    rgb, normal
        (V, H, W, 3) uint8, or None.
    depth, seen, source
        (V, H, W) uint16, uint8, int32, or None.
    pose
        (4, 4) float64, metres: sensor's camera frame to the frame of the rig, or None.
    pose_number
        Which stable pose of the category the scan took, -1 if it fits none; or None.
    pose_fit
        Intersection over union of its outline and the template's, 0 to 1, ``NO_TEMPLATE`` without a template; or None.
    turn_deg
        Turn about the support's normal that ``pose`` contains, degrees; or None.
    cut
        (V,) uint8, 1 where the object reaches beyond the view; or None.
    scan_size
        (2,) int32, height and width of the raw scan, pixels; or None.
    """

    key: str
    defect: str
    label: int
    mask: NDArray[np.uint8]
    present: NDArray[np.uint8]
    view_label: NDArray[np.uint8]
    rgb: NDArray[np.uint8] | None = None
    depth: NDArray[np.uint16] | None = None
    normal: NDArray[np.uint8] | None = None
    seen: NDArray[np.uint8] | None = None
    source: NDArray[np.int32] | None = None
    pose: NDArray[np.float64] | None = None
    pose_number: int | None = None
    pose_fit: float | None = None
    turn_deg: float | None = None
    cut: NDArray[np.uint8] | None = None
    scan_size: NDArray[np.int32] | None = None


def contradiction(sample: Sample) -> str:
    """Return the first inconsistency between a sample's fields, or "".

    A mask is only in views that exist and are labelled; a labelled view belongs to a labelled sample; values are in
    range; the pixels that show the object are the same in every field, and show points of the scan; the pose is rigid.
    """
    views = len(sample.mask)
    masked, labelled, present = (
        sample.mask.reshape(views, -1).any(axis=1),
        sample.view_label.astype(bool),
        sample.present.astype(bool),
    )
    for name in ("mask", "present", "view_label", "seen", "cut"):
        array = getattr(sample, name)
        if array is not None and array.max(initial=0) > 1:
            return f"{name} has values over 1"
    if sample.label not in (0, 1):
        return "label is neither 0 nor 1"
    if (masked & ~labelled).any():
        return f"view {int(np.argmax(masked & ~labelled))} has a mask and is labelled normal"
    if (labelled & ~present).any():
        return f"view {int(np.argmax(labelled & ~present))} is labelled and does not exist"
    if labelled.any() and not sample.label:
        return f"view {int(np.argmax(labelled))} is labelled and the sample is not"
    if sample.label and sample.defect == "good":
        return "the sample is labelled and its defect is good"
    for name in ("rgb", "depth", "normal", "mask", "seen", "cut") if not present.all() else ():
        array = getattr(sample, name)
        if array is not None and array.reshape(views, -1)[~present].any():
            return f"{name} is not empty in a view that does not exist"
    extents: dict[str, NDArray[np.bool_]] = {}
    if sample.seen is not None:
        extents["seen"] = sample.seen.view(np.bool_)
    if sample.source is not None:
        extents["source"] = sample.source >= 0
    if sample.depth is not None:
        extents["depth"] = sample.depth > 0
    if sample.normal is not None:
        x, y, z = (sample.normal[..., axis] for axis in range(3))
        extents["normal"] = (x | y | z) > 0
    for name, extent in extents.items():
        if not np.array_equal(extent, next(iter(extents.values()))):
            return f"{name} and {next(iter(extents))} disagree where the object is"
    return _contradiction_of_place(sample)


def _contradiction_of_place(sample: Sample) -> str:
    """Return the first fault of a sample's pose, its number, fit and turn, and size of the scan, or ""."""
    if sample.pose is not None and not _are_rigid(sample.pose[None], mirrored=True):
        return "pose is not rigid"
    if sample.pose_number is not None and not NO_POSE <= sample.pose_number <= MAX_POSE_NUMBER:
        return f"pose_number is {sample.pose_number}, expected -1 to {MAX_POSE_NUMBER}"
    if sample.pose_fit is not None and not (sample.pose_fit == NO_TEMPLATE or 0 <= sample.pose_fit <= 1):
        return f"pose_fit is {sample.pose_fit}, expected 0 to 1, or -1 without a template"
    if sample.turn_deg is not None and not -180 <= sample.turn_deg <= 180:
        return f"turn_deg is {sample.turn_deg}, expected -180 to 180"
    if sample.scan_size is None:
        return ""
    height, width = (int(length) for length in sample.scan_size)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        return f"scan_size is {height} x {width}, expected 1 to {MAX_SIDE} pixels a side"
    if sample.source is not None and not -1 <= sample.source.min(initial=-1) <= sample.source.max(initial=-1) < height * width:
        return f"source has points outside of the scan of {height} x {width}"
    return ""


def contradictions_of_rig(
    poses: NDArray[np.float64], intrinsics: NDArray[np.float64], near_far_radius: NDArray[np.float64]
) -> list[str]:
    """Return what is wrong with the cameras of a shard: poses must be rigid, intrinsics those of a pinhole camera.

    Parameters
    ----------
    poses, intrinsics, near_far_radius
        ``rig/poses`` (V, 4, 4), ``rig/intrinsics`` (V, 3, 3) and ``rig/range`` (3,), float64.
    """
    faults = []
    if not _are_rigid(poses):
        faults.append("rig/poses are not rigid")
    if not np.isfinite(intrinsics).all() or not (intrinsics[:, [0, 1], [0, 1]] > 0).all():
        faults.append("rig/intrinsics have no focal length")
    near, far, radius = near_far_radius
    if not np.isfinite(near_far_radius).all() or not (0 < near < far and radius > 0):
        faults.append("rig/range is not 0 < near < far and a radius over 0")
    return faults


def _are_rigid(poses: NDArray[np.float64], mirrored: bool = False) -> bool:
    """Return whether (K, 4, 4) matrices are finite rigid motions, with or without reflections."""
    if not np.isfinite(poses).all() or not np.array_equal(poses[:, 3], np.tile([0.0, 0, 0, 1], (len(poses), 1))):
        return False
    rotations = poses[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        rigid = np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-6)
        return rigid and (mirrored or bool((np.linalg.det(rotations) > 0).all()))


def of_an_older_version(version: object, dataset: object, category: object) -> str:
    """Return what is said of shards of an earlier version, with the command that makes them anew; "" for this version's.

    Parameters
    ----------
    version, dataset, category
        Attributes of a shard, or of a manifest of shards; placeholders stand for names that cannot be part of a command.
    """
    if type(version) is not int or not 0 < version < SCHEMA_VERSION:
        return ""
    names = [
        shlex.quote(name) if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 and name[0] != "-" else unknown
        for name, unknown in ((dataset, "DATASET"), (category, "CATEGORY"))
    ]
    pack = f"mvad pack --dataset {names[0]} --category {names[1]} --overwrite"
    render = "" if dataset == "realiad" else f"mvad render {names[0]} --category {names[1]} --overwrite && "
    return f"{SCHEMA} {version}, this version reads {SCHEMA_VERSION}; pack again: {render}{pack}"
