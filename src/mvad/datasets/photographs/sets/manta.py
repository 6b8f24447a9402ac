"""Reader of MANTA (Fan et al. 2025) at full size: five pictures of each tiny object.

The file names of the full download are not known to mvad. Only the following tree is read; anything else is refused. Links
can bring a download into this form:

    <domain>/<category>/train/good/<sample>/<view>.png
    <domain>/<category>/test/{good,<defect>}/<sample>/<view>.png
    <domain>/<category>/ground_truth/<defect>/<sample>/<view>.png

Every sample has five views, with the same names in all samples, of any size. A category's name is ``<domain>-<category>``, as in
MANTA-Tiny. If a part has masks, those of its views without a mask are normal.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mvad.datasets.photographs.layouts import Layout, pictures_by_stem
from mvad.datasets.photographs.sets.mantatiny import MANTATiny
from mvad.datasets.scan import GOOD, SampleRef


class MANTA(MANTATiny):
    """Reader of MANTA at full size."""

    name = "manta"
    layout = Layout()
    picture_size: tuple[int, int] | None = None

    def with_masks(self, root: Path, sample: SampleRef) -> SampleRef:
        """Return a part with the masks of its views."""
        folder = root / "ground_truth" / sample.defect / sample.id
        if sample.defect == GOOD or not folder.is_dir():
            return sample
        masks = pictures_by_stem(folder)
        return replace(sample, views=[replace(view, mask=masks.get(view.image.stem, view.mask)) for view in sample.views])


SET = MANTA()
