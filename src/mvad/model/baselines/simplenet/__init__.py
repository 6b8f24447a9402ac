"""Declaration and keys of SimpleNet (Liu et al., CVPR 2023); ``detector.py`` holds the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.config import ModelConfig, smoothing_sigma
from mvad.model.method import OWN_SCORES, Method
from mvad.settings import key


@dataclass(frozen=True)
class SimpleNetKeys:
    """SimpleNet (Liu et al. 2023)."""

    epochs: int = key(
        40,
        "Passes over the training split. (The authors' code has 40 meta epochs of 4 passes.)",
        paper="Liu et al. 2023: 160; their code 40 x 4",
        least=1,
    )
    noise: float = key(
        0.015, "Standard deviation of the Gaussian noise on adapted features.", paper="Liu et al. 2023: 0.015", least=0
    )
    margin: float = key(0.5, "Margin of the truncated L1 loss.", paper="Liu et al. 2023: 0.5")
    adaptor_lr: float = key(
        0.0001,
        "Learning rate of the adaptor (Adam, weight decay 1e-5).",
        paper="Liu et al. 2023: 1e-4; their code: AdamW with 0.01",
        least=0,
    )
    discriminator_lr: float = key(
        0.0002, "Learning rate of the discriminator (Adam, weight decay 1e-5).", paper="Liu et al. 2023: 2e-4", least=0
    )
    batch: int = key(8, "Images per step.", paper="Liu et al. 2023: 4; their code: 8", least=1)
    sigma: float = smoothing_sigma("Liu et al. 2023: 4")


@dataclass(frozen=True)
class SimpleNetConfig(ModelConfig):
    """Configuration of a SimpleNet run."""

    simplenet: SimpleNetKeys = field(default_factory=SimpleNetKeys)


METHOD = Method(
    name="simplenet",
    title="SimpleNet",
    summary="a discriminator separates normal features from noisy ones",
    paper="Liu et al., CVPR 2023",
    paper_backbone="WideResNet-50",
    paper_name="SimpleNet",
    config=SimpleNetConfig,
    detector="mvad.model.baselines.simplenet.detector:SimpleNet",
    one_pass=False,
    ignores=OWN_SCORES,
)
