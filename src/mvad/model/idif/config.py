"""Keys of IDIF, with default, reason, what the paper says, and alternatives. ``methods.py`` has the methods that use them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mvad.model.config import OURS, SILENT, TexturedConfig
from mvad.settings import key


@dataclass(frozen=True)
class EncoderConfig:
    """Feature extractor of the teacher's architecture."""

    level: Literal[8, 16, 32] = key(
        16,
        "Stride of f_E: the coarsest that is supervised; 32 goes to block4 as DeSTSeg's student does.",
        paper=SILENT,
        alternatives="8: finer planes and more tokens; 32: DeSTSeg's block4, an eighth of the pixels",
    )
    share: Literal["shared", "view"] = key(
        "shared",
        "shared: one encoder for all views, as in the paper's figure; view: one per view, as one DeSTSeg per view has.",
        paper='"shared feature extractor"',
    )
    init: Literal["imagenet", "scratch"] = key(
        "imagenet",
        "Initial weights: the teacher's (the largest single gain in early trials), or random.",
        paper="silent; DeSTSeg's student starts from scratch",
        alternatives="scratch: by hand 78.3 against 80.7 on cable_gland",
    )
    channels: int = key(
        256, "C, the width of f_E after a 1x1 lift; 0 keeps the backbone's channels, without a lift.", paper=SILENT
    )
    freeze_early: bool = key(False, "Freeze the backbone to stride 4 (small, demo): a step costs a third less.", paper=OURS)
    lr_scale: float = key(
        0.3,
        "Learning rate of the encoder relative to the rest, since it starts from trained weights (optimizer.kind = adamw).",
        paper=OURS,
    )


@dataclass(frozen=True)
class BottleneckConfig:
    """Consistency bottleneck, eq. 2 to 6."""

    kind: Literal["variational", "none"] = key(
        "variational",
        "variational, or none: f_s = f_E and no common part (the paper's row IVC).",
        paper="variational (eq. 2 to 6); Table 3 has a row without",
    )
    channels: int = key(
        32,
        "Capacity of f_c, a map of f_E's size, lifted to C by 1x1: small, and it keeps the place of things.",
        paper='"low-dimensional", "limited in information capacity"',
        alternatives="8 to 64: the more f_c holds, the less the voxel is used; a pooled vector is not built: it loses the place of things",
    )
    aggregate: Literal["mean", "attention"] = key(
        "mean",
        "How the views' means and log-variances become one: any subset works, and order does not matter.",
        paper='"information from all views is compressed"',
        alternatives="concatenation is not built: it needs all views",
    )
    decoder: Literal["unit", "learned"] = key(
        "unit",
        "Variance of the Gaussian q(f_E | f_c): 1, or predicted. The decoder has a view embedding, since one f_c must explain every view.",
        paper="a reconstruction decoder q(f_E | f_c), in training only",
    )
    kl: float = key(
        0.0,
        "Weight of a KL term; log-variance is clamped to -6..2 so that the noise does not vanish without one.",
        paper="eq. 10 has no such term",
        alternatives="1e-4 to 1e-2",
    )
    at_test: Literal["mean", "sample"] = key(
        "mean", "f_c at test: the mean, so that scores are deterministic; sample: epsilon from a fixed seed.", paper=SILENT
    )
    detach_target: bool = key(
        True,
        "Reconstruct f_E as it is; otherwise the encoder can lower L_IB by making f_E trivial.",
        paper=SILENT,
        alternatives="false lets the encoder lower L_IB by making f_E trivial",
    )


@dataclass(frozen=True)
class VoxelConfig:
    """Voxel prototype P_0."""

    channels: int = key(64, "Channels of the voxel prototype.", paper=SILENT, alternatives="32 in small")
    size: int = key(
        16,
        "Side of the voxel, D = H = W; the spatial transformer's plane is resized to f_E's size where they differ.",
        paper=SILENT,
        alternatives="8, 32",
    )
    patch: int = key(
        2, "Side of a patch: (size / patch)^3 tokens.", paper="Figure 2c patchifies; the size is silent", alternatives="1, 4"
    )
    width: int = key(256, "Width of a token.", paper=SILENT, alternatives="128 in small")


@dataclass(frozen=True)
class FusionConfig:
    """Implicit Voxel Construction, eq. 7, 8 and 12, and what may stand in its place."""

    kind: Literal["voxel", "conv3d", "none"] = key(
        "voxel",
        "conv3d: Pix2Vox's context-aware fusion (the paper's row 3-D convolutions); none: views do not meet.",
        paper="voxel (eq. 7 to 9); Table 3 has rows with 3-D convolutions and with one model per view",
    )
    blocks: int = key(3, "Number n of fusion blocks.", paper="n, unnamed; the figure shows three", alternatives="1 to 6")
    self_layers: int = key(1, "Number l of self-attention layers per block.", paper="l, unnamed", alternatives="1 to 3")
    heads: int = key(8, "Heads of every attention.", paper=SILENT, alternatives="4, 8")
    norm: Literal["pre", "post"] = key(
        "pre", "Where layers are normalised; pre-norm trains without warm-up trouble. GELU, ratio 4, residuals.", paper=SILENT
    )
    position: Literal["learned", "sine", "geometric"] = key(
        "learned",
        "Positional encodings: 3-D for voxels, 2-D and a view embedding for features. geometric: both get the code of where they lie in the voxel, a view's cells on its plane through the centre, and attention begins with what is near.",
        paper="positional encodings, kind silent",
        alternatives="geometric starts the attention where the cameras are",
    )


@dataclass(frozen=True)
class SpatialTransformerConfig:
    """STN, eq. 9."""

    transform: Literal["euler", "single", "affine"] = key(
        "euler",
        "What alpha is: three Euler angles about the voxel's centre; one angle about a fixed axis; a free 3 x 3 matrix.",
        paper='"learnable angle alpha"',
    )
    init: Literal["rig", "zeros", "random"] = key(
        "rig", "Start where the cameras are (Real-IAD: one from above, four at 45 degrees).", paper=SILENT
    )
    depth_reduction: Literal["fold", "mean", "max", "composite"] = key(
        "fold",
        "Voxel to plane: depth folded into channels and a 1x1 loses nothing; composite: front to back by a density.",
        paper='"map to the 2D plane"',
    )


@dataclass(frozen=True)
class DecoderConfig:
    """View-specific decoders: DeSTSeg's from f_E's stride."""

    widths: tuple[int, ...] = key(
        (),
        "Channels of the stages at strides 16, 8, 4; empty: the teacher's.",
        paper=SILENT,
        alternatives="the teacher's, as DeSTSeg; narrower in small",
    )
    share: Literal["view", "shared"] = key(
        "view",
        "view: one decoder per view; shared: one for all views with a view embedding, at a cost that does not depend on V.",
        paper="view-specific decoders",
    )
    project: bool = key(
        True,
        "A 1x1 after each stage: the last ReLU of a block would forbid the negative features that other teachers have.",
        paper=SILENT,
        alternatives="false: DeSTSeg's, for a teacher that ends in ReLU",
    )
    skip: bool = key(
        False,
        "Add the encoder's features at strides 4 and 8; they carry the anomaly through.",
        paper="none drawn; DeSTSeg has none",
    )


@dataclass(frozen=True)
class HeadConfig:
    """Segmentation head: DeSTSeg's, on -t * s of all three levels."""

    width: int = key(256, "Channels of all its layers.", paper="silent; DeSTSeg 256", alternatives="48 in small")
    share: Literal["shared", "view"] = key(
        "shared",
        "shared: one head for all views; view: one per view, as one DeSTSeg per view has.",
        paper='"a segmentation head"',
    )
    window: Literal["object", "image"] = key(
        "object",
        "Look at a window around the object, as large as the largest object of training: the rest is background, and the head is four fifths of all operations. Photographs without outlines are seen whole.",
        paper="silent; DeSTSeg's sees the whole image",
    )
    separable: bool = key(
        False,
        "Depthwise-separable 3x3 convolutions in the ASPP and after it: an eighth of their operations.",
        paper=SILENT,
        alternatives="true: the ASPP's operations fall to an eighth; off in paper",
    )


@dataclass(frozen=True)
class LossConfig:
    """Eq. 10 and the head's loss."""

    alpha: float = key(
        1.0,
        "Weight of L_Distill.",
        paper="eq. 10, value not given",
        alternatives="chosen on generated data only, never on test scans",
    )
    beta: float = key(
        0.1, "Weight of L_IB.", paper="eq. 10, value not given", alternatives="0.01 to 1; chosen on generated data only"
    )
    reduction: Literal["mean", "destseg"] = key(
        "mean",
        "mean over batch and pixels, sum over levels; destseg: sum over the batch too, which couples lr to batch.",
        paper="sum over views",
    )
    region: Literal["object", "image"] = key(
        "object", "Where cosine distances count: most of a view is constant background, which teaches nothing.", paper=SILENT
    )
    focal_gamma: float = key(4.0, "Gamma of the head's focal loss; its L1 has weight 1.", paper="silent; DeSTSeg 4")


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    kind: Literal["destseg", "adamw"] = key(
        "destseg",
        "destseg: SGD for convolutions, AdamW for bottleneck, attention, prototype and angles; adamw: one cycle, all.",
        paper="silent; DeSTSeg SGD",
    )
    student_lr: float = key(
        0.4, "Learning rate of the student's convolutions; with adamw the peak of the cycle.", paper="silent; DeSTSeg 0.4"
    )
    head_lr: float = key(
        0.01, "Learning rate of the ASPP and what follows; with adamw the peak of the cycle.", paper="silent; DeSTSeg 0.01"
    )
    head_residual_lr: float = key(0.1, "Learning rate of the head's residual blocks.", paper="silent; DeSTSeg 0.1")
    attention_lr: float = key(
        0.0003,
        "AdamW's learning rate for bottleneck, attention, prototype and angles: 0.4 destroys attention.",
        paper=SILENT,
        alternatives="1e-4 to 1e-3",
    )
    warmup_steps: int = key(200, "Steps over which attention_lr rises from 0.", paper=SILENT)
    weight_decay: float = key(0.0001, "Weight decay of either optimizer.", paper="silent; DeSTSeg 1e-4")
    clip_norm: float = key(10.0, "Largest norm of a gradient.", paper=SILENT, alternatives="DeSTSeg clips nothing")


@dataclass(frozen=True)
class DropoutConfig:
    """View-wise Dropout, eq. 11 and 12."""

    p: float = key(
        0.2, "Probability of dropping a view in a student step, with all its modalities; one view is kept.", paper="0.2 per view"
    )
    draw: Literal["step", "sample"] = key(
        "step",
        "step: one draw for the whole batch, which alone gives the paper's count of combinations in 1,000 steps.",
        paper='"less than twice in 1000 steps" for each combination of four: 0.2^4 x 0.8 x 1000 = 1.28, so once per step',
    )
    supervise: Literal["present", "all"] = key(
        "present",
        "Views whose features the student is trained on: at test nothing is compared with a missing view.",
        paper="dropped views leave the intra-view decoupling; whether they are taught is silent",
    )


@dataclass(frozen=True)
class IdifConfig(TexturedConfig):
    """Configuration of IDIF and of what the paper makes of it by leaving parts out."""

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
