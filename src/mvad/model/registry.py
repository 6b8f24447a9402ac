"""Method names to detectors: the only list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.mean_feature import MeanFeature
from mvad.model.baselines.padim import PaDiM
from mvad.model.baselines.patchcore import PatchCore
from mvad.model.baselines.reverse_distillation import ReverseDistillation
from mvad.model.baselines.simplenet import SimpleNet
from mvad.model.baselines.uniad import UniAD
from mvad.model.config import PRESETS, ModelConfig
from mvad.model.detector import Detector, DetectorFactory, InputSpec
from mvad.model.idif.detector import Idif
from mvad.model.missing.protocol import FilledDetector
from mvad.model.missing.reconstruct import Reconstruct
from mvad.model.missing.retrieve import Retrieve
from mvad.settings import resolve


def _retrieve(config: ModelConfig, spec: InputSpec, teacher: Teacher) -> Detector:
    return FilledDetector(Idif(config, spec, teacher), Retrieve(config, spec, teacher))


def _reconstruct(config: ModelConfig, spec: InputSpec, teacher: Teacher) -> Detector:
    return FilledDetector(Idif(config, spec, teacher), Reconstruct(config, spec, teacher))


METHODS: dict[str, DetectorFactory] = {
    "idif": Idif,
    "ivc": Idif,
    "conv3d": Idif,
    "destseg": Idif,
    "retrieve": _retrieve,
    "reconstruct": _reconstruct,
    "patchcore": PatchCore,
    "padim": PaDiM,
    "rd": ReverseDistillation,
    "simplenet": SimpleNet,
    "uniad": UniAD,
    "mean_feature": MeanFeature,
}

USES_TEXTURES = frozenset({"idif", "ivc", "conv3d", "destseg", "retrieve", "reconstruct"})
"""Methods that learn from pseudo anomalies."""

TRAINED_TOGETHER = frozenset({"idif", "ivc", "conv3d", "destseg"})
"""Methods that several processes can train together (torchrun)."""

METHOD_KEYS: Mapping[str, Mapping[str, Any]] = {
    "ivc": {"bottleneck.kind": "none"},
    "conv3d": {"bottleneck.kind": "none", "fusion.kind": "conv3d"},
    "destseg": {
        "bottleneck.kind": "none", "fusion.kind": "none", "encoder.share": "view", "head.share": "view", "dropout.p": 0.0,
    },
    "retrieve": {"dropout.p": 0.0},
    "reconstruct": {"dropout.p": 0.0},
}  # fmt: skip
"""What makes the paper's ablations (Table 3) and competitors for missing views (Figure 4) of one network: keys that a
method sets, above the preset's."""

PAPER_BACKBONES: Mapping[str, str] = {
    "patchcore": "WideResNet-50", "padim": "WideResNet-50", "rd": "WideResNet-50", "simplenet": "WideResNet-50",
    "uniad": "EfficientNet-B4", "mean_feature": "none",
}  # fmt: skip
"""Backbones of the baselines' own papers; the others have ResNet-18."""


def paper_backbone(model: str) -> str:
    """Return the backbone of a method's own paper; of somebody else's maps nothing is known."""
    if model not in METHODS:
        return "its own"
    return PAPER_BACKBONES.get(model, "ResNet-18")


def backbone(model: str, teacher: str) -> str:
    """Return what stands in every row of figures: the teacher used, and the method's own paper's."""
    return f"{teacher} (paper: {paper_backbone(model)})"


def configure(preset: str, model: str, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[ModelConfig, dict[str, str]]:
    """Return a method's configuration and the origin of each key: preset, then the method's keys, then ``layers``.

    Raises
    ------
    BadInput
        If preset, method or a key is unknown, or a value has the wrong type.
    """
    if preset not in PRESETS:
        raise BadInput(f"--preset {preset}: choose from {', '.join(PRESETS)}")
    if model not in METHODS:
        raise BadInput(f"--model {model}: choose from {', '.join(METHODS)}")
    method = {**METHOD_KEYS.get(model, {}), "model": model}
    return resolve(ModelConfig, [(f"preset {preset}", PRESETS[preset]), (f"model {model}", method), *layers])


def make_detector(config: ModelConfig, spec: InputSpec, teacher: Teacher) -> Detector:
    """Return a new detector of ``config.model``.

    Raises
    ------
    BadInput
        If there is no such method.
    """
    if config.model not in METHODS:
        raise BadInput(f"--model {config.model}: choose from {', '.join(METHODS)}")
    return METHODS[config.model](config, spec, teacher)
