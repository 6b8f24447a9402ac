"""Declaration and keys of reverse distillation (Deng and Li, CVPR 2022); ``detector.py`` holds the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.config import ModelConfig, smoothing_sigma
from mvad.model.method import OWN_SCORES, Method
from mvad.settings import key


@dataclass(frozen=True)
class ReverseDistillationKeys:
    """Reverse distillation (Deng and Li 2022)."""

    epochs: int = key(200, "Passes over the training split.", paper="Deng and Li 2022: 200", least=1)
    lr: float = key(0.005, "Learning rate of Adam (betas 0.5 and 0.999).", paper="Deng and Li 2022: 0.005", least=0)
    batch: int = key(16, "Images per step.", paper="Deng and Li 2022: 16", least=1)
    sigma: float = smoothing_sigma("Deng and Li 2022: 4")


@dataclass(frozen=True)
class ReverseDistillationConfig(ModelConfig):
    """Configuration of a Reverse distillation run."""

    rd: ReverseDistillationKeys = field(default_factory=ReverseDistillationKeys)


METHOD = Method(
    name="rd",
    title="Reverse distillation",
    summary="a decoder reconstructs the teacher's features from a narrow embedding",
    paper="Deng and Li, CVPR 2022",
    paper_backbone="WideResNet-50",
    paper_name="RD",
    config=ReverseDistillationConfig,
    detector="mvad.model.baselines.reverse_distillation.detector:ReverseDistillation",
    one_pass=False,
    ignores=OWN_SCORES,
)
