"""Declaration and keys of PaDiM (Defard et al., ICPR 2021); ``detector.py`` holds the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.config import ModelConfig, smoothing_sigma
from mvad.model.method import OWN_SCORES, Method
from mvad.settings import key


@dataclass(frozen=True)
class PaDiMKeys:
    """PaDiM (Defard et al. 2021)."""

    channels: int = key(
        100,
        "Number of channels, drawn at random from the channels of all levels.",
        paper="Defard et al. 2021: 100 with ResNet-18, 550 with WideResNet-50",
        least=1,
    )
    regulariser: float = key(
        0.01, "Value added to the diagonal of each covariance matrix.", paper="Defard et al. 2021: 0.01", least=0
    )
    sigma: float = smoothing_sigma("Defard et al. 2021: 4")


@dataclass(frozen=True)
class PaDiMConfig(ModelConfig):
    """Configuration of a PaDiM run."""

    padim: PaDiMKeys = field(default_factory=PaDiMKeys)


METHOD = Method(
    name="padim",
    title="PaDiM",
    summary="Mahalanobis distance to a Gaussian at each position of each view",
    paper="Defard et al., ICPR 2021",
    paper_backbone="WideResNet-50",
    paper_name="PaDim",
    config=PaDiMConfig,
    detector="mvad.model.baselines.padim.detector:PaDiM",
    one_pass=True,
    ignores=OWN_SCORES,
)
