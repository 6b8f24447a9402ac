"""Keys that every method has, and the presets. A method's own keys are declared beside the method (``model/registry.py``).

A key is one field: ``settings.key`` holds its default, the reason, what the paper says, and alternatives. A preset is a set of
values by key; ``--set key=value`` changes any key. "Silent" means that the paper (IDIF, AAAI-25) does not say;
DeSTSeg is apple/ml-destseg, on which it builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mvad.settings import key

SILENT = "silent"
OURS = "not in the paper: ours"


def smoothing_sigma(paper: str) -> Any:
    """Declare the key ``sigma`` of a method whose maps ``features.smooth_upsample`` smooths; ``paper`` is its paper's value."""
    why = "Standard deviation of the Gaussian that smooths the map, in pixels at 256 x 256."
    return key(4.0, why, paper=paper, least=0.001, most=32)


@dataclass(frozen=True)
class InputConfig:
    """Input of the network."""

    size: int = key(
        256,
        "Side of a view in pixels. Stored views are averaged down to this size, which must divide their side.",
        paper="256",
        alternatives="128: a quarter of the cost, but about eight points lower on real glands",
        least=32,
        most=2048,
    )
    modalities: tuple[str, ...] = key(
        (),
        "Modalities of each view: rgb, depth, normal. Empty: the modalities that the paper uses for the dataset, with one exception: for MVTec 3D-AD, presets other than paper and destseg use RGB and normals, which score better. For 3D-ADAM and Real-IAD D3: RGB and depth. For other datasets: all modalities in the shards.",
        paper="Real-IAD: RGB; MVTec 3D-AD: RGB and depth; Eyecandies: RGB and normals; silent on how two modalities enter the network",
        alternatives="implemented: 2V inputs with one embedding each; not implemented: six channels, or two models",
    )
    background: Literal["mean", "black"] = key(
        "mean", "Colour of the background. mean: the colour that the teacher's normalisation maps to zero.", paper=SILENT
    )


@dataclass(frozen=True)
class TrainConfig:
    """Length of training, arithmetic, checkpoints."""

    batch: int = key(8, "Samples per step; each sample has V views.", paper="8 samples", least=1)
    student_steps: int = key(
        1000,
        "Steps of the first phase, in which the student is trained and the head is not.",
        paper='"1000 steps", mentioned in passing; DeSTSeg 1,000',
        least=0,
    )
    head_steps: int = key(
        4000,
        "Steps of the second phase, in which the head is trained and the student is frozen.",
        paper="silent; DeSTSeg 4,000",
        least=0,
    )
    holdout: float = key(
        0.0,
        "Share of the training samples that are held out of training (at least two samples, unless the share is 0), evenly spread over the sorted keys. The figures for choosing a configuration without labels are computed on them (docs/training.md).",
        paper=OURS,
        alternatives="0.2, while choosing a configuration",
        least=0,
        most=0.5,
    )
    precision: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        "auto: bfloat16 where the CPU or GPU multiplies it natively; losses and norms stay in float32. float32: TF32 is off, too; otherwise a GPU rounds the inputs of convolutions to TF32.",
        paper=SILENT,
    )
    compile: bool = key(
        False,
        "Compile network and head with torch.compile. This is no faster on a CPU, and was not measured on a GPU.",
        paper=SILENT,
    )
    deterministic: bool = key(
        False,
        "Use only deterministic algorithms in training and scoring; an operation without one gives a warning. A CPU always uses deterministic algorithms.",
        paper=SILENT,
    )
    graphs: bool = key(
        True,
        "On a GPU, record the steps with the most common subsets of views as CUDA graphs where that makes them faster. Applies only if one process trains alone.",
        paper=OURS,
        alternatives="false: a third less memory, but each step waits for the Python interpreter",
    )
    checkpoint_seconds: float = key(
        60.0,
        "Seconds between checkpoints: about as much work as a killed process loses. 0: no checkpoints by time. A checkpoint is always taken at the end of a phase and after a signal.",
        paper=OURS,
        least=0,
    )
    checkpoint_every: int = key(
        0, "Also take a checkpoint after every this many steps; 0: no checkpoints by steps.", paper=OURS, least=0
    )
    keep_checkpoints: int = key(2, "Number of most recent checkpoints to keep.", paper=OURS, least=1)
    workers: int = key(0, "Number of processes that read shards; 0: threads of this process read ahead.", paper=OURS, least=0)
    threads: int = key(0, "Number of torch threads; 0: torch's default.", paper=OURS, least=0)
    tensorboard: bool = key(False, "Also write loss and throughput for TensorBoard (extra mvad[tensorboard]).", paper=OURS)


ONE_ORDER = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Environment variable and value with which cuBLAS adds in one order (``train.deterministic``). It is read when a process first
uses cuBLAS, so that the command line sets it at once."""

CHECKPOINT_KEYS = frozenset({"train.checkpoint_seconds", "train.checkpoint_every", "train.keep_checkpoints"})
"""Keys without influence on the result: a run may be continued with other values, and is not another run for them."""


@dataclass(frozen=True)
class ScoreConfig:
    """Scores from anomaly maps."""

    map: Literal["head", "cosine", "both"] = key(
        "head",
        "Source of the anomaly map. head: output of the segmentation head; cosine: sum of 1 - cos over the three levels; both: mean of the two after calibration.",
        paper='a segmentation head "for the final map"',
    )
    scale: Literal["held_out", "none"] = key(
        "held_out",
        "held_out: the score of each view and modality is standardised by the location and deviation of the scores of normal samples that the detector was not fitted to. The estimates of each view are shrunk towards the mean over all views, to the extent that chance explains the differences between views. none: raw scores are compared.",
        paper="silent; preset paper compares raw scores",
        alternatives="none: the comparison of preset paper; the view whose scores vary most then decides a maximum over views",
    )
    folds: int = key(
        0,
        "Number of folds of the training split, used where the validation split has fewer than ten normal samples: for each fold, a fresh detector is fitted to the other folds and scores this fold. 0: 4 folds for methods that are fitted in one pass, 2 for others. 1: the training samples themselves are scored, which are not held out.",
        paper=OURS,
        alternatives="1: no further detector is fitted, but training samples have lower scores, which vary less, than other samples",
        least=0,
        most=20,
    )
    modalities: Literal["add", "max"] = key(
        "add",
        "How the scores of a view's modalities are combined. add: they are added, with weights from compact pseudo anomalies in held-out normal samples; max: the highest score counts. Chosen on generated data without test labels (benchmarks/score_rules.py).",
        paper=SILENT,
        alternatives="max: with raw scores, one modality alone can decide",
    )
    sample: Literal["max", "top2", "mean"] = key(
        "top2",
        "How the scores of the present views are combined into the sample's score. top2: the mean of the two highest. Chosen without labels (benchmarks/score_rules.py), with small anomalies drawn on held-out normals: an anomaly lies on the same points in all views, so that as many views show it as would show a real one. On average top2 finds the most of them, and it never finds many fewer than the best rule. mvad evaluate prints S-AUROC under every rule.",
        paper="maximum over views, in Table 3's ensemble",
        alternatives="max: for defects that only one view shows; mean: for defects that all views show",
    )
    pool_px: int = key(
        5,
        "Side, in pixels of a 256 x 256 map, of the window over which maps are averaged first. It is scaled with the map's side and rounded to an odd number.",
        paper=SILENT,
        alternatives="1",
        least=1,
        most=255,
        odd=True,
    )
    top_k: int = key(
        100,
        "An image's score is the mean of this many highest pixels of a 256 x 256 map; the number is scaled with the map's area.",
        paper="silent; DeSTSeg 100",
        least=1,
        most=65536,
    )
    region: Literal["object", "image"] = key(
        "object",
        "Pixels that count in maps and scores: those on the object, or the whole image. With image, the object's edge against the background dominates.",
        paper="silent; DeSTSeg: the whole image",
    )
    calibrate: bool = key(
        False,
        "Standardise the maps of each view and modality by the mean and standard deviation of their scores on the training samples. Needed where score.map = both adds two kinds of maps (preset demo). Afterwards score.scale standardises the result by samples that were not in training. Where only one kind of map is used, score.scale takes the place of this key: it undoes the effect of this key, except for the shrinkage of views towards their mean.",
        paper=SILENT,
    )


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a run with the keys that every method has; a method's configuration derives from it and adds sections."""

    model: str = key("idif", "Name of the method.", paper="IDIF; Tables 1 to 3 and Figure 4 name the baselines")
    seed: int = key(0, "Seed of every random number.", paper=SILENT, alternatives="any; report several", least=0)
    teacher: str = key(
        "auto",
        "auto: the paper's resnet18 if its weights are available, otherwise efficientnet_lite0.",
        paper="ResNet-18, ImageNet, blocks 1 to 3",
        alternatives="efficientnet_lite0 if ResNet-18's weights are not available; random and tiny (untrained) for tests",
    )
    input: InputConfig = field(default_factory=InputConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo anomalies, following DeSTSeg."""

    probability: float = key(
        1.0,
        "Share of images that are corrupted. Images whose mask is empty always stay normal.",
        paper='pseudo anomalies "following DeSTSeg": 1.0',
        least=0,
        most=1,
    )
    max_scale: int = key(
        6,
        "The scale of the Perlin noise is 2^k on each axis, with k below this.",
        paper='pseudo anomalies "following DeSTSeg": 2^0 to 2^5',
        least=1,
        most=8,
    )
    threshold: float = key(
        0.5, "The mask covers the pixels where the noise exceeds this value.", paper='pseudo anomalies "following DeSTSeg": 0.5'
    )
    compact: float = key(
        0.0,
        "Share of the masks that consist of one to three compact regions, together 0.3 to 5 % of the object, instead of Perlin noise. Perlin masks consist of many specks, whereas a real defect is one region or a few.",
        paper='pseudo anomalies "following DeSTSeg": none',
        alternatives="0.5: half of them; 1: all",
        least=0,
        most=1,
    )
    swap: float = key(
        0.0,
        "Share of the samples of a batch in which one view is replaced by the same view of another sample: an anomaly that only the other views reveal. Not available with several processes.",
        paper=OURS,
        alternatives="0.5: for categories whose views vary together and whose defects are disagreements between views",
        least=0,
        most=1,
    )
    max_opacity: float = key(
        0.8,
        "Upper limit of beta in beta * image + (1 - beta) * texture; beta is drawn uniformly from 0 to this value.",
        paper='pseudo anomalies "following DeSTSeg": 0.8',
        least=0,
        most=1,
    )
    region: Literal["object", "image"] = key(
        "object",
        "Where pseudo anomalies may lie: on the object, or anywhere in the image. Most of a view is background, where nothing is learnt from them.",
        paper="silent; DeSTSeg: the whole image",
    )
    views: Literal["independent", "consistent"] = key(
        "independent",
        "independent: each view has its own mask and texture; consistent: one patch on the scan, mapped to all views by the field source.",
        paper=SILENT,
        alternatives="consistent: several views see the defect, as with real defects",
    )
    modality: Literal["native", "texture"] = key(
        "native",
        "native: bumps in depth and tilted normals, since a texture in a depth map is not a defect; texture: textures in every modality.",
        paper=SILENT,
    )
    bump_mm: tuple[float, ...] = key(
        (0.5, 3.0),
        "Range of the height of a bump or dent in depth, in millimetres. Where units are not metres, the height is scaled as if the object's radius were 30 mm.",
        paper=SILENT,
        least=0,
        length=2,
    )
    textures: str = key(
        "",
        "Folder of texture images, or the word procedural (generated textures). Set by --textures and recorded with the run.",
        paper="DTD (Cimpoi et al. 2014)",
        alternatives="procedural: for machines without DTD; used only on request",
    )


@dataclass(frozen=True)
class TexturedConfig(ModelConfig):
    """Configuration of methods that learn from pseudo anomalies."""

    pseudo: PseudoConfig = field(default_factory=PseudoConfig)


_PAPER_SCORES = {"score.scale": "none", "score.modalities": "max", "score.sample": "max"}
"""The maximum over views and modalities of raw scores. It needs no held-out samples, so no fold is fitted."""

EARLIER = {"score.scale": "none", "score.modalities": "max", "head.kind": "light"}
"""What runs did that do not record these keys."""

PAPER_PRESETS = ("paper", "destseg")
"""Presets that keep the paper's inputs."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": _PAPER_SCORES,
    "destseg": {
        "input.background": "black", "pseudo.region": "image", "pseudo.modality": "texture", "score.pool_px": 1,
        "score.region": "image", "train.batch": 32, **_PAPER_SCORES,
    },
    "small": {
        "score.map": "head", "train.batch": 4, "train.student_steps": 500, "train.head_steps": 200,
    },
    "best": {
        "score.map": "head", "train.batch": 4, "train.student_steps": 1000, "train.head_steps": 400,
    },
    "demo": {
        "input.size": 128, "score.map": "both", "score.calibrate": True, "train.batch": 2, "train.student_steps": 150,
        "train.head_steps": 60,
    },
}  # fmt: skip
"""Presets by name. paper: the values of the paper and DeSTSeg. destseg: DeSTSeg as published, one model per view. small:
experiments on two CPU cores. best: what scores best without labels, for a GPU or a patient processor. demo: takes minutes; not for comparisons. A method's declaration adds values for its own keys."""
