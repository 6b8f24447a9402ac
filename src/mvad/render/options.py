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

    seed: int = key(
        0, "Seed of the RANSAC that estimates the support plane. The estimated plane depends only on the scan and this seed."
    )
    frames: tuple[float, ...] = key(
        (0.025, 0.10),
        "Widths of the border bands that the search for the support plane uses, as shares of the image's shorter side. The object rarely reaches into them.",
    )
    plane_distance_mm: float = key(
        2.0,
        "Greatest distance from the support plane at which a point counts as lying on it. Measured planes are flat to 1.1 mm (1st to 99th percentile).",
    )
    plane_margin_mm: float = key(
        3.0,
        "Points up to this height above the plane are removed with it. Published recipes use 5; at 3 the object is still separated.",
    )
    piece_share: float = key(
        0.0004,
        "Smallest size of a connected piece that may belong to the object, as a share of the largest piece; see the next two keys.",
    )
    piece_reach: float = key(
        1.25, "Greatest distance of such a piece from the centre of the largest piece, in radii of the largest piece."
    )
    piece_height_mm: float = key(
        5.0, "Smallest height of such a piece at its highest point; lower pieces are unevenness of the plane."
    )
    low_margin_mm: float = key(
        1.5,
        "A piece below plane_margin_mm is kept, too, if it is higher than this value and its outline is a step. The support's "
        "unevenness is about 1 mm.",
    )
    low_step_mm: float = key(
        1.0,
        "Smallest drop in height, within two grid points, that counts as a step at the outline of such a low piece. The outline "
        "of a part is a step; the outline of an uneven spot of the support is not.",
    )
    low_step_share: float = key(0.5, "Smallest share of a low piece's outline that must be a step.")
    fill_share: float = key(
        0.05, "An enclosed hole of missing returns is filled on the grid if its size, as a share of the object, is at most this."
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
        8.0,
        "A triangle is taken to bridge a discontinuity if one of its edges is longer than this many times the scan's point spacing.",
        least=1,
    )
    min_cosine: float = key(
        0.05,
        "A triangle is taken to bridge a discontinuity if the cosine between its normal and the sensor's ray is below this (0.05: 87 degrees).",
        least=0,
        most=1,
    )
    normal_rounds: int = key(
        2,
        "Number of rounds in which face normals are averaged over their vertices. Sensor noise is 0.05 mm at a spacing of 0.27 mm.",
        least=0,
    )


@dataclass(frozen=True)
class RigOptions:
    """Options of the cameras."""

    views: int = key(
        5, "Number of views V: one along the central axis (rig.axis), the others around it, as in Real-IAD.", least=1, most=36
    )
    tilt_deg: float = key(
        30.0,
        "Tilt of views 1 to V - 1 in degrees. At larger angles, the views of a scan taken from one side show mostly holes.",
        least=0,
        most=89,
    )
    size: int = key(256, "Side of a view in pixels.", least=16, most=4096)
    frame: Literal["object", "sensor"] = key(
        "object",
        "Where the cameras stand. object: around the object, turned with it, so that every part is seen in the same pose; "
        "sensor: around the sensor's axis, however the part lies.",
    )
    axis: Literal["auto", "support", "sensor"] = key(
        "auto",
        "In the object's frame: the direction that view 0 looks along. support: the support's normal; sensor: the sensor's "
        "axis, from which everything that was scanned is visible, but parts then turn about a slanted axis; auto: sensor if the "
        "two directions are within 3 degrees of each other, otherwise support.",
    )
    mirror: Literal["auto", "never"] = key(
        "auto",
        "In the object's frame: how poses that are mirror images of each other are treated, such as those of a cane that hooks "
        "left or right. auto: they are one pose, and one of them is drawn mirrored, unless marks on the parts (such as "
        "lettering) speak against it; never: each is a pose of its own.",
    )
    center: Literal["category", "scan"] = key(
        "category",
        "In the sensor's frame: where the cameras are centred. category: one set of cameras around the median centre of the "
        "category; scan: the cameras are shifted to the centre of each scan. In the object's frame, the cameras are always "
        "centred on the object.",
    )
    measured: int = key(
        100,
        "Number of training scans that the cameras are fitted to, evenly spread over the sorted keys; 0: all of them.",
        least=0,
    )
    reach_quantile: float = key(
        0.98,
        "In the sensor's frame: the field of view fits this quantile, over the training scans, of the object's extent from a "
        "view's centre. In the object's frame, it fits all training objects that lie in a stable pose.",
        least=0,
        most=1,
    )
    margin: float = key(
        1.06, "Factor by which the field of view is larger than the extent that it fits (rig.reach_quantile).", least=1
    )


@dataclass(frozen=True)
class RenderOptions:
    """Options of a render job."""

    backend: Literal["auto", "cpu", "egl"] = key("auto", "Rasteriser. auto: egl if there is a hardware GPU, otherwise cpu.")
    device: int | None = key(
        None,
        "Number of the EGL device. None: the number in the environment variable EGL_DEVICE_ID; without this variable, the first "
        "hardware device, and local workers are then spread over all cards of the same model. Not recorded, because it does not "
        "change the output.",
    )
    light: int = key(
        4,
        "Eyecandies: number of the image (there is one per light) from which colours are taken. Published methods use 4.",
        least=0,
    )
    samples: int = key(
        3,
        "Number of samples per side of a pixel over which colour is averaged; 1: each pixel has the colour of its scan point. "
        "The number is odd, so that the middle sample is the pixel's centre. Compared with 4 x 4 samples, 3 x 3 samples reach "
        "54 dB PSNR on real scans, and one sample 34 dB.",
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
