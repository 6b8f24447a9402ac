"""Keys that every method has, and the presets. A method's own keys stand beside the method (``model/registry.py``).

A key is one field: ``settings.key`` gives it default, reason, what the paper says, and alternatives. Presets change keys by
name and nothing else; ``--set key=value`` reaches any of them. "Silent" means that the paper (IDIF, AAAI-25) does not say;
DeSTSeg is apple/ml-destseg, on which it builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mvad.settings import key

SILENT = "silent"
OURS = "not in the paper: ours"


@dataclass(frozen=True)
class InputConfig:
    """What the network sees."""

    size: int = key(
        256,
        "Side in pixels; stored views are averaged down to it (it must divide their side).",
        paper="256",
        alternatives="128 in small: a quarter of the cost",
    )
    modalities: tuple[str, ...] = key(
        (),
        "Inputs of each view: rgb, depth, normal; empty: the paper's for the dataset, else what the shards hold.",
        paper="Real-IAD RGB; MVTec 3D-AD RGB and depth; Eyecandies RGB and normals; how two modalities enter is silent",
        alternatives="2V inputs with an embedding each is built; six channels, or two models, are not",
    )
    background: Literal["mean", "black"] = key(
        "mean", "Colour of the background: mean is what the teacher's normalisation maps to zero.", paper=SILENT
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long, and on what arithmetic."""

    batch: int = key(8, "Samples per step, each of V views.", paper="8 samples")
    student_steps: int = key(
        1000, "Steps of the first phase: the student is trained, the head is not.", paper='"1000 steps" in passing; DeSTSeg 1,000'
    )
    head_steps: int = key(
        4000, "Steps of the second phase: the head is trained, the student is frozen.", paper="silent; DeSTSeg 4,000"
    )
    precision: Literal["auto", "float32", "bfloat16"] = key(
        "auto", "auto: bfloat16 where the processor multiplies it natively; losses and norms stay float32.", paper=SILENT
    )
    compile: bool = key(False, "torch.compile of network and head; it gained nothing on a processor.", paper=SILENT)
    deterministic: bool = key(False, "Only torch's deterministic algorithms; always so on a processor.", paper=SILENT)
    checkpoint_every: int = key(100, "Steps between checkpoints.", paper=OURS)
    keep_checkpoints: int = key(2, "Number of checkpoints that are kept.", paper=OURS)
    workers: int = key(0, "Processes that read shards; 0 reads ahead on threads of this process.", paper=OURS)
    threads: int = key(0, "Torch threads; 0 leaves torch's choice.", paper=OURS)
    tensorboard: bool = key(False, "Write loss and throughput for TensorBoard, too (extra mvad[tensorboard]).", paper=OURS)


@dataclass(frozen=True)
class ScoreConfig:
    """From maps to scores."""

    map: Literal["head", "cosine", "both"] = key(
        "head",
        "head: the segmentation head; cosine: the three levels' 1 - cos added; both: mean of the two, calibrated.",
        paper='a segmentation head "for the final map"',
    )
    sample: Literal["max", "mean"] = key(
        "max", "How the scores of the present views become the sample's score.", paper="maximum over views, in Table 3's ensemble"
    )
    pool_px: int = key(5, "Maps are averaged over this many pixels first.", paper=SILENT, alternatives="1")
    top_k: int = key(
        100,
        "An image's score is the mean of its highest pixels at 256 x 256; scaled with the map's area.",
        paper="silent; DeSTSeg 100",
    )
    region: Literal["object", "image"] = key(
        "object",
        "Which pixels count in maps and scores; with image the object's rim against the background dominates.",
        paper="silent; DeSTSeg the whole image",
    )
    calibrate: bool = key(
        False,
        "Standardise each view's and modality's map by the mean and deviation of its scores on the training samples, so that a maximum over views and modalities compares like with like. Chosen on generated data.",
        paper=SILENT,
    )


@dataclass(frozen=True)
class ModelConfig:
    """A run: what every method has. A method's own configuration adds its sections."""

    model: str = key("idif", "Name of the method.", paper="IDIF; Table 1 to 3 and Figure 4 name the baselines")
    seed: int = key(0, "Seed of every random number.", paper=SILENT, alternatives="any; report several")
    teacher: str = key(
        "auto",
        "auto: the paper's resnet18 where its weights are, else efficientnet_lite0.",
        paper="ResNet-18, ImageNet, blocks 1 to 3",
        alternatives="efficientnet_lite0 where ResNet-18's weights cannot be had; random for tests",
    )
    input: InputConfig = field(default_factory=InputConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo anomalies, following DeSTSeg."""

    probability: float = key(
        1.0,
        "How many images are corrupted; those without a mask stay normal in any case.",
        paper='pseudo anomalies "following DeSTSeg": 1.0',
    )
    max_scale: int = key(
        6, "Perlin scales are 2^k with k below this on each axis.", paper='pseudo anomalies "following DeSTSeg": 2^0 to 2^5'
    )
    threshold: float = key(0.5, "Noise above this is the mask.", paper='pseudo anomalies "following DeSTSeg": 0.5')
    max_opacity: float = key(
        0.8,
        "beta of beta * image + (1 - beta) * texture is uniform up to this.",
        paper='pseudo anomalies "following DeSTSeg": 0.8',
    )
    region: Literal["object", "image"] = key(
        "object",
        "Where pseudo anomalies may lie: most of a view is background, where they teach nothing.",
        paper="silent; DeSTSeg the whole image",
    )
    views: Literal["independent", "consistent"] = key(
        "independent",
        "Each view its own mask and texture; consistent: a patch on the scan, seen by all views, through source.",
        paper=SILENT,
        alternatives="consistent: a defect that several views see, as real ones",
    )
    modality: Literal["native", "texture"] = key(
        "native",
        "Depth gets bumps and normals turn, as a texture in a depth map is no defect; texture: textures everywhere.",
        paper=SILENT,
    )
    bump_mm: tuple[float, ...] = key(
        (0.5, 3.0),
        "Depth: a bump or dent of this height in the mask; scaled by the rig's range where units are not metres.",
        paper=SILENT,
    )
    textures: str = key(
        "",
        "Folder of texture pictures, or procedural; set by --textures and stamped.",
        paper="DTD (Cimpoi et al. 2014)",
        alternatives="procedural: for machines without DTD, never unasked",
    )


@dataclass(frozen=True)
class TexturedConfig(ModelConfig):
    """Configuration of methods that learn from pseudo anomalies."""

    pseudo: PseudoConfig = field(default_factory=PseudoConfig)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "destseg": {
        "input.background": "black", "pseudo.region": "image", "pseudo.modality": "texture", "score.pool_px": 1,
        "score.region": "image", "train.batch": 32,
    },
    "small": {
        "input.size": 128, "score.map": "head", "score.calibrate": True, "train.batch": 4, "train.student_steps": 200,
        "train.head_steps": 200,
    },
    "demo": {
        "input.size": 128, "score.map": "both", "score.calibrate": True, "train.batch": 2, "train.student_steps": 150,
        "train.head_steps": 60,
    },
}  # fmt: skip
"""paper: as the paper and DeSTSeg say. destseg: DeSTSeg as published, one model per view. small: figures on two CPU cores.
demo: minutes; never for claims. A method's declaration adds what a preset means for its own keys."""
