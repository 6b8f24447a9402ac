"""Reader of MVTec AD (Bergmann et al. 2019, 2021): one photograph of each part, as downloaded and unpacked.

    <category>/train/good/NNN.png
    <category>/test/{good,<defect>}/NNN.png
    <category>/ground_truth/<defect>/NNN_mask.png

There is no validation split. Every defective part has a mask.
"""

from __future__ import annotations

from mvad.datasets.photographs.sets.protocol import TreeSet

MVTEC_LICENCE = "CC BY-NC-SA 4.0, MVTec Software GmbH"


class MVTecAD(TreeSet):
    """Reader of MVTec AD."""

    name = "mvtecad"
    licence = MVTEC_LICENCE
    known_categories = (
        "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
        "toothbrush", "transistor", "wood", "zipper",
    )  # fmt: skip


SET = MVTecAD()
