"""The definition of the shard format, version 1. ``docs/shard-format.md`` is generated from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCHEMA = "mvad-shard"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CARD = "README.md"

MAX_CHUNK_BYTES = 256 << 20
MAX_SAMPLES = 1 << 16
MAX_VIEWS = 256
MAX_SIDE = 8192
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
    "seen": Field("N V H W", "uint8", "", "1 where the object is, 0 where nothing is (renders only)"),
    "source": Field("N V H W", "int32", "", "row * W + column of the raw scan, -1 where nothing is (renders only)"),
    "present": Field("N V", "uint8", "", "1 where the view exists; all else of a view that does not is 0"),
    "label": Field("N", "uint8", "", "1 if the sample is anomalous"),
    "view_label": Field("N V", "uint8", "", "1 if the view shows the defect"),
    "shift": Field("N 3", "float64", "metre", "to add to the positions of rig/poses for this sample (renders only)"),
    "key": Field("N", "S", "", "category/split/defect/id, UTF-8"),
    "defect": Field("N", "S", "", "good, or the defect's name, UTF-8"),
    "made_from": Field(
        "N", "S", "", "SHA-256 of what the sample was made from: a render's record, or the hashes of its photographs"
    ),
    "rig/poses": Field("V 4 4", "float64", "metre", "camera to sensor frame, x right, y down, z forward (renders only)"),
    "rig/intrinsics": Field("V 3 3", "float64", "pixel", "a pixel's centre lies at +0.5 (renders only)"),
}
IMAGES = ("rgb", "depth", "normal", "mask", "seen", "source")
"""Fields with one chunk per sample; each other field is one chunk."""

WRITTEN = "written.jsonl"
"""Hashes of the shards of a packing that has not reached its manifest yet."""

MODALITIES = ("rgb", "depth", "normal")
REQUIRED = ("mask", "present", "label", "view_label", "key", "defect", "made_from")
"""Fields of every shard; there is also at least one modality."""

ROOT_ATTRIBUTES = {
    "schema": "mvad-shard",
    "schema_version": "1, an integer",
    "dataset": "mvtec3d, eyecandies or realiad",
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
    "unit": "metre or pixel (fields that have one)",
    "step": "metres per level, a float64 (depth)",
    "offset": "metres of level 1, a float64 (depth)",
}
NUMBERS = ("step", "offset")


@dataclass(frozen=True)
class Sample:
    """One multi-view sample, coded as in a shard (as integers, except for ``shift``).

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
    shift
        (3,) float64, metres to add to the positions of the rig's poses, or None.
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
    shift: NDArray[np.float64] | None = None


def contradiction(sample: Sample) -> str:
    """Return the first inconsistency between a sample's fields, or "".

    A mask is only in views that exist and are labelled; a labelled view belongs to a labelled sample; values are in
    range; the pixels that show the object are the same in every field.
    """
    views = len(sample.mask)
    masked, labelled, present = (
        sample.mask.reshape(views, -1).any(axis=1),
        sample.view_label.astype(bool),
        sample.present.astype(bool),
    )
    for name in ("mask", "present", "view_label", "seen"):
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
    for name in ("rgb", "depth", "normal", "mask", "seen") if not present.all() else ():
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
    return ""
