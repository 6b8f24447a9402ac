"""Results of one evaluated sample, a part of ``results.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SampleResult:
    """Results of one sample.

    Attributes
    ----------
    key, defect, label
        Name, kind of defect and label, as in the shards.
    score
        Score of the sample; higher is more anomalous.
    view_labels, view_scores
        Label and score of each view; None where it is missing, and no score where it shows no object.
    picture, map
        Names of files in the run's folder: a JPEG of the views, a PNG of the maps.
    picture_sha256, map_sha256
        SHA-256 of the files.
    map_range
        Map values of black and white in the PNG.
    pose_number, pose_fit, turn_deg, mirrored
        Of a render: the stable pose that the scan took, -1 where it fits none; its fit to the pose's template, 0 to 1, None
        without one; its turn about the support's normal, degrees; True where it is drawn mirrored. Else None.
    """

    key: str
    defect: str
    label: bool
    score: float
    view_labels: Sequence[bool | None]
    view_scores: Sequence[float | None]
    picture: str
    picture_sha256: str
    map: str
    map_sha256: str
    map_range: Sequence[float]
    pose_number: int | None = None
    pose_fit: float | None = None
    turn_deg: float | None = None
    mirrored: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; nothing is said of a pose that is not known."""
        said = {name: value for name, value in self.__dict__.items() if value is not None}
        return {**said, **{n: list(getattr(self, n)) for n in ("view_labels", "view_scores", "map_range")}}
