"""Export of anomaly maps for ADEval (the evaluation of Real-IAD's authors), whose format is a pickle.

Pickles are written but never read, since loading one can run code. Maps of other tools are imported as .npy, .tiff or .png
(``docs/exchange.md``).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.shards.loader import Batch
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import Shown, at_pixels, file_stem, shown_place, unmarked_views
from mvad.words import counted

ANOMAPS = "anomaps.pkl"
SAMPLE_PATTERN = "(.+)_C[0-9]+"
"""Value of ADEval's ``--sample_key_pat`` that joins the views of a sample."""


class AdevalWriter:
    """An ``EvaluationCallback`` that writes ``anomaps.pkl`` and the masks to which it refers.

    The pickle holds a dict from ``<sample>_C<view>`` to (map float32, score, path of the mask or None), the format of ADEval 1.1.

    Parameters
    ----------
    folder
        Where they are written.
    shown
        Rows and columns of each view that show its picture (see ``shown_at_pixels``); the others are not exported.
    say
        Is told which samples were left out: those of own photographs with a defect that no mask marks, which ADEval, which
        knows masks only, would take for good ones.
    """

    fields: Sequence[str] = ()

    def __init__(self, folder: Path, shown: Shown = None, say: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self.shown = shown
        self._say = say
        self._unmarked: list[str] = []
        self._maps: dict[str, tuple[NDArray[np.float32], float, str | None]] = {}

    def on_sample(self, batch: Batch, found: AnomalyMaps) -> None:
        """Collect the maps of one sample, and write its masks."""
        if self._say is not None and unmarked_views(batch).any():
            self._unmarked.append(batch.keys[0])
            return
        maps, masks = at_pixels(batch, found)
        lowest = float(found.view_scores[found.view_scores.isfinite()].min())  # a view without an object has no score
        for view in np.flatnonzero(batch.present[0].numpy()):
            name = f"{file_stem(batch.keys[0])}_C{view + 1}"
            path = None
            place = shown_place(int(view), self.shown)
            mask = masks[place]
            if mask.any():
                target = self.folder / "masks" / f"{name}.png"
                files.write_bytes(target, bytes(imagecodecs.png_encode(mask.astype(np.uint8) * 255)))
                path = str(target)
            score = float(found.view_scores[0, view])
            self._maps[name] = (maps[place].copy(), score if math.isfinite(score) else lowest, path)

    def results(self) -> dict[str, Any]:
        """Write the pickle; return no fields."""
        if self._say is not None and self._unmarked:
            self._say(
                f"ADEval: {counted(len(self._unmarked), 'sample')} with a defect that no mask marks left out, such as {self._unmarked[0]}: "
                "ADEval would take them for good ones"
            )
        files.write_bytes(self.folder / ANOMAPS, pickle.dumps(self._maps, protocol=4))
        return {}


def refuse_pickle(path: Path) -> None:
    """Raise for a file that is a pickle.

    Raises
    ------
    BadInput
        If its suffix or its first byte is that of a pickle.
    """
    pickled = path.suffix in (".pkl", ".pickle")
    if not pickled and path.is_file():
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80"
    if pickled:
        raise BadInput(
            f"{path}: is a pickle (ADEval's format), which runs code when it is read; save each map as .npy, see docs/exchange.md"
        )
