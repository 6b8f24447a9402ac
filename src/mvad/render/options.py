"""Options of a render, each with its reason. The resolved values are recorded beside the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mvad.datasets.own.options import PREFIX, OwnScanOptions, ReadOptions
from mvad.settings import flatten, key


@dataclass(frozen=True)
class CleanOptions:
    """Options of background removal and hole filling."""

    seed: int = key(0, "Seed of the RANSAC for the support plane; the plane of a scan depends on nothing else.")
    frames: tuple[float, ...] = key(
        (0.025, 0.10), "Widths of border bands, as shares of the image's shorter side; the object rarely reaches into them."
    )
    plane_distance_mm: float = key(
        2.0, "Greatest distance of a point on the support plane; measured planes are flat to 1.1 mm (1st to 99th percentile)."
    )
    plane_margin_mm: float = key(
        3.0, "Points up to this height are removed with the plane. Published recipes use 5; at 3 the object is still separated."
    )
    piece_share: float = key(
        0.0004,
        "Least size, as a share of the largest connected piece, of a piece that may belong to the object; see the next two keys.",
    )
    piece_reach: float = key(
        1.25, "Greatest distance of such a piece from the largest piece's centre, in radii of the largest piece."
    )
    piece_height_mm: float = key(
        5.0, "Least height of such a piece at its highest point; lower ones are unevenness of the plane."
    )
    low_margin_mm: float = key(
        1.5,
        "A piece lower than plane_margin_mm is kept as well if it is higher than this and its outline is a step; "
        "the support's unevenness is about 1 mm.",
    )
    low_step_mm: float = key(
        1.0,
        "Least drop, within two grid points, at the outline of such a low piece: the outline of a part is a step, that of an "
        "uneven support is not.",
    )
    low_step_share: float = key(0.5, "Least share of a low piece's outline that must be a step.")
    fill_share: float = key(
        0.05, "Greatest size, as a share of the object, of an enclosed hole of missing returns that is filled on the grid."
    )
    floor_margin: float = key(
        0.002, "Eyecandies: points below this height are removed with the floor (z = 0 in world coordinates, coded to 2 um)."
    )
    wall: float = key(1.17, "Eyecandies: |x| beyond this is a side wall (the walls are at 1.1861).")
    back: float = key(1.10, "Eyecandies: y beyond this is the back panel (1.19 to 1.32) or the ledge (its front is at 1.146).")


@dataclass(frozen=True)
class SurfaceOptions:
    """Options of meshing: which neighbouring points are joined."""

    max_edge: float = key(
        8.0, "A triangle with an edge longer than this many times the scan's point spacing bridges a discontinuity.", least=1
    )
    min_cosine: float = key(
        0.05,
        "A triangle bridges a discontinuity if the cosine between its normal and the sensor's ray is below this (87 degrees).",
        least=0,
        most=1,
    )
    normal_rounds: int = key(
        2, "Rounds of averaging face normals over their vertices; sensor noise is 0.05 mm at 0.27 mm spacing.", least=0
    )


@dataclass(frozen=True)
class RigOptions:
    """Options of the cameras."""

    views: int = key(5, "Number of views V: one along the sensor's axis, the others around it, as in Real-IAD.", least=1, most=36)
    tilt_deg: float = key(
        30.0,
        "Tilt of views 1 to V - 1 in degrees. At larger angles a scan taken from one side shows mostly holes.",
        least=0,
        most=89,
    )
    size: int = key(256, "Side of a view in pixels.", least=8, most=4096)
    frame: Literal["object", "sensor"] = key(
        "object",
        "Where the cameras stand. object: around the object as it lies, turned with it, so that every part is seen in the same "
        "pose; sensor: around the sensor's axis, however the part lies.",
    )
    axis: Literal["auto", "support", "sensor"] = key(
        "auto",
        "In the object's frame, what view 0 looks along. support: the support's normal; sensor: the sensor's axis, which hides "
        "nothing that was scanned, but turns a part about a slanted axis; auto: sensor where the two are within 3 degrees.",
    )
    mirror: Literal["auto", "never"] = key(
        "auto",
        "In the object's frame, what becomes of poses that are mirror images of one another, as of a cane that hooks left or "
        "right. auto: one is drawn mirrored, if marks on the parts (lettering, say) do not speak against it; never: each pose "
        "is one of its own.",
    )
    center: Literal["category", "scan"] = key(
        "category",
        "In the sensor's frame: category: one set of cameras around the median centre of the category; scan: shifted to the "
        "centre of each scan. In the object's frame every object's centre is the cameras'.",
    )
    measured: int = key(
        100, "Number of training scans that the rig is fitted to, evenly spread over their keys; 0 uses all.", least=0
    )
    reach_quantile: float = key(
        0.98,
        "In the sensor's frame: quantile, over the training scans, of the object's extent from a view's centre; the field of view "
        "fits it. In the object's frame it fits all that lie in a stable pose.",
        least=0,
        most=1,
    )
    margin: float = key(1.06, "Factor by which the field of view is larger than that extent.", least=1)


@dataclass(frozen=True)
class RenderOptions:
    """Options of a render job."""

    backend: Literal["auto", "cpu", "egl"] = key("auto", "Rasteriser: auto uses egl on a hardware GPU, else cpu.")
    device: int | None = key(
        None,
        "Number of the EGL device. None uses that of the variable EGL_DEVICE_ID, else the first hardware device; local workers then "
        "take turns over the cards of its model. Not recorded, because it does not change the output.",
    )
    light: int = key(
        4, "Eyecandies: number of the image (one per light) that gives the colours; published methods use 4.", least=0
    )
    samples: int = key(
        3,
        "Samples per side of a pixel over which colour is averaged; 1 gives each pixel the colour of its scan point. Odd, so "
        "that the middle sample is the pixel's centre. "
        "Compared with 4 x 4 samples, 3 reach 54 dB PSNR on real scans, 1 reaches 34.",
        least=1,
        most=15,
        odd=True,
    )
    clean: CleanOptions = field(default_factory=CleanOptions)
    surface: SurfaceOptions = field(default_factory=SurfaceOptions)
    rig: RigOptions = field(default_factory=RigOptions)
    read: OwnScanOptions = field(default_factory=OwnScanOptions)

    def recorded(self) -> dict[str, Any]:
        """Return the keys and values that determine the output, as they are recorded beside it: without ``device``.

        How own scans are read is only recorded where they are own scans.
        """
        keys = flatten(replace(self, device=None))
        return keys if self.read.reader else {name: value for name, value in keys.items() if not name.startswith(PREFIX)}

    @property
    def reading(self) -> ReadOptions:
        """How raw scans are read."""
        return ReadOptions(self.light, self.read)


SAME_VIEWS = ("backend", "device")
"""Options of rendering that change no more than roundings."""


def changed_option(recorded: Mapping[str, Any], asked: Mapping[str, Any], ignored: Sequence[str] = ()) -> str | None:
    """Return the first option whose value differs from the recorded one, or None; one that was not recorded does not differ."""
    return next((name for name, value in asked.items() if name not in ignored and recorded.get(name, value) != value), None)
