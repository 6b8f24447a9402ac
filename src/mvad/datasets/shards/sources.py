"""Sources of samples: a rendered folder, or the photographs of a Real-IAD sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.images import read_rgb
from mvad.datasets.masks import RULE, UNMARKED, nearest, read_mask
from mvad.datasets.photographs.contents import contents_of, hash_of_files, sample_hash
from mvad.datasets.photographs.layouts import Listing
from mvad.datasets.photographs.splits import divide
from mvad.datasets.registry import licence_of
from mvad.datasets.renders.coding import DepthCoding, encode_normal
from mvad.datasets.renders.layout import MANIFEST, RECORD, category_folder
from mvad.datasets.renders.record import missing_of, notes_of, read_manifest, read_record, read_sample, summarised
from mvad.datasets.scan import GOOD, UNKNOWN, SampleRef
from mvad.datasets.shards.schema import NO_TEMPLATE, PLACES, Sample, contradictions_of_rig
from mvad.errors import BadInput

_AGAIN = "download the images of this category again"
DEFECTIVE_TRAINING = "training sample with a defect, which is trained on as normal"


@dataclass(frozen=True)
class Source:
    """A sample that is not read yet.

    Attributes
    ----------
    key, split
        Key and split of the sample.
    sha256
        Returns the hash of the files that it is made from, without decoding them.
    read
        Returns the sample, that hash, and notes on what was decided in reading it; each file is read once.
    """

    key: str
    split: str
    sha256: Callable[[], str]
    read: Callable[[], tuple[Sample, str, tuple[str, ...]]]


@dataclass(frozen=True)
class CategorySource:
    """A category to pack: the attributes of its shards, and its samples sorted by key.

    ``fields`` are those that photographs have (rgb, depth, normal, seen), empty: rgb, or all of a render. ``coding`` is that of depth; ``rig`` has poses (V, 4, 4), intrinsics (V, 3, 3), and near, far and radius (3,), as in the
    fields of a shard; photographs have neither. ``missing`` and ``notes`` are those of the render's manifest
    (``renders.record.missing_of``, ``notes_of``).
    """

    dataset: str
    category: str
    licence: str
    config: dict[str, Any]
    views: list[str]
    size: int
    sources: list[Source]
    coding: DepthCoding | None = None
    rig: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None = None
    audit: dict[str, Any] | None = None
    missing: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    fields: tuple[str, ...] = ()


def rendered_category(renders: Path, dataset: str, category: str) -> CategorySource:
    """Return a rendered category as a source of shards.

    Raises
    ------
    BadInput
        If the renders are incomplete or were changed since they were made.
    """
    folder = category_folder(renders, dataset, category)
    manifest = read_manifest(folder)
    if not manifest["samples"]:
        raise BadInput(f"{folder}: holds no rendered sample; run mvad render first")
    sources = []
    for entry in sorted(manifest["samples"], key=lambda entry: str(entry["key"])):
        sample_folder = files.below(folder, entry["split"], entry["defect"], entry["id"])
        sha256 = str(entry["record_sha256"])
        sources.append(
            Source(
                entry["key"],
                entry["split"],
                partial(_record_hash, sample_folder, sha256),
                partial(_rendered, sample_folder, sha256),
            )
        )
    rig = manifest["rig"]
    poses, intrinsics = np.array(rig["poses"], dtype=np.float64), np.array(rig["intrinsics"], dtype=np.float64)
    near_far_radius = np.array([rig.get(name, np.nan) for name in ("near_m", "far_m", "radius_m")], dtype=np.float64)
    wrong = contradictions_of_rig(poses, intrinsics, near_far_radius)
    if wrong:
        raise BadInput(f"{folder / MANIFEST}: {wrong[0]}; render again with --overwrite")
    return CategorySource(
        dataset, category, manifest["licence"], manifest["config"], [f"view_{k}" for k in range(len(poses))], int(rig["size"]),
        sources, DepthCoding.between(*near_far_radius[:2].tolist()), (poses, intrinsics, near_far_radius), manifest["audit"],
        missing_of(manifest), notes_of(manifest),
    )  # fmt: skip


def photographed_category(
    raw: Path, category: str, size: int, splits: str | None = None, validation: float = 0.0, images: str | None = None
) -> CategorySource:  # fmt: skip
    """Return a Real-IAD category as a source of shards, its images to be resized to ``size`` x ``size`` pixels.

    Parameters
    ----------
    raw, category, size
        Real-IAD's folder, the category, and the side of a view in pixels.
    splits
        Name of the folder of split files, see ``realiad.find_splits``.
    validation
        Share of the good training samples to hold out for validation (``photographs.splits.divide``), so that runs get a
        threshold. 0: none; the paper's protocol trains on all of them. Recorded in the configuration where it is not 0.
    images
        Name of the folder of images, "" for the smallest that holds the category; None: by ``size`` (``realiad.image_root``),
        recorded in the configuration (``images``) where it is not the smallest.

    Raises
    ------
    BadInput
        If its JSON is not a split file, or there are no images.
    """
    smallest = realiad.image_root(raw, category)
    if smallest is None:
        raise BadInput(f"{raw}: no images; download realiad_256 (or _512, _1024) there, or give --dry-run")
    folder = realiad.find_splits(raw, splits) or realiad.JSON_FOLDERS[0]
    root = realiad.image_root(raw, category, size) if images is None else raw / images if images else smallest
    assert root is not None, "where there is a smallest, there is one for each size"
    refs, held_out = with_validation(realiad.refs(raw, category, folder, root), validation)
    cameras = sorted({view.camera for ref in refs for view in ref.views}, key=realiad.camera_number)
    sources = [
        Source(ref.key, ref.split, partial(sample_hash, ref, remedy=_AGAIN), partial(_photographed, ref, cameras, size))
        for ref in refs
    ]
    split_file = realiad.splits_root(raw) / folder / f"{category}.json"
    config = {
        "size": size, "resize": "area (box)", "mask_rule": RULE, "split_file_sha256": files.sha256_file(split_file),
    }  # fmt: skip
    if folder != realiad.JSON_FOLDERS[0]:
        config["splits"] = folder
    if validation:
        config["validation"] = validation
    if root != smallest:
        config["images"] = root.name
    notes = summarised({ref.key: (DEFECTIVE_TRAINING,) for ref in refs if ref.split == "train" and ref.defect != GOOD})
    notes += [{"note": text, "samples": 0, "first": category} for text in held_out]
    return CategorySource(realiad.NAME, category, licence_of(realiad.NAME, raw), config, cameras, size, sources, notes=notes)


def with_validation(refs: Sequence[SampleRef], share: float) -> tuple[list[SampleRef], list[str]]:
    """Return samples sorted by key, a share of the good training samples held out for validation, and what is told of that."""
    if not share:
        return sorted(refs, key=lambda ref: ref.key), []
    divided = divide(Listing([ref for ref in refs if ref.defect == GOOD]), share, 0.0)
    return sorted([*divided.samples, *(ref for ref in refs if ref.defect != GOOD)], key=lambda ref: ref.key), divided.notes


def _record_hash(folder: Path, sha256: str) -> str:
    path = folder / RECORD
    if not path.exists() or files.sha256_file(path) != sha256:
        raise BadInput(f"{folder}: is not what the manifest lists; run the same mvad render again")
    return sha256


def _rendered(folder: Path, sha256: str) -> tuple[Sample, str, tuple[str, ...]]:
    _record_hash(folder, sha256)
    record = read_record(folder)
    images = read_sample(folder, record)
    anomalous = record["defect"] not in (GOOD, UNKNOWN)
    sample = Sample(
        key=record["key"], defect=record["defect"], label=int(anomalous), rgb=images.rgb, mask=images.mask,
        present=np.ones(len(images.rgb), np.uint8), view_label=np.asarray(images.mask.any(axis=(1, 2)), dtype=np.uint8),
        depth=images.depth, normal=images.normal, seen=(images.source >= 0).astype(np.uint8), source=images.source,
        **_place(folder, record),
    )  # fmt: skip
    return sample, sha256, ()  # the render's manifest has the notes


def _place(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what a render's record says of where the object lay (``schema.PLACES``)."""
    try:
        pose, size = np.array(record["pose"], dtype=np.float64), np.array(record["scan_size"], dtype=np.int32)
        number, fit, turn = record["pose_number"], record["pose_fit"], float(record["turn_deg"])
        if pose.shape != (4, 4) or size.shape != (2,) or type(number) is not int:
            raise ValueError(f"shapes {pose.shape} and {size.shape}, number {number!r}")
        fit, cut = NO_TEMPLATE if fit is None else float(fit), _cut(record["cut"], int(record["views"]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{folder / RECORD}: expected {', '.join(PLACES)} ({error}); render again with --overwrite") from error
    return {"pose": pose, "pose_number": number, "pose_fit": fit, "turn_deg": turn, "cut": cut, "scan_size": size}


def _cut(beyond: Sequence[int], views: int) -> NDArray[np.uint8]:
    """Return (V,) uint8, 1 for the views in a list."""
    if any(type(view) is not int or not 0 <= view < views for view in beyond):
        raise ValueError(f"cut {beyond!r} of {views} views")
    cut = np.zeros(views, np.uint8)
    cut[list(beyond)] = 1
    return cut


def seen_sample(
    key: str, rgb: NDArray[np.uint8], depth: NDArray[np.float32], normal: NDArray[np.float32], source: NDArray[np.int32],
    coding: DepthCoding, pose: NDArray[np.float64], pose_number: int, pose_fit: float | None, turn_deg: float,
    cut: Sequence[int], scan_size: tuple[int, int],
) -> Sample:  # fmt: skip
    """Return rendered views as the sample that writing and packing them would give, without labels.

    Parameters
    ----------
    key
        Key of the sample.
    rgb, depth, normal, source
        Outputs of the renderer: (V, H, W, 3) uint8, (V, H, W) float32 metres, (V, H, W, 3) float32, (V, H, W) int32.
    coding
        Coding of the depth.
    pose, pose_number, pose_fit, turn_deg
        (4, 4) float64, metres, number, fit (None without a template) and turn (degrees) of the object's pose.
    cut, scan_size
        Views that the object reaches beyond; height and width of the scan.
    """
    views = len(rgb)
    return Sample(
        key=key, defect=UNKNOWN, label=0, rgb=rgb, mask=np.zeros(source.shape, np.uint8), present=np.ones(views, np.uint8),
        view_label=np.zeros(views, np.uint8), depth=coding.encode(depth), normal=encode_normal(normal),
        seen=(source >= 0).astype(np.uint8), source=source, pose=pose, pose_number=pose_number,
        pose_fit=NO_TEMPLATE if pose_fit is None else pose_fit, turn_deg=turn_deg, cut=_cut(cut, views),
        scan_size=np.array(scan_size, np.int32),
    )  # fmt: skip


def _photographed(ref: SampleRef, cameras: Sequence[str], size: int) -> tuple[Sample, str, tuple[str, ...]]:
    views = {view.camera: view for view in ref.views}
    rgb = np.zeros((len(cameras), size, size, 3), np.uint8)
    mask = np.zeros((len(cameras), size, size), np.uint8)
    present, view_label = np.zeros(len(cameras), np.uint8), np.zeros(len(cameras), np.uint8)
    contents = contents_of(ref, _AGAIN)
    notes: list[str] = []
    for k, camera in enumerate(cameras):
        if camera not in views:
            continue
        view = views[camera]
        image = read_rgb(view.image, data=contents[view.image])
        if image.shape[0] != image.shape[1]:
            raise BadInput(
                f"{view.image}: {image.shape[1]} x {image.shape[0]} is not square, as Real-IAD's images are; download it again"
            )
        present[k] = 1
        rgb[k] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
        if view.mask is not None:
            view_label[k] = 1
            marked, decided = read_mask(view.mask, image.shape[:2], contents[view.mask])
            notes += [*decided, *(() if marked.any() else (UNMARKED,))]
            mask[k] = nearest(marked, (size, size))
    sample = Sample(ref.key, ref.defect, int(view_label.any()), mask, present, view_label, rgb=rgb)
    return sample, hash_of_files(contents), tuple(dict.fromkeys(notes))
