"""How own scans are read; recorded with their renders, so that later scans are read alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mvad.errors import BadInput
from mvad.settings import RECORDED, key, resolve

READER = "folder"
"""Name of the reader of own scans, and of their dataset where no other name is given."""

PREFIX = "read."
"""Prefix of these options among those of a render."""

METRES = {"m": 1.0, "mm": 1e-3, "um": 1e-6}
"""Metres of one unit."""

NOT_STATED = "not stated"

_MAX_TEXT = 300


@dataclass(frozen=True)
class OwnScanOptions:
    """Options of reading own scans (``mvad render folder``); datasets that are published have their own readers without options."""

    reader: Literal["", "folder"] = key(
        "", "Reader of the scans. folder: the user's own scans; empty: a published dataset. Set by mvad render folder."
    )
    kind: Literal["auto", "scan", "mesh"] = key(
        "auto",
        "What the files are: organised scans or meshes. auto: determined from the files. A category has only one kind, which is recorded.",
    )
    unit: Literal["m", "mm", "um"] = key("m", "Unit of the coordinates in the files. Renders are always in metres.")
    axes: Literal["camera", "opengl"] = key(
        "camera",
        "Axes of organised scans. camera: x right, y down, z away from the sensor; opengl: x right, y up, z towards the camera. "
        "Meshes have their own axes, with z up.",
    )
    grid: str = key("", "Width x height of organised scans, such as 640x480, for files that do not state it.")
    crease_deg: float = key(
        40.0,
        "Meshes: if two faces meet at a larger angle than this (degrees), normals are not averaged across their edge.",
        least=0,
        most=180,
    )
    licence: str = key(NOT_STATED, "Licence of the scans in the user's words; everything made from them is marked with it.")

    def check(self) -> None:
        """Check the values that are free text.

        Raises
        ------
        BadInput
            If the grid is not WIDTHxHEIGHT, or the licence is not one short printable line.
        """
        _ = self.shape
        if not self.licence.strip() or not self.licence.isprintable() or len(self.licence) > _MAX_TEXT:
            raise BadInput(
                f"--licence: expected one line of at most {_MAX_TEXT} printable characters; name the licence, or its file"
            )

    @property
    def shape(self) -> tuple[int, int] | None:
        """(H, W) that the option ``grid`` states, or None.

        Raises
        ------
        BadInput
            If it is not WIDTHxHEIGHT.
        """
        if not self.grid:
            return None
        found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", self.grid)
        if found is None or "0" in (found[1].lstrip("0") or "0", found[2].lstrip("0") or "0"):
            raise BadInput(f"--grid {self.grid!a}: expected WIDTHxHEIGHT, such as 640x480")
        return int(found[2]), int(found[1])


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers.

    Attributes
    ----------
    light
        Eyecandies: number of the image from which colours are taken (M3DM and its successors use 4).
    own
        How the user's own scans are read.
    """

    light: int = 4
    own: OwnScanOptions = field(default_factory=OwnScanOptions)


def recorded_options(config: Mapping[str, Any]) -> OwnScanOptions:
    """Return the options among the recorded configuration of a render or of shards; the defaults where it has none.

    Raises
    ------
    BadInput
        If one of them has another form.
    """
    own = {name.removeprefix(PREFIX): value for name, value in config.items() if name.startswith(PREFIX)}
    return resolve(OwnScanOptions, [(RECORDED, own)])[0]
