"""Declaration and keys of UniAD (You et al., NeurIPS 2022); ``detector.py`` holds the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.config import ModelConfig
from mvad.model.method import OWN_SCORES, Method
from mvad.settings import key


@dataclass(frozen=True)
class UniADKeys:
    """UniAD (You et al. 2022)."""

    epochs: int = key(1000, "Passes over the training split.", paper="You et al. 2022: 1,000", least=1)
    width: int = key(256, "Width of a token; must be even.", paper="You et al. 2022: 256", least=2)
    layers: int = key(4, "Number of layers of the encoder, and of the decoder.", paper="You et al. 2022: 4 and 4", least=1)
    heads: int = key(8, "Number of heads of every attention layer.", paper="You et al. 2022: 8", least=1)
    neighbours: int = key(
        7, "Side of the neighbourhood that is masked in attention.", paper="You et al. 2022: 7 x 7 of 14 x 14", least=1, odd=True
    )
    jitter: float = key(20.0, "Scale of the feature jitter.", paper="You et al. 2022: 20", least=0)
    jitter_probability: float = key(
        1.0, "Share of the images whose features are jittered.", paper="You et al. 2022: 1", least=0, most=1
    )
    lr: float = key(
        0.0001,
        "Learning rate of AdamW (weight decay 1e-4). It is divided by 10 after four fifths of the steps.",
        paper="You et al. 2022: 1e-4",
        least=0,
    )
    dropout: float = key(
        0.1, "Dropout rate of attention weights, hidden units and residuals.", paper="silent; their code 0.1", least=0, most=0.9
    )
    clip_norm: float = key(0.1, "Gradients are clipped to this norm.", paper="silent; their code 0.1", least=0)
    batch: int = key(16, "Images per step.", paper="You et al. 2022: 64 on 8 GPUs", least=1)


@dataclass(frozen=True)
class UniADConfig(ModelConfig):
    """Configuration of a UniAD run."""

    uniad: UniADKeys = field(default_factory=UniADKeys)


METHOD = Method(
    name="uniad",
    title="UniAD",
    summary="a transformer reconstructs features without copying them",
    paper="You et al., NeurIPS 2022",
    paper_backbone="EfficientNet-B4",
    paper_name="UniAD",
    config=UniADConfig,
    detector="mvad.model.baselines.uniad.detector:UniAD",
    one_pass=False,
    ignores=OWN_SCORES,
)
