"""Keys of IDIF's network: default, reason, statement of the paper, alternatives; those of its training are in ``training_config.py``.

``methods.py`` declares the methods that use them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mvad.model.config import OURS, SILENT, TexturedConfig
from mvad.model.idif.training_config import AugmentConfig, CompanionConfig, DropoutConfig, LossConfig, OptimizerConfig
from mvad.settings import key


@dataclass(frozen=True)
class EncoderConfig:
    """Feature extractor of the teacher's architecture."""

    level: Literal[8, 16, 32] = key(
        16,
        "Stride of f_E, the encoder's output. 16 is the coarsest stride that is supervised; with 32 the encoder ends at block4, as DeSTSeg's student does.",
        paper=SILENT,
        alternatives="8: finer planes and more tokens; 32: DeSTSeg's block4, a quarter of the positions",
    )
    share: Literal["shared", "view"] = key(
        "shared",
        "shared: one encoder for all views, as in the paper's figure; view: one encoder per view, as if there were one DeSTSeg per view.",
        paper='"shared feature extractor"',
    )
    init: Literal["imagenet", "scratch"] = key(
        "imagenet",
        "Initial weights. imagenet: the teacher's weights (the largest single gain in early experiments); scratch: random weights.",
        paper="silent; DeSTSeg's student starts from scratch",
        alternatives="scratch: 78.3 instead of 80.7 on cable_gland in an early experiment",
    )
    channels: int = key(
        256,
        "C, the number of channels of f_E after a 1x1 convolution and a batch norm without parameters. 0: no convolution and no norm; f_E keeps the backbone's channels and their scale, as in DeSTSeg.",
        paper=SILENT,
        least=0,
    )
    freeze_early: bool = key(
        False,
        "Freeze the backbone up to stride 4 (presets small, best and demo), which makes a step a third cheaper.",
        paper=OURS,
    )
    lr_scale: float = key(
        0.3,
        "With optimizer.kind = adamw: factor on student_lr that gives the encoder's learning rate, since the encoder starts from trained weights.",
        paper=OURS,
        least=0,
    )


@dataclass(frozen=True)
class BottleneckConfig:
    """Consistency bottleneck, eq. 2 to 6."""

    kind: Literal["variational", "none"] = key(
        "variational",
        "variational: the bottleneck of the paper; none: f_s = f_E, and no common features f_c (the paper's row IVC).",
        paper="variational (eq. 2 to 6); Table 3 has a row without it",
    )
    channels: int = key(
        32,
        "Channels of the code of f_c, a map with f_E's height and width that a 1x1 convolution lifts to C channels. Few channels limit the capacity; a map keeps positions.",
        paper='"low-dimensional", "limited in information capacity"',
        alternatives="8 to 64: the more information f_c holds, the less the voxel is used; a pooled vector is not implemented, since it loses positions",
        least=2,
    )
    noise: float = key(
        0.3,
        "Lower limit of the standard deviation of the noise that is added in training to the code, whose mean square is 1 (eq. 4). With 0.3, a channel holds at most 1.8 bits per cell. The noise may be larger, since eq. 4 predicts it.",
        paper='"limited in information capacity"',
        alternatives="0.05: hardly any limit; 1: half a bit",
        least=0.001,
        most=2.7,
    )
    withhold: float = key(
        0.0,
        "Share of the samples of a student step whose decoders do not get f_c. This is the share at the start; it falls to 0 over the first half of the steps. Without f_c, decoders must take the information on the sample from the voxel.",
        paper=OURS,
        alternatives="0.5: the fusion carries more information from the start",
        least=0,
        most=1,
    )
    aggregate: Literal["mean", "attention"] = key(
        "mean",
        "How the means and log-variances of the views are combined. Both ways work for any subset of views in any order.",
        paper='"information from all views is compressed"',
        alternatives="concatenation is not implemented, since it needs all views",
    )
    decoder: Literal["unit", "learned"] = key(
        "unit",
        "Variance of the Gaussian q(f_E | f_c). unit: 1; learned: predicted. The mean is f_c plus an offset per view, since one f_c must predict every view.",
        paper="a reconstruction decoder q(f_E | f_c), in training only",
    )
    kl: float = key(
        0.0,
        "Weight of a KL term. Even without this term the noise cannot vanish, because of bottleneck.noise.",
        paper="eq. 10 has no such term",
        alternatives="1e-4 to 1e-2",
        least=0,
    )
    at_test: Literal["mean", "sample"] = key(
        "mean",
        "f_c at test time. mean: the mean, so that scores are deterministic; sample: a sample whose epsilon is drawn from a fixed seed.",
        paper=SILENT,
    )
    detach_target: bool = key(
        True,
        "true: L_IB has no gradient through its target f_E. With this gradient, the encoder can lower L_IB by making f_E trivial.",
        paper=SILENT,
        alternatives="false: the gradient flows through the target, too",
    )


@dataclass(frozen=True)
class VoxelConfig:
    """Voxel prototype P_0."""

    channels: int = key(64, "Channels of the voxel prototype.", paper=SILENT, alternatives="32 in small", least=1)
    size: int = key(
        16,
        "Side of the voxel in cells (D = H = W). If it differs from f_E's size, the planes of the spatial transformer are resized to f_E's size.",
        paper=SILENT,
        alternatives="8, 32",
        least=1,
    )
    patch: int = key(
        2,
        "Side of a patch in cells; there are (size / patch)^3 tokens.",
        paper="Figure 2c patchifies; the size is silent",
        alternatives="1, 4",
        least=1,
    )
    width: int = key(256, "Width of a token.", paper=SILENT, alternatives="128 in small", least=1)


@dataclass(frozen=True)
class FusionConfig:
    """Implicit Voxel Construction (eq. 7, 8 and 12) and its alternatives."""

    kind: Literal["voxel", "conv3d", "none"] = key(
        "voxel",
        "voxel: fusion by the voxel prototype; conv3d: Pix2Vox's context-aware fusion (the paper's row with 3-D convolutions); none: no fusion of views.",
        paper="voxel (eq. 7 to 9); Table 3 has rows with 3-D convolutions and with one model per view",
    )
    blocks: int = key(
        3, "Number n of fusion blocks.", paper="n, without a value; the figure shows three", alternatives="1 to 6", least=1
    )
    self_layers: int = key(
        1, "Number l of self-attention layers per block.", paper="l, without a value", alternatives="1 to 3", least=0
    )
    heads: int = key(8, "Heads of every attention layer.", paper=SILENT, alternatives="4, 8", least=1)
    norm: Literal["pre", "post"] = key(
        "pre",
        "Normalisation before (pre) or after (post) a layer. With pre, training has no problems during warm-up. MLPs have GELU and ratio 4; all layers are residual.",
        paper=SILENT,
    )
    position: Literal["learned", "sine", "geometric"] = key(
        "geometric",
        "Positional encodings. learned and sine: 3-D for voxel tokens, 2-D with a view embedding for features. geometric: both are encoded by their position in the voxel, where the cells of a view lie on the view's plane through the centre; attention then starts with tokens that are near each other.",
        paper="positional encodings; silent on their kind",
        alternatives="learned, sine: attention starts uniform over all keys of all views, and stays nearly uniform over 1,000 steps",
    )


@dataclass(frozen=True)
class SpatialTransformerConfig:
    """Spatial transformer (STN), eq. 9."""

    transform: Literal["euler", "single", "affine"] = key(
        "euler",
        "Parameters alpha. euler: three Euler angles about the voxel's centre; single: one angle about a fixed axis; affine: a free 3 x 3 matrix.",
        paper='"learnable angle alpha"',
    )
    init: Literal["rig", "zeros", "random"] = key(
        "rig",
        "Initial angles. rig: those of the cameras (Real-IAD: one camera from above, four at 45 degrees); zeros: zero; random: random angles.",
        paper=SILENT,
    )
    depth_reduction: Literal["fold", "mean", "max", "composite"] = key(
        "fold",
        "How the voxel becomes a plane. fold: depth is folded into channels for a 1x1 convolution, which loses nothing; mean, max: over depth; composite: front to back, weighted by a density.",
        paper='"map to the 2D plane"',
    )


@dataclass(frozen=True)
class DecoderConfig:
    """View-specific decoders: DeSTSeg's, from the stride of f_E."""

    widths: tuple[int, ...] = key(
        (),
        "Channels of the stages at strides 16, 8 and 4. Empty: the teacher's channels.",
        paper=SILENT,
        alternatives="the teacher's, as in DeSTSeg; narrower in small",
        least=1,
    )
    share: Literal["view", "shared"] = key(
        "view",
        "view: one decoder per view; shared: one decoder for all views, with a view embedding, at a cost that does not depend on V.",
        paper="view-specific decoders",
    )
    project: bool = key(
        True,
        "Add a 1x1 convolution after each stage. Without it, the last ReLU of a block rules out negative features, which some teachers have.",
        paper=SILENT,
        alternatives="false: as in DeSTSeg, for a teacher that ends in ReLU",
    )
    skip: bool = key(
        False,
        "Add the encoder's features at strides 4 and 8 (skip connections). They pass anomalies on to the output.",
        paper="none in the figure; DeSTSeg has none",
    )


@dataclass(frozen=True)
class HeadConfig:
    """Segmentation head: DeSTSeg's, on the products -t * s of all three levels."""

    kind: Literal["destseg", "light"] = key(
        "destseg",
        "destseg: as in DeSTSeg's published code: the ASPP joins three rates and the mean over the view by a 3x3 convolution, and a cell that a defect covers by exactly half counts as defective. light: the ASPP has one more branch (1x1) and joins all branches by a 1x1 convolution, which takes three quarters of the operations; such a cell counts as normal.",
        paper='"a segmentation head"; DeSTSeg',
        alternatives="light in small, best and demo",
    )
    width: int = key(256, "Channels of all layers of the head.", paper="silent; DeSTSeg 256", alternatives="48 in small", least=1)
    share: Literal["shared", "view"] = key(
        "shared",
        "shared: one head for all views; view: one head per view, as if there were one DeSTSeg per view.",
        paper='"a segmentation head"',
    )
    window: Literal["object", "image"] = key(
        "object",
        "object: the head sees a window around the object, as large as the largest object in training; image: the head sees the whole image. The rest of a view is background, and the head takes four fifths of all operations. Photographs without outlines are always seen whole.",
        paper="silent; DeSTSeg's head sees the whole image",
    )
    by_position: bool = key(
        False,
        "true: the head's logit at each position of a view is not turned into a probability; what counts is its difference from the mean logit of the training samples at this position, divided by their standard deviation.",
        paper="the head's probability",
        alternatives="true in small and best: on held-out normals it finds more pseudo anomalies (docs/training.md)",
    )
    separable: bool = key(
        False,
        "Use depthwise-separable 3x3 convolutions in the ASPP and after it, which take an eighth of the operations.",
        paper=SILENT,
        alternatives="true: an eighth of the ASPP's operations; off in preset paper",
    )


@dataclass(frozen=True)
class IdifConfig(TexturedConfig):
    """Configuration of IDIF and its ablations."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    voxel: VoxelConfig = field(default_factory=VoxelConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    stn: SpatialTransformerConfig = field(default_factory=SpatialTransformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    companion: CompanionConfig = field(default_factory=CompanionConfig)
