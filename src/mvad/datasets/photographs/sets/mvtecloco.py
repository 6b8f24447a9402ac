"""Reader of MVTec LOCO AD (Bergmann et al. 2022): one photograph of each part, structural and logical anomalies.

    <category>/{train,validation}/good/NNN.png
    <category>/test/{good,logical_anomalies,structural_anomalies}/NNN.png
    <category>/ground_truth/{logical_anomalies,structural_anomalies}/NNN/{000.png, 001.png, ...}
    <category>/defects_config.json

A picture has one mask for each of its defects; the mask's grey value is the class of the defect. The masks of a picture are
united. ``defects_config.json``, which says how much of a defect must be found for it to count as found (sPRO), is not read: the
pixel figures are the same as for other datasets.
"""

from __future__ import annotations

from pathlib import Path

from mvad.datasets.folders import visible
from mvad.datasets.photographs.layouts import is_picture
from mvad.datasets.photographs.sets.mvtecad import MVTEC_LICENCE
from mvad.datasets.photographs.sets.protocol import TreeSet, with_masks
from mvad.datasets.scan import GOOD, SampleRef


class MVTecLOCO(TreeSet):
    """Reader of MVTec LOCO AD."""

    name = "mvtecloco"
    licence = MVTEC_LICENCE
    known_categories = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
    splits = ("train", "validation", "test")

    def with_masks(self, root: Path, sample: SampleRef) -> SampleRef:
        """Return a part with all masks of its folder."""
        folder = root / "ground_truth" / sample.defect / sample.id
        if sample.defect == GOOD or not folder.is_dir():
            return sample
        return with_masks(sample, [path for path in visible(folder.iterdir()) if is_picture(path, folder)])


SET = MVTecLOCO()
