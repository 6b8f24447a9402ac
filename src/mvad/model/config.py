"""Every key of a training, with its default and reason. ``method.md`` calls the silent ones choices.

Presets change keys by name and nothing else; ``--set key=value`` reaches any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class InputConfig:
    """What the network sees."""

    size: int = 256
    """Side in pixels; stored views are averaged down to it (it must divide their side)."""
    modalities: tuple[str, ...] = ()
    """rgb, depth, normal; empty: RGB + depth for MVTec 3D-AD, RGB + normal for Eyecandies, RGB for Real-IAD."""
    background: Literal["mean", "black"] = "mean"
    """Colour where no object is: what the teacher's normalisation maps to zero, so that black makes no edge."""


@dataclass(frozen=True)
class EncoderConfig:
    """Feature extractor of the teacher's architecture."""

    level: Literal[8, 16, 32] = 16
    """Stride of f_E: the coarsest that is supervised; 32 goes to block4 as DeSTSeg's student does."""
    share: Literal["shared", "view"] = "shared"
    """One encoder for all views, as the paper's figure; view: one each, as one DeSTSeg a view has."""
    init: Literal["imagenet", "scratch"] = "imagenet"
    """From the teacher's weights was by hand the largest single gain."""
    channels: int = 256
    """C, the width of f_E after a 1x1 lift; 0 keeps the backbone's channels, without a lift."""
    freeze_early: bool = False
    """Keep the backbone to stride 4 as it is (small, demo): a step costs a third less."""
    lr_scale: float = 0.3
    """Learning rate relative to the rest, since it starts from trained weights (optimizer.kind = adamw)."""


@dataclass(frozen=True)
class BottleneckConfig:
    """Consistency bottleneck, eq. 2 to 6."""

    kind: Literal["variational", "none"] = "variational"
    """none: f_s = f_E and nothing in common (the paper's row IVC)."""
    channels: int = 32
    """Capacity of f_c, a map of f_E's size, lifted to C by 1x1: small, and it keeps the place of things."""
    aggregate: Literal["mean", "attention"] = "mean"
    """How the views' means and log-variances become one: any subset works, and order does not matter."""
    decoder: Literal["unit", "learned"] = "unit"
    """Variance of the Gaussian q(f_E | f_c); the decoder has a view embedding, since one f_c must explain every view."""
    kl: float = 0.0
    """Weight of a KL term; log-variance is clamped to -6..2 so that the noise does not vanish without one."""
    at_test: Literal["mean", "sample"] = "mean"
    """Deterministic scores; sample draws epsilon from a fixed seed."""
    detach_target: bool = True
    """Reconstruct f_E as it is; otherwise the encoder can lower L_IB by making f_E trivial."""


@dataclass(frozen=True)
class VoxelConfig:
    """Voxel prototype P_0."""

    channels: int = 64
    """Of the prototype."""
    size: int = 16
    """D = H = W; the plane that the spatial transformer gives is resized to f_E's where they differ."""
    patch: int = 2
    """Side of a patch: (size / patch)^3 tokens."""
    width: int = 256
    """Width of a token."""


@dataclass(frozen=True)
class FusionConfig:
    """Implicit Voxel Construction, eq. 7, 8 and 12, and what may stand in its place."""

    kind: Literal["voxel", "conv3d", "none"] = "voxel"
    """conv3d: Pix2Vox's context-aware fusion (the paper's row 3-D convolutions); none: views do not meet."""
    blocks: int = 3
    """n: the figure shows three."""
    self_layers: int = 1
    """l: self-attention parts of a block."""
    heads: int = 8
    """Heads of every attention."""
    norm: Literal["pre", "post"] = "pre"
    """Where layers are normalised; pre-norm trains without warm-up trouble. GELU, ratio 4, residuals."""
    position: Literal["learned", "sine", "geometric"] = "learned"
    """Positional encodings: 3-D for voxels, 2-D and a view embedding for features. geometric: both get the code of where
    they lie in the voxel, a view's cells on its plane through the centre, and attention begins with what is near."""


@dataclass(frozen=True)
class SpatialTransformerConfig:
    """STN, eq. 9."""

    transform: Literal["euler", "single", "affine"] = "euler"
    """What alpha is: three Euler angles about the voxel's centre; one angle about a fixed axis; a free 3 x 3 matrix."""
    init: Literal["rig", "zeros", "random"] = "rig"
    """Start where the cameras are (Real-IAD: one from above, four at 45 degrees)."""
    depth_reduction: Literal["fold", "mean", "max", "composite"] = "fold"
    """Voxel to plane: depth folded into channels and a 1x1 loses nothing; composite: front to back by a density."""


@dataclass(frozen=True)
class DecoderConfig:
    """View-specific decoders: DeSTSeg's from f_E's stride."""

    widths: tuple[int, ...] = ()
    """Channels of the stages at strides 16, 8, 4; empty: the teacher's."""
    share: Literal["view", "shared"] = "view"
    """One decoder a view; shared: one for all, with a view embedding, whose cost does not depend on V."""
    project: bool = True
    """A 1x1 after each stage: the last ReLU of a block would forbid the negative features that other teachers have."""
    skip: bool = False
    """Add the encoder's features at strides 4 and 8; they carry the anomaly through."""


@dataclass(frozen=True)
class HeadConfig:
    """Segmentation head: DeSTSeg's, on -t * s of all three levels."""

    width: int = 256
    """Channels of all its layers."""
    share: Literal["shared", "view"] = "shared"
    """One head for all views; view: one each, as one DeSTSeg a view has."""
    window: Literal["object", "image"] = "object"
    """Look at a window around the object, as large as the largest object of training: the rest is background, and the
    head is four fifths of all operations. Photographs without outlines are seen whole."""
    separable: bool = False
    """Depthwise-separable 3x3 convolutions in the ASPP and after it: an eighth of their operations."""


@dataclass(frozen=True)
class LossConfig:
    """Eq. 10 and the head's loss."""

    alpha: float = 1.0
    """Weight of L_Distill."""
    beta: float = 0.1
    """Weight of L_IB."""
    reduction: Literal["mean", "destseg"] = "mean"
    """mean over batch and pixels, sum over levels; destseg: sum over the batch too, which couples lr to batch."""
    region: Literal["object", "image"] = "object"
    """Where cosine distances count: most of a view is constant background, which teaches nothing."""
    focal_gamma: float = 4.0
    """Gamma of the head's focal loss; its L1 has weight 1."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    kind: Literal["destseg", "adamw"] = "destseg"
    """destseg: SGD for convolutions, AdamW for bottleneck, attention, prototype and angles; adamw: one cycle, all."""
    student_lr: float = 0.4
    """DeSTSeg's, for convolutions; the peak of the cycle with adamw."""
    head_lr: float = 0.01
    """DeSTSeg's, for the ASPP and what follows; the peak of the cycle with adamw."""
    head_residual_lr: float = 0.1
    """DeSTSeg's, for the head's residual blocks."""
    attention_lr: float = 3e-4
    """AdamW's for bottleneck, attention, prototype and angles: 0.4 destroys attention."""
    warmup_steps: int = 200
    """Steps in which attention_lr rises."""
    weight_decay: float = 1e-4
    """Of either optimizer."""
    clip_norm: float = 10.0
    """Largest norm of a gradient."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, and on what arithmetic."""

    batch: int = 8
    """Samples, of V views each."""
    student_steps: int = 1000
    """First phase: the student learns, the head rests."""
    head_steps: int = 4000
    """Second phase: the head learns, the student rests."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively; losses and norms stay float32."""
    compile: bool = False
    """torch.compile of network and head; it gained nothing on a processor."""
    deterministic: bool = False
    """Only torch's deterministic algorithms; always so on a processor."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept."""
    workers: int = 0
    """Processes that read shards; 0 reads ahead on threads of this one."""
    threads: int = 0
    """Torch threads; 0 leaves torch's choice."""
    tensorboard: bool = False
    """Write loss and throughput for TensorBoard, too (extra mvad[tensorboard])."""


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo anomalies, following DeSTSeg."""

    probability: float = 1.0
    """How many images are corrupted; those without a mask stay normal in any case."""
    max_scale: int = 6
    """Perlin scales are 2^k with k below this on each axis."""
    threshold: float = 0.5
    """Noise above this is the mask."""
    max_opacity: float = 0.8
    """beta of beta * image + (1 - beta) * texture is uniform up to this."""
    region: Literal["object", "image"] = "object"
    """Most of a view is background: noise there teaches nothing."""
    views: Literal["independent", "consistent"] = "independent"
    """Each view its own mask and texture; consistent: a patch on the scan, seen by all views, through source."""
    modality: Literal["native", "texture"] = "native"
    """Depth gets bumps and normals turn, as a texture in a depth map is no defect; texture: textures everywhere."""
    bump_mm: tuple[float, ...] = (0.5, 3.0)
    """Depth: a bump or dent of this height in the mask; scaled by the rig's range where units are not metres."""
    textures: str = ""
    """Folder of texture pictures, or procedural; set by --textures and stamped."""


@dataclass(frozen=True)
class DropoutConfig:
    """View-wise Dropout, eq. 11 and 12."""

    p: float = 0.2
    """Probability of dropping a view in a student step, with all its modalities; one view is kept."""
    draw: Literal["step", "sample"] = "step"
    """One draw for the whole batch: only so the paper's count of combinations in 1,000 steps comes out."""
    supervise: Literal["present", "all"] = "present"
    """Which views' features are taught; nothing can be compared with a missing view at test."""


@dataclass(frozen=True)
class ScoreConfig:
    """From maps to scores."""

    map: Literal["head", "cosine", "both"] = "head"
    """head: the segmentation head; cosine: the three levels' 1 - cos added; both: mean of the two, calibrated."""
    sample: Literal["max", "mean"] = "max"
    """From views to sample, over the present ones."""
    pool_px: int = 5
    """Maps are averaged over this many pixels first."""
    top_k: int = 100
    """An image's score is the mean of its highest pixels at 256 x 256; scaled with the map's area."""
    region: Literal["object", "image"] = "object"
    """The object's rim against the background dominates otherwise."""
    calibrate: bool = False
    """Standardise each view's and modality's map by the mean and deviation of its scores on the training samples,
    so that a maximum over views and modalities compares like with like. The paper has one head for all views and
    does not say; chosen on generated data."""


@dataclass(frozen=True)
class PatchCoreConfig:
    """PatchCore (Roth et al. 2022), one memory bank a view."""

    coreset: float = 0.10
    """Share of the patches that stay, by greedy k-centre."""
    min_patches: int = 0
    """A bank is never cut below this many patches: few training samples leave little to spare."""
    projection: int = 128
    """Dimensions of the random projection that the coreset is searched in."""
    neighbours: int = 9
    """Neighbours of the reweighting (eq. 7)."""
    sigma: float = 4.0
    """Gaussian over the map, in pixels at 256 x 256."""
    max_patches: int = 100_000
    """Patches a view that enter the coreset search, drawn at random beyond this."""


@dataclass(frozen=True)
class PaDiMConfig:
    """PaDiM (Defard et al. 2021)."""

    channels: int = 100
    """Random channels of all levels that stay; the paper takes 100 of ResNet-18's, 550 of WideResNet-50's."""
    regulariser: float = 0.01
    """Added to the diagonal of each covariance."""
    sigma: float = 4.0
    """Gaussian over the map, in pixels at 256 x 256."""


@dataclass(frozen=True)
class ReverseDistillationConfig:
    """Reverse distillation (Deng and Li 2022)."""

    epochs: int = 200
    """Passes over the training split."""
    lr: float = 0.005
    """Adam's, betas 0.5 and 0.999."""
    batch: int = 16
    """Images."""
    sigma: float = 4.0
    """Gaussian over the map, in pixels at 256 x 256."""


@dataclass(frozen=True)
class SimpleNetConfig:
    """SimpleNet (Liu et al. 2023)."""

    epochs: int = 40
    """Passes over the training split (the paper's code: 40 meta epochs of 4)."""
    noise: float = 0.015
    """Deviation of the Gaussian noise on adapted features."""
    margin: float = 0.5
    """Of the truncated L1 loss."""
    adaptor_lr: float = 1e-4
    """Adam's, weight decay 1e-5."""
    discriminator_lr: float = 2e-4
    """Adam's, weight decay 1e-5."""
    batch: int = 8
    """Images."""
    sigma: float = 4.0
    """Gaussian over the map, in pixels at 256 x 256."""


@dataclass(frozen=True)
class UniADConfig:
    """UniAD (You et al. 2022)."""

    epochs: int = 1000
    """Passes over the training split."""
    width: int = 256
    """Width of a token."""
    layers: int = 4
    """Of encoder and of decoder."""
    heads: int = 8
    """Heads of every attention."""
    neighbours: int = 7
    """Side of the neighbourhood that attention must not look at."""
    jitter: float = 20.0
    """Scale of the feature jitter."""
    jitter_probability: float = 1.0
    """Share of the images that get it."""
    lr: float = 1e-4
    """AdamW's, weight decay 1e-4; a tenth after four fifths of the steps."""
    batch: int = 16
    """Images."""


@dataclass(frozen=True)
class ReconstructConfig:
    """The paper's Figure 4: missing views drawn by a small U-Net from those that are there."""

    steps: int = 1500
    """Of the U-Net."""
    lr: float = 1e-3
    """Adam's."""
    width: int = 32
    """Channels of its first level."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole run."""

    model: str = "idif"
    """The method."""
    seed: int = 0
    """Of everything that is drawn."""
    teacher: str = "auto"
    """auto: the paper's resnet18 where its weights are, else efficientnet_lite0."""
    input: InputConfig = field(default_factory=InputConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    voxel: VoxelConfig = field(default_factory=VoxelConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    stn: SpatialTransformerConfig = field(default_factory=SpatialTransformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    patchcore: PatchCoreConfig = field(default_factory=PatchCoreConfig)
    padim: PaDiMConfig = field(default_factory=PaDiMConfig)
    rd: ReverseDistillationConfig = field(default_factory=ReverseDistillationConfig)
    simplenet: SimpleNetConfig = field(default_factory=SimpleNetConfig)
    uniad: UniADConfig = field(default_factory=UniADConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)


_NARROW: dict[str, Any] = {
    "input.size": 128,
    "encoder.channels": 128,
    "encoder.freeze_early": True,
    "bottleneck.channels": 16,
    "voxel.channels": 32,
    "voxel.size": 8,
    "voxel.patch": 1,
    "voxel.width": 128,
    "fusion.heads": 4,
    "decoder.widths": (96, 64, 32),
    "head.width": 48,
    "optimizer.kind": "adamw",
    "optimizer.student_lr": 2e-3,
    "optimizer.head_lr": 2e-3,
    "optimizer.clip_norm": 1.0,
    "score.map": "both",
    "score.calibrate": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "destseg": {
        "encoder.level": 32, "encoder.share": "view", "encoder.init": "scratch", "encoder.channels": 0, "bottleneck.kind": "none",
        "fusion.kind": "none", "decoder.project": False, "head.share": "view", "head.window": "image", "loss.reduction": "destseg", "loss.region": "image",
        "optimizer.clip_norm": 1e9, "input.background": "black", "pseudo.region": "image", "pseudo.modality": "texture",
        "dropout.p": 0.0, "score.pool_px": 1, "score.region": "image", "train.batch": 32,
    },
    "small": _NARROW
    | {
        "train.batch": 4,
        "train.student_steps": 200,
        "train.head_steps": 200,
        "bottleneck.channels": 8,
        "voxel.patch": 2,
        "fusion.blocks": 2,
        "fusion.position": "geometric",
        "head.share": "view",
        "score.map": "head",
        "patchcore.min_patches": 12_000,
    },
    "demo": _NARROW
    | {
        "train.batch": 2,
        "train.student_steps": 150,
        "train.head_steps": 60,
        "decoder.widths": (64, 48, 32),
        "head.width": 32,
        "fusion.blocks": 2,
    },
}  # fmt: skip
"""paper: as the paper and DeSTSeg say. destseg: DeSTSeg as published, one model a view. small: figures on two CPU cores. demo: minutes; never for claims."""

MODALITIES = {"mvtec3d": ("rgb", "depth"), "eyecandies": ("rgb", "normal"), "realiad": ("rgb",)}
"""The paper's inputs (section Set-up)."""
