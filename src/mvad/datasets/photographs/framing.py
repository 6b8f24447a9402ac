"""How the photographs of each view become squares of one size: fitted to training pictures, recorded, and used ever after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvad.datasets.photographs.crop import Box, object_box, window_of
from mvad.datasets.photographs.layouts import natural
from mvad.datasets.photographs.levels import white_of
from mvad.datasets.photographs.maps import depth_limits
from mvad.datasets.photographs.pictures import Header, greatest_level, read_header, read_picture
from mvad.datasets.photographs.placing import ViewFrame, image_of, place, tile_size
from mvad.datasets.scan import ImageRef, SampleRef
from mvad.errors import BadInput

CROPS = ("none", "auto")
_FITTED = 40
"""Greatest number of training pictures per view that are decoded to fit a window."""
_LOOKED_AT = 256
"""Side at which an object is looked for, pixels."""


@dataclass(frozen=True)
class Framing:
    """How photographs become views.

    Attributes
    ----------
    size
        Side of a view, pixels.
    views
        Frame of each view by its name, in order.
    has_seen
        Whether views say which pixels are of the picture: some are padded, transparent, or have depth.
    depth_range
        Nearest and farthest depth of the training pictures, metres; None without depth maps.
    unit_m
        Metres of one unit of a depth map.
    has_normals
        Whether views have normals.
    """

    size: int
    views: Mapping[str, ViewFrame]
    has_seen: bool = False
    depth_range: tuple[float, float] | None = None
    unit_m: float = 1.0
    has_normals: bool = False

    def shown_at(self, size: int) -> list[tuple[slice, slice]]:
        """Return the rows and columns of each view, at a side of ``size`` pixels, that show its picture; the rest is padding."""
        targets = [place(Path(), frame, frame.width, frame.height, size).target for frame in self.views.values()]
        return [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in targets]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as recorded with the shards."""
        depth = {} if self.depth_range is None else {"depth_range": list(self.depth_range), "unit_m": self.unit_m}
        return {
            "size": self.size, "views": {name: frame.to_json() for name, frame in self.views.items()}, "seen": self.has_seen,
            "normals": self.has_normals, **depth,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any], views: Sequence[str]) -> Framing:
        """Return what ``to_json`` was called on; ``views`` are the views in order, which JSON of sorted keys loses."""
        frames = {name: ViewFrame.from_json(value["views"][name]) for name in views}
        depth = value.get("depth_range")
        return cls(
            int(value["size"]), frames, bool(value["seen"]), None if depth is None else (float(depth[0]), float(depth[1])),
            float(value.get("unit_m", 1.0)), bool(value["normals"]),
        )  # fmt: skip

    @classmethod
    def recorded(cls, pictures: Mapping[str, Any]) -> Framing:
        """Return the framing in what shards and runs record of photographs (``schema.PICTURES``)."""
        return cls.from_json(pictures["framing"], [str(name) for name in pictures["views"]])


@dataclass
class Fitted:
    """A framing, and what was decided in fitting it.

    Attributes
    ----------
    framing
        The framing.
    notes
        What was decided, one line each.
    """

    framing: Framing
    notes: list[str] = field(default_factory=list)


def view_names(samples: Iterable[SampleRef]) -> list[str]:
    """Return the names of all views in natural order: C9 before C10."""
    return sorted({view.camera for sample in samples for view in sample.views}, key=natural)


def fit_framing(samples: Sequence[SampleRef], size: int, crop: str, unit_m: float, jobs: int) -> Fitted:
    """Fit the framing of a category to its training pictures; only headers are read unless something must be measured.

    Parameters
    ----------
    samples
        All samples of the category.
    size
        Side of a view, pixels.
    crop
        ``none`` shows the whole picture, ``auto`` the window that holds the object in up to 40 training pictures of a view.
    unit_m
        Metres of one unit of a depth map.
    jobs
        Pictures that are read at the same time.

    Raises
    ------
    BadInput
        If no training picture of a view can be read.
    """
    names = view_names(samples)
    with ThreadPoolExecutor(max(jobs, 1), "mvad-fit") as pool:
        headers, faults = _headers(samples, pool)
        fitted = Fitted(Framing(size, {}))
        training = [sample for sample in samples if sample.split == "train" and sample.key not in faults] or [
            sample for sample in samples if sample.key not in faults
        ]
        frames = {}
        for name in names:
            views = [view for sample in training for view in sample.views if view.camera == name]
            if not views:
                raise BadInput(f"the view {name} is in no readable training sample; add it to train/good, or leave it out")
            frames[name] = _frame(name, views, headers, crop, pool, fitted)
        modal = _maps(training, unit_m, pool)
    alpha = any(header.has_alpha for header in headers.values())
    has_maps = modal.depth_range is not None or modal.has_normals
    seen = alpha or has_maps or any(frame.pads for frame in frames.values())
    fitted.framing = replace(modal, size=size, views=frames, has_seen=seen)
    return fitted


def header_problems(samples: Sequence[SampleRef], jobs: int) -> list[str]:
    """Return one line for each part of which the header of a picture cannot be read; no pixel is decoded."""
    with ThreadPoolExecutor(max(jobs, 1), "mvad-fit") as pool:
        return list(_headers(samples, pool)[1].values())


def _headers(samples: Sequence[SampleRef], pool: ThreadPoolExecutor) -> tuple[dict[Path, Header], dict[str, str]]:
    """Return the header of each picture, and the reason by key of samples of which one cannot be read."""

    def read(path: Path) -> Header | BadInput:
        try:
            return read_header(path)
        except BadInput as error:
            return error

    paths = list(dict.fromkeys(view.image for sample in samples for view in sample.views))
    found = dict(zip(paths, pool.map(read, paths), strict=True))
    faults: dict[str, str] = {}
    for sample in samples:
        for view in sample.views:
            header = found[view.image]
            if isinstance(header, BadInput):
                faults.setdefault(sample.key, str(header))
            elif view.tile is not None and (header.width % view.tile.columns or header.height % view.tile.rows):
                faults.setdefault(
                    sample.key,
                    f"{view.image}: {header.width} x {header.height} pixels is no montage of {view.tile.columns} x {view.tile.rows} "
                    "equal views; give another --montage",
                )
    return {path: header for path, header in found.items() if isinstance(header, Header)}, faults


def _frame(
    name: str, views: Sequence[ImageRef], headers: Mapping[Path, Header], crop: str, pool: ThreadPoolExecutor, fitted: Fitted
) -> ViewFrame:
    """Return the frame of one view."""
    sizes = Counter(tile_size(headers[view.image], view.tile) for view in views)
    (width, height), _ = max(sizes.items(), key=lambda item: (item[1], item[0]))
    if len(sizes) > 1:
        listed = ", ".join(f"{w} x {h} ({count})" for (w, h), count in sizes.most_common(4))
        fitted.notes.append(
            f"view {name}: training pictures have several sizes: {listed}; {width} x {height} is taken as its own"
        )
    step = max(1, -(-len(views) // _FITTED))
    some = views[::step]
    deep = [view for view in views if headers[view.image].bits == 16]
    white = None
    if deep:
        levels = [level for level in pool.map(lambda view: _quiet(greatest_level, view.image), deep) if level is not None]
        white = white_of(max(levels, default=65535))
        fitted.notes.append(f"view {name}: pictures of 16 bits are scaled to 8, level {white} becomes 255")
    frame = ViewFrame.whole(width, height, white)
    if crop != "auto":
        return frame
    alike = [view for view in some if tile_size(headers[view.image], view.tile) == (width, height)]
    boxes = list(pool.map(lambda view: _box_in(view, white), alike))
    window, reason = window_of(boxes, width, height)
    if window is None:
        fitted.notes.append(f"view {name}: not cropped, {reason}")
        return frame
    left, top, right, _ = window
    fitted.notes.append(
        f"view {name}: cropped to {right - left:.0f} x {right - left:.0f} pixels at ({left:.0f}, {top:.0f}) of {width} x {height}"
    )
    return replace(frame, window=window)


def _box_in(view: ImageRef, white: int | None) -> Box | None:
    """Return the box of the object in a picture that is looked at in a smaller size; None also where it cannot be read."""
    try:
        picture = image_of(read_picture(view.image, white).image, view.tile)
    except BadInput:
        return None
    height, width = picture.height, picture.width
    scale = max(1.0, max(height, width) / _LOOKED_AT)
    small = picture.resize((max(1, round(width / scale)), max(1, round(height / scale))), Image.Resampling.BOX)
    box = object_box(np.asarray(small))
    if box is None:
        return None
    x, y = width / small.width, height / small.height
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _quiet(measure: Any, path: Path) -> Any:
    """Return a measure of a picture, None where it cannot be read; packing it says why."""
    try:
        return measure(path)
    except BadInput:
        return None


def _maps(training: Sequence[SampleRef], unit_m: float, pool: ThreadPoolExecutor) -> Framing:
    """Return a framing with the range of the depth maps, and whether there are normals; all views of all samples need them."""
    views = [view for sample in training for view in sample.views]
    has_depth, has_normals = (all(getattr(view, kind) is not None for view in views) for kind in ("depth", "normal"))
    limits = None
    if has_depth and views:
        found = [each for each in pool.map(lambda view: _quiet(depth_limits, view.depth), views) if each is not None]
        if not found:
            raise BadInput(f"{views[0].depth}: no depth map of a training sample can be read")
        near, far = min(low for low, _ in found) * unit_m, max(high for _, high in found) * unit_m
        margin = 0.05 * max(far - near, 1e-6)
        limits = (max(near - margin, 1e-9), far + margin)
    return Framing(0, {}, depth_range=limits, unit_m=unit_m, has_normals=has_normals and bool(views))
