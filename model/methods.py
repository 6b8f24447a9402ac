"""Method names to detectors: the only list."""

from __future__ import annotations

from mvad.errors import BadInput
from mvad.model.config import ModelConfig
from mvad.model.detector import Detector, DetectorFactory, Setting
from mvad.model.idif.detector import Idif
from mvad.model.rivals.mean_feature import MeanFeature
from mvad.model.rivals.patchcore import PatchCore
from mvad.model.teachers.protocol import Teacher

METHODS: dict[str, DetectorFactory] = {"idif": Idif, "patchcore": PatchCore, "mean_feature": MeanFeature}
USES_TEXTURES = frozenset({"idif"})


def make_detector(config: ModelConfig, setting: Setting, teacher: Teacher) -> Detector:
    """Return a new detector of ``config.model``.

    Raises
    ------
    BadInput
        If there is no such method.
    """
    if config.model not in METHODS:
        raise BadInput(f"--model {config.model}: choose from {', '.join(METHODS)}")
    return METHODS[config.model](config, setting, teacher)
