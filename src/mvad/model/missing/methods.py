"""What the paper compares View-wise Dropout with (Figure 4): IDIF with a substitute in the place of each missing view."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.idif.config import IdifConfig
from mvad.model.idif.methods import PRESETS
from mvad.model.method import Method
from mvad.settings import key

_UNNAMED = "Figure 4 names the competitor, not its network"


@dataclass(frozen=True)
class ReconstructKeys:
    """The small U-Net that draws missing views from those that are present."""

    steps: int = key(1500, "Training steps of the U-Net.", paper=_UNNAMED)
    lr: float = key(1e-3, "Peak learning rate of Adam.", paper=_UNNAMED)
    width: int = key(32, "Channels of the U-Net's first level.", paper=_UNNAMED)


@dataclass(frozen=True)
class ReconstructConfig(IdifConfig):
    """Configuration of IDIF with drawn views."""

    reconstruct: ReconstructKeys = field(default_factory=ReconstructKeys)


METHODS = (
    Method(
        name="retrieve", title="Retrieve", summary="a missing view is taken from the nearest training sample",
        paper="Mao et al., AAAI-25, Figure 4", paper_backbone="ResNet-18", config=IdifConfig,
        detector="mvad.model.missing.filled_detector:retrieve", keys={"dropout.p": 0.0}, presets=PRESETS,
    ),
    Method(
        name="reconstruct", title="Reconstruction", summary="a missing view is drawn by a small U-Net",
        paper="Mao et al., AAAI-25, Figure 4", paper_backbone="ResNet-18", config=ReconstructConfig,
        detector="mvad.model.missing.filled_detector:reconstruct", keys={"dropout.p": 0.0}, presets=PRESETS,
    ),
)  # fmt: skip
