"""Reader of 3D-ADAM (McHard et al. 2025) in MVTec 3D-AD's tree: scans of additively manufactured parts.

    <category>/{train,validation}/good/{xyz/NNN_P.tiff, rgb/NNN_P.png}
    <category>/test/<defect>/{xyz/NNN_P.tiff, rgb/NNN_P.png, ground_truth/NNN_P.png}

P is the physical part (A, B, ...), which is the group of a scan: there are several scans of each part. The published splits are
kept. A test scan of a part that is also in the training split is packed with a notice, since it says less about unseen parts.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mvad.datasets.mvtec3d import MVTec3D
from mvad.datasets.scan import ReadOptions, ScanRef

PART_TRAINED = "its physical part is among those of the training scans, too"

_PART = re.compile(r".*_([A-Za-z0-9]+)\Z")


class ADAM3D(MVTec3D):
    """Reader of 3D-ADAM."""

    name = "3dadam"
    licence = "CC BY-NC-SA 4.0, 3D-ADAM authors"
    known_categories: tuple[str, ...] = (
        "1m1", "1m2", "1m3", "2m1", "2m2h", "2m2m", "3m1", "3m2", "3m2c", "4m1", "4m2", "4m2c", "gripper_closed", "gripper_open",
        "helicalgear1", "helicalgear2", "rackgear", "spiralgear", "spurgear", "tapa2m1", "tapa3m1", "tapa4m1", "tapatbb",
    )  # fmt: skip
    mask_folder = "ground_truth"

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted, each with its physical part as its group; see ``MVTec3D.refs``."""
        found = [replace(ref, group=part_of(ref.id)) for ref in super().refs(raw, category, options)]
        trained = {ref.group for ref in found if ref.split == "train" and ref.group}
        return [
            replace(ref, notes=(*ref.notes, PART_TRAINED)) if ref.split == "test" and ref.group in trained else ref
            for ref in found
        ]


def part_of(name: str) -> str:
    """Return the physical part of a scan from its name; "" where the name has none.

    Examples
    --------
    >>> part_of("012_A"), part_of("012")
    ('A', '')
    """
    found = _PART.match(name)
    return found[1] if found else ""
