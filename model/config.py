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


@dataclass(frozen=True)
class EncoderConfig:
    """Shared feature extractor: the teacher's architecture to stride 16."""

    init: Literal["imagenet", "scratch"] = "imagenet"
    """The paper does not say; from the teacher's weights was by hand the largest single gain."""
    channels: int = 256
    """C, the width of f_E after a 1x1 lift."""
    freeze_early: bool = False
    """Keep the trunk to stride 4 as it is (small, demo): a step costs a third less."""
    lr_scale: float = 0.3
    """Learning rate relative to the rest, since it starts from trained weights (optimizer.kind = adamw)."""


@dataclass(frozen=True)
class BottleneckConfig:
    """Consistency bottleneck, eq. 2 to 6."""

    channels: int = 32
    """Capacity of f_c at stride 16, lifted to C by 1x1; the paper says low-dimensional."""
    kl: float = 0.0
    """Weight of a KL term; eq. 10 has none."""
    detach_target: bool = True
    """Reconstruct f_E as it is; otherwise the encoder can lower L_IB by making f_E trivial."""


@dataclass(frozen=True)
class VoxelConfig:
    """Voxel prototype P_0."""

    channels: int = 64
    size: int = 16
    """D = H = W; the plane that the spatial transformer gives is resized to f_E's where they differ."""
    patch: int = 2
    width: int = 256
    """Width of a token."""


@dataclass(frozen=True)
class FusionConfig:
    """Fusion blocks, eq. 7, 8 and 12."""

    blocks: int = 3
    self_layers: int = 1
    heads: int = 8


@dataclass(frozen=True)
class SpatialTransformerConfig:
    """STN, eq. 9."""

    init: Literal["rig", "zeros"] = "rig"
    """rig: the cameras' angles (Real-IAD: one from above, four at 45 degrees)."""


@dataclass(frozen=True)
class DecoderConfig:
    """View-specific decoders: DeSTSeg's from stride 16, no skips."""

    widths: tuple[int, ...] = ()
    """Channels of the stages at strides 16, 8, 4; empty: the teacher's."""


@dataclass(frozen=True)
class HeadConfig:
    """Segmentation head: DeSTSeg's, shared by the views."""

    width: int = 256


@dataclass(frozen=True)
class LossConfig:
    """Eq. 10 and the head's loss."""

    alpha: float = 1.0
    beta: float = 0.1
    region: Literal["object", "image"] = "object"
    """Where cosine distances count: most of a view is constant background, which teaches nothing."""
    focal_gamma: float = 4.0


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    kind: Literal["destseg", "adamw"] = "destseg"
    """destseg: SGD for convolutions, AdamW for bottleneck, attention, prototype and angles; adamw: one cycle, all."""
    student_lr: float = 0.4
    head_lr: float = 0.01
    head_residual_lr: float = 0.1
    attention_lr: float = 3e-4
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 10.0


@dataclass(frozen=True)
class TrainConfig:
    """How long, and on what arithmetic."""

    batch: int = 8
    """Samples, of V views each."""
    student_steps: int = 1000
    head_steps: int = 4000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively; losses and norms stay float32."""
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    threads: int = 0
    """Torch threads; 0 leaves torch's choice."""


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo anomalies, following DeSTSeg."""

    probability: float = 1.0
    max_scale: int = 6
    """Perlin scales are 2^k with k below this on each axis."""
    threshold: float = 0.5
    max_opacity: float = 0.8
    """beta of beta * image + (1 - beta) * texture is uniform up to this."""
    region: Literal["object", "image"] = "object"
    bump_mm: tuple[float, ...] = (0.5, 3.0)
    """Depth: a bump or dent of this height in the mask; scaled by the rig's range where units are not metres."""
    textures: str = ""
    """Folder of texture pictures, or procedural; set by --textures and stamped."""


@dataclass(frozen=True)
class DropoutConfig:
    """View-wise Dropout, eq. 11 and 12."""

    p: float = 0.2
    """Probability of dropping a view, drawn once a student step for the whole batch; one view is kept."""


@dataclass(frozen=True)
class ScoreConfig:
    """From maps to scores."""

    map: Literal["head", "cosine", "both"] = "head"
    """head: the segmentation head; cosine: the three levels' 1 - cos added; both: mean of the two, calibrated."""
    pool: int = 5
    """Maps are averaged over this many pixels first."""
    top: int = 100
    """An image's score is the mean of its highest pixels at 256 x 256; scaled with the map's area."""
    region: Literal["object", "image"] = "object"
    calibrate: bool = False
    """Standardise each view's and modality's map by the mean and deviation of its scores on the training samples,
    so that a maximum over views and modalities compares like with like. The paper has one head for all views and
    does not say; chosen on generated data."""


@dataclass(frozen=True)
class PatchCoreConfig:
    """PatchCore (Roth et al. 2022), one memory bank a view."""

    coreset: float = 0.10
    projection: int = 128
    neighbours: int = 9
    sigma: float = 4.0
    max_patches: int = 100_000
    """Patches a view that enter the coreset search, drawn at random beyond this."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole run."""

    model: str = "idif"
    seed: int = 0
    teacher: str = "auto"
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
    "small": _NARROW | {"train.batch": 4, "train.student_steps": 700, "train.head_steps": 250},
    "demo": _NARROW
    | {
        "train.batch": 2,
        "train.student_steps": 150,
        "train.head_steps": 60,
        "decoder.widths": (64, 48, 32),
        "head.width": 32,
        "fusion.blocks": 2,
    },
}
"""paper: as the paper and DeSTSeg say. small: figures on two CPU cores. demo: minutes; never for claims."""

MODALITIES = {"mvtec3d": ("rgb", "depth"), "eyecandies": ("rgb", "normal"), "realiad": ("rgb",)}
"""The paper's inputs (section Set-up)."""
