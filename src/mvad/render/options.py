"""Every number of a render, with its reason. The resolved values are recorded beside the output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mvad.settings import key


@dataclass(frozen=True)
class CleanOptions:
    """What is background, and which holes are filled."""

    seed: int = key(0, "Seed of the plane's RANSAC; the plane of a scan depends on nothing else.")
    frames: tuple[float, ...] = key(
        (0.025, 0.10), "Widths of border bands, as shares of the image's shorter side: where the object rarely reaches."
    )
    plane_distance_mm: float = key(
        2.0, "A point this near supports the plane; measured planes are flat to 1.1 mm (1st to 99th percentile)."
    )
    plane_margin_mm: float = key(
        3.0, "Points up to this height go with the plane. Published recipes take 5; at 3 the object is still apart."
    )
    piece_share: float = key(
        0.0004, "A connected piece of at least this share of the largest may belong to the object, see the next two keys."
    )
    piece_reach: float = key(1.25, "Such a piece must lie within this many radii of the largest piece's centre.")
    piece_height_mm: float = key(5.0, "Such a piece must rise this high somewhere: lower ones are unevenness of the plane.")
    low_margin_mm: float = key(
        1.5,
        "A piece lower than the margin is kept, too, from this height on, if its outline ends in a step; the support's unevenness is about 1 mm.",
    )
    low_step_mm: float = key(
        1.0,
        "The outline of such a low piece must drop by this much within two points: a part ends in a step, an uneven support does not.",
    )
    low_step_share: float = key(0.5, "Share of a low piece's outline that must end in a step.")
    fill_share: float = key(0.05, "An enclosed hole of missing returns up to this share of the object is filled on the grid.")
    floor_margin: float = key(
        0.002, "Eyecandies: points below this height go with the floor (z = 0 in the world, coded to 2 um)."
    )
    wall: float = key(1.17, "Eyecandies: |x| beyond this is a side wall (they stand at 1.1861).")
    back: float = key(
        1.10, "Eyecandies: y beyond this is the back panel (1.19 to 1.32) or the ledge (its front stands at 1.146)."
    )


@dataclass(frozen=True)
class SurfaceOptions:
    """Which neighbouring points are joined."""

    max_edge: float = key(8.0, "A triangle edge longer than this many of the scan's spacings bridges a discontinuity.")
    min_cosine: float = key(0.05, "A triangle that the sensor saw flatter than this (87 degrees) bridges a discontinuity.")
    normal_rounds: int = key(
        2, "Rounds of averaging face normals over their vertices; sensor noise is 0.05 mm at 0.27 mm spacing."
    )


@dataclass(frozen=True)
class RigOptions:
    """The cameras."""

    views: int = key(5, "Number of views V: one along the sensor's axis, the others around it, as in Real-IAD.")
    tilt_deg: float = key(
        30.0, "Tilt of views 1 to V - 1 in degrees. Further round, a scan taken from one side shows mostly holes."
    )
    size: int = key(256, "Side of a view in pixels.")
    center: Literal["category", "scan"] = key(
        "category", "The cameras stand around the category's median centre, or are shifted to each scan's own."
    )
    measured: int = key(100, "Training scans that the rig is fitted to, evenly spread over their keys; 0 takes all.")
    reach_quantile: float = key(0.98, "Quantile over the training scans of how far from a view's middle the object reaches.")
    margin: float = key(1.06, "Room left around that reach.")


@dataclass(frozen=True)
class RenderOptions:
    """One render job."""

    backend: Literal["auto", "cpu", "egl"] = key("auto", "Rasteriser: auto takes egl on a hardware GPU, else cpu.")
    device: int | None = key(
        None, "EGL device to draw on; none takes the first that is hardware. Not recorded: it does not change what is rendered."
    )
    light: int = key(4, "Eyecandies: number of the image that gives the colours; published methods use 4.")
    samples: int = key(
        3,
        "Samples a pixel's side that colour is averaged over; 1 gives each pixel the colour of its scan point. Odd, so that the middle one is the pixel's centre. Against 4 x 4 samples 3 reach 54 dB on real scans; 1 reaches 41.",
    )
    clean: CleanOptions = field(default_factory=CleanOptions)
    surface: SurfaceOptions = field(default_factory=SurfaceOptions)
    rig: RigOptions = field(default_factory=RigOptions)

    def recorded(self) -> RenderOptions:
        """Return the options that decide what is rendered, as they are kept beside it."""
        return replace(self, device=None)
