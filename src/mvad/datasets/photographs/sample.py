"""One photographed part as a sample of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.masks import MOSTLY, UNMARKED, mask_of
from mvad.datasets.photographs.contents import contents_of, hash_of_files
from mvad.datasets.photographs.framing import Framing
from mvad.datasets.photographs.maps import HOLES, filled, read_depth, read_normals
from mvad.datasets.photographs.pictures import SCALED, mask_levels, read_picture
from mvad.datasets.photographs.placing import Placed, image_of, place, tile_of
from mvad.datasets.renders.coding import DepthCoding, encode_normal
from mvad.datasets.scan import GOOD, UNKNOWN, ImageRef, SampleRef
from mvad.datasets.shards.schema import Sample
from mvad.errors import BadInput

NO_MASKS = "no mask; every view is taken as showing the defect, and its pixels are left out of figures on pixels"


@dataclass
class PhotographedPart:
    """A part that was read.

    Attributes
    ----------
    sample
        Its views as in a shard.
    sha256
        Hash of its files.
    notes
        What was decided in reading it, one line each.
    places
        Where the pixels of each view's picture went, by view.
    """

    sample: Sample
    sha256: str
    notes: tuple[str, ...]
    places: dict[str, Placed] = field(default_factory=dict)


@dataclass
class _Planes:
    """The arrays of a part's views, to be filled."""

    framing: Framing
    rgb: NDArray[np.uint8] = field(init=False)
    mask: NDArray[np.uint8] = field(init=False)
    seen: NDArray[np.uint8] = field(init=False)
    depth: NDArray[np.float32] | None = None
    normal: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        views, size = len(self.framing.views), self.framing.size
        self.rgb = np.zeros((views, size, size, 3), np.uint8)
        self.mask, self.seen = (np.zeros((views, size, size), np.uint8) for _ in range(2))
        if self.framing.depth_range is not None:
            self.depth = np.zeros((views, size, size), np.float32)
        if self.framing.has_normals:
            self.normal = np.zeros((views, size, size, 3), np.float32)


def coding_of(framing: Framing) -> DepthCoding | None:
    """Return the coding of the depth of a framing's views; None without depth."""
    return None if framing.depth_range is None else DepthCoding.between(*framing.depth_range)


def read_part(ref: SampleRef, framing: Framing, given: Mapping[Path, bytes] | None = None) -> PhotographedPart:
    """Read a photographed part as a sample.

    A defective part is labelled in the views whose mask marks something; where it has no mask at all, in every view.
    ``given`` has the contents of its files where they were read before.

    Raises
    ------
    BadInput
        If a file is missing, damaged, of another kind or of other proportions than the training pictures of its view, or a
        view is none of the category's.
    """
    if ref.fault:
        raise BadInput(ref.fault)
    contents = contents_of(ref) if given is None else given
    planes, order = _Planes(framing), {name: k for k, name in enumerate(framing.views)}
    present, view_label = np.zeros(len(order), np.uint8), np.zeros(len(order), np.uint8)
    notes, places = list(ref.notes), {}
    decoded: dict[Path, Any] = {}
    masked = any(view.mask is not None for view in ref.views)
    for view in ref.views:
        if view.camera not in order:
            raise BadInput(
                f"{view.image}: the view {view.camera} is none of {', '.join(order)}; rename it, or remove the picture"
            )
        k = order[view.camera]
        present[k] = 1
        places[view.camera], decided = _add(planes, k, view, framing, contents, decoded)
        notes += decided
        if ref.defect in (GOOD, UNKNOWN):
            if planes.mask[k].any() and ref.defect == GOOD:
                raise BadInput(
                    f"{view.mask}: marks something on a part that is labelled good; move the part to its defect, or empty the mask"
                )
            planes.mask[k] = 0
        else:
            view_label[k] = bool(planes.mask[k].any()) if masked else 1
    label = int(ref.defect not in (GOOD, UNKNOWN))
    if label and not masked:
        notes.append(NO_MASKS)
    elif label and not view_label.any():
        notes.append(UNMARKED)
    coding = coding_of(framing)
    sample = Sample(
        ref.key, ref.defect, label, planes.mask, present, view_label, rgb=planes.rgb,
        depth=None if planes.depth is None or coding is None else coding.encode(planes.depth),
        normal=None if planes.normal is None else encode_normal(planes.normal), seen=planes.seen if framing.has_seen else None,
    )  # fmt: skip
    return PhotographedPart(sample, hash_of_files(contents), tuple(dict.fromkeys(notes)), places)


def _add(
    planes: _Planes, k: int, view: ImageRef, framing: Framing, contents: Mapping[Path, bytes], decoded: dict[Path, Any]
) -> tuple[Placed, list[str]]:
    """Decode one view into the planes; a montage is decoded once."""
    frame, notes = framing.views[view.camera], list[str]()
    if view.image not in decoded:
        decoded[view.image] = read_picture(view.image, frame.white, contents[view.image])
    picture = decoded[view.image]
    if view.tile is None:
        del decoded[view.image]  # only a montage is needed again
    if frame.white is None and SCALED in picture.notes:
        raise BadInput(f"{view.image}: has 16 bits a channel, the training pictures of this view have 8; save it with 8")
    notes += picture.notes
    image = image_of(picture.image, view.tile)
    placed = place(view.image, frame, image.width, image.height, framing.size)
    if view.tile is not None:
        row, column = divmod(view.tile.number, view.tile.columns)
        placed = replace(placed, corner=(row * image.height, column * image.width))
    planes.rgb[k] = placed.image(image)
    inside = placed.inside()
    if picture.seen is not None and framing.has_seen:
        inside &= placed.nearest(tile_of(picture.seen, view.tile))
        planes.rgb[k][~inside] = 0
    planes.seen[k] = inside
    for path in view.masks:
        if path not in decoded:
            decoded[path] = mask_of(path, *mask_levels(path, contents[path]), picture.shape)
        marked, decided = decoded[path]
        notes += [note for note in decided if note != MOSTLY or view.tile is None]
        planes.mask[k] |= placed.marks(tile_of(marked, view.tile))
    if planes.depth is not None:
        depth = _map(view, view.depth, read_depth, picture.shape, decoded)
        notes += _fill(planes.depth, k, placed, tile_of(depth, view.tile) * np.float32(framing.unit_m), inside, view.depth)
    if planes.normal is not None:
        normal = _map(view, view.normal, read_normals, picture.shape, decoded)
        notes += _fill(planes.normal, k, placed, tile_of(normal, view.tile), inside, view.normal)
    return placed, notes


def _map(view: ImageRef, path: Path | None, read: Any, shape: tuple[int, int], decoded: dict[Path, Any]) -> Any:
    """Return a depth or normal map of a view, which must be there and have the picture's size."""
    if path is None:
        raise BadInput(f"{view.image}: has no depth or normal map beside it, as the training pictures have; give it")
    if path not in decoded:
        decoded[path] = read(path)
    values = decoded[path]
    if values.shape[:2] != shape:
        raise BadInput(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels, the picture beside it has {shape[1]} x {shape[0]}; give both one size"
        )
    return values


def _fill(
    planes: NDArray[np.float32], k: int, placed: Placed, values: NDArray[np.float32], inside: NDArray[np.bool_], path: Path | None
) -> list[str]:
    """Put a map into its plane, without holes where the picture is seen; return what is to be told."""
    shown = placed.nearest(values)
    some: NDArray[np.bool_] = np.asarray(shown.any(axis=2) if shown.ndim == 3 else shown > 0)
    holes = inside & ~some
    if holes.any():
        if not some.any():
            raise BadInput(f"{path}: the map holds nothing where the picture is; leave the view out")
        shown = filled(shown, ~some)
    shown[~inside] = 0
    planes[k] = shown
    return [HOLES] if holes.any() else []
