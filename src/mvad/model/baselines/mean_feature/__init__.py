"""Declaration of the baseline mean_feature, the lower bound of every table; ``detector.py`` holds the detector."""

from __future__ import annotations

from mvad.model.config import ModelConfig
from mvad.model.method import OWN_SCORES, Method

METHOD = Method(
    name="mean_feature",
    title="Mean feature",
    summary="distance of pooled teacher features to their training mean",
    paper="none: the lower bound of every table",
    paper_backbone="none",
    config=ModelConfig,
    detector="mvad.model.baselines.mean_feature.detector:MeanFeature",
    one_pass=True,
    ignores=OWN_SCORES,
)
