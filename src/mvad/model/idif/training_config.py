"""Keys of IDIF's training: losses, optimizers, dropped views, turned views, a companion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mvad.model.config import OURS, SILENT
from mvad.settings import key


@dataclass(frozen=True)
class LossConfig:
    """Losses of the student (eq. 10) and of the head."""

    alpha: float = key(
        1.0,
        "Weight of L_Distill.",
        paper="eq. 10, value not given",
        alternatives="chosen only on generated data, never on test scans",
    )
    beta: float = key(
        1.0,
        "Weight of L_IB. Chosen by the losses of held-out normals on the generated gear: compared with 0.1, the distillation loss is the same, replacing P_n by that of another sample raises this loss by 14 instead of 5 percent, and f_s keeps 0.60 instead of 0.87 of f_E's energy.",
        paper="eq. 10, value not given",
        alternatives="0.1: f_c then serves the decoders more than it explains f_E; never chosen on test scans",
    )
    reduction: Literal["mean", "destseg"] = key(
        "mean",
        "mean: mean over batch and pixels, sum over levels; destseg: also a sum over the batch, which ties the learning rate to the batch size.",
        paper="sum over views",
    )
    images: int = key(
        32,
        "With loss.reduction = mean and optimizer.kind = destseg, the student's loss is multiplied by this number: DeSTSeg sums its loss over a batch of 32 images, and its learning rates are meant for that sum. The number does not depend on train.batch.",
        paper="silent; DeSTSeg's batch is 32 images",
        alternatives="1: the decoders' steps are 32 times smaller than DeSTSeg's",
        least=1,
    )
    region: Literal["object", "image"] = key(
        "object",
        "Pixels whose cosine distances count in the loss: those on the object, or the whole image. Most of a view is constant background, from which nothing is learnt.",
        paper=SILENT,
    )
    focal_gamma: float = key(
        4.0, "Gamma of the head's focal loss. The L1 loss of the head has weight 1.", paper="silent; DeSTSeg 4"
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizers of student and head."""

    kind: Literal["destseg", "adamw"] = key(
        "destseg",
        "destseg: SGD for convolutions, AdamW for bottleneck, attention, prototype and angles; adamw: AdamW with a one-cycle schedule for everything.",
        paper="silent; DeSTSeg SGD",
    )
    student_lr: float = key(
        0.4,
        "Learning rate of the student's convolutions; with optimizer.kind = adamw, the peak of the cycle.",
        paper="silent; DeSTSeg 0.4",
        least=0,
    )
    head_lr: float = key(
        0.01,
        "Learning rate of the head's ASPP and the layers after it; with optimizer.kind = adamw, the peak of the cycle.",
        paper="silent; DeSTSeg 0.01",
        least=0,
    )
    head_residual_lr: float = key(
        0.1, "With optimizer.kind = destseg: learning rate of the head's residual blocks.", paper="silent; DeSTSeg 0.1", least=0
    )
    attention_lr: float = key(
        0.0003,
        "With optimizer.kind = destseg: AdamW's learning rate for bottleneck, attention, prototype and angles. It is separate because attention does not train at 0.4.",
        paper=SILENT,
        alternatives="1e-4 to 1e-3",
        least=0,
    )
    warmup_steps: int = key(
        200, "With optimizer.kind = destseg: steps over which attention_lr rises from 0.", paper=SILENT, least=0
    )
    weight_decay: float = key(0.0001, "Weight decay of all optimizers.", paper="silent; DeSTSeg 1e-4", least=0)
    clip_norm: float = key(
        100.0,
        "Gradients are clipped to this norm. This is only a safeguard: after the first steps, the limit is about ten times the norms that occur.",
        paper=SILENT,
        alternatives="DeSTSeg does not clip; 1 in small, with AdamW",
        least=0,
    )


@dataclass(frozen=True)
class DropoutConfig:
    """View-wise Dropout, eq. 11 and 12."""

    p: float = key(
        0.2,
        "Probability of dropping a view, with all its modalities, in a step of either phase. At least one view of each sample always remains.",
        paper="0.2 per view",
        least=0,
        most=1,
    )
    draw: Literal["step", "sample"] = key(
        "step",
        "step: one draw for the whole batch, the only reading that agrees with the paper's count of combinations in 1,000 steps; sample: one draw per sample.",
        paper='"less than twice in 1000 steps" for each combination of four: 0.2^4 x 0.8 x 1000 = 1.28, so once per step',
    )
    supervise: Literal["present", "all"] = key(
        "present",
        "Views whose features supervise the student: only those that are present, or all. At test time nothing is compared with a missing view.",
        paper="dropped views leave the intra-view decoupling; silent on whether they are supervised",
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Turned training views, as DeSTSeg's augmentation."""

    turn_deg: float = key(
        0.0,
        "Training views are rotated in their plane by up to this angle in either direction. All views of a sample are rotated by the same angle, and normals rotate with them. Meant for photographs of parts at varying angles; views in the object's frame always show the part at the same angle.",
        paper="silent; DeSTSeg 0 or 5, depending on the category",
        alternatives="5: as in DeSTSeg",
        least=0,
        most=180,
    )
    turns: int = key(
        5,
        "Number of different angles, evenly spread over the range. The cache of the teacher's features holds those of each angle.",
        paper=OURS,
        alternatives="DeSTSeg draws any angle",
        least=2,
        most=360,
    )
    quarters: bool = key(
        False,
        "Also rotate by random multiples of a quarter turn.",
        paper="silent; DeSTSeg does so for categories without an upright pose",
    )


@dataclass(frozen=True)
class CompanionConfig:
    """Method of another kind whose scores are added."""

    kind: Literal["none", "padim"] = key(
        "none",
        "padim: PaDiM is fitted to the same input, and its maps and scores are added to IDIF's. Both are standardised by held-out normals (score.scale) and have equal weight. The reason is that a distance to what was seen and a learnt decoder err on different samples. Where the validation split has fewer than ten normals, the folds of score.scale fit PaDiM to only half of the training samples, and PaDiM then counts less.",
        paper=OURS,
        alternatives="padim in preset best",
    )
