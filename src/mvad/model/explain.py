"""What the paper says of each key, and what else could be chosen: the provenance of every silent choice.

``mvad explain KEY`` shows it with the default, the presets and the reason, which stands below each key in ``config.py``.
"Silent" means that the paper (IDIF, AAAI-25) does not say; DeSTSeg is apple/ml-destseg, on which it builds.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from mvad.errors import BadInput
from mvad.model import config as model_config
from mvad.model.config import PRESETS, ModelConfig
from mvad.model.registry import METHOD_KEYS
from mvad.settings import allowed_values, flatten, reasons

SILENT = "silent"
OURS = "not of the paper: ours"


@dataclass(frozen=True)
class Choice:
    """Where a key's value comes from.

    Attributes
    ----------
    paper
        What the paper says, or that it is silent; for baselines, what their own papers say.
    alternatives
        What else could be chosen, with what is known of it; empty where the allowed values say it all.
    """

    paper: str
    alternatives: str = ""


_DESTSEG = 'pseudo anomalies "following DeSTSeg"'
CHOICES: dict[str, Choice] = {
    "model": Choice("IDIF; Table 1 to 3 and Figure 4 name the baselines"),
    "seed": Choice(SILENT, "any; report several"),
    "teacher": Choice("ResNet-18, ImageNet, blocks 1 to 3", "efficientnet_lite0 where ResNet-18's weights cannot be had; random for tests"),
    "input.size": Choice("256", "128 in small: a quarter of the cost"),
    "input.modalities": Choice(
        "Real-IAD RGB; MVTec 3D-AD RGB and depth; Eyecandies RGB and normals; how two modalities enter is silent",
        "2V inputs with an embedding each is built; six channels, or two models, are not",
    ),
    "input.background": Choice(SILENT),
    "encoder.level": Choice(SILENT, "8: finer planes and more tokens; 32: DeSTSeg's block4, an eighth of the pixels"),
    "encoder.share": Choice('"shared feature extractor"'),
    "encoder.init": Choice("silent; DeSTSeg's student starts from scratch", "scratch: by hand 78.3 against 80.7 on cable_gland"),
    "encoder.channels": Choice(SILENT),
    "encoder.freeze_early": Choice(OURS),
    "encoder.lr_scale": Choice(OURS),
    "bottleneck.kind": Choice("variational (eq. 2 to 6); Table 3 has a row without"),
    "bottleneck.channels": Choice('"low-dimensional", "limited in information capacity"', "8 to 64: the more f_c holds, the less the voxel is used; a pooled vector is not built: it loses the place of things"),
    "bottleneck.aggregate": Choice('"information from all views is compressed"', "concatenation is not built: it needs all views"),
    "bottleneck.decoder": Choice("a reconstruction decoder q(f_E | f_c), in training only"),
    "bottleneck.kl": Choice("eq. 10 has no such term", "1e-4 to 1e-2"),
    "bottleneck.at_test": Choice(SILENT),
    "bottleneck.detach_target": Choice(SILENT, "false lets the encoder lower L_IB by making f_E trivial"),
    "voxel.channels": Choice(SILENT, "32 in small"),
    "voxel.size": Choice(SILENT, "8, 32"),
    "voxel.patch": Choice("Figure 2c patchifies; the size is silent", "1, 4"),
    "voxel.width": Choice(SILENT, "128 in small"),
    "fusion.kind": Choice("voxel (eq. 7 to 9); Table 3 has rows with 3-D convolutions and with one model a view"),
    "fusion.blocks": Choice("n, unnamed; the figure shows three", "1 to 6"),
    "fusion.self_layers": Choice("l, unnamed", "1 to 3"),
    "fusion.heads": Choice(SILENT, "4, 8"),
    "fusion.norm": Choice(SILENT),
    "fusion.position": Choice("positional encodings, kind silent", "geometric starts the attention where the cameras are"),
    "stn.transform": Choice('"learnable angle alpha"'),
    "stn.init": Choice(SILENT),
    "stn.depth_reduction": Choice('"map to the 2D plane"'),
    "decoder.widths": Choice(SILENT, "the teacher's, as DeSTSeg; narrower in small"),
    "decoder.share": Choice("view-specific decoders"),
    "decoder.project": Choice(SILENT, "false: DeSTSeg's, for a teacher that ends in ReLU"),
    "decoder.skip": Choice("none drawn; DeSTSeg has none"),
    "head.width": Choice("silent; DeSTSeg 256", "48 in small"),
    "head.share": Choice('"a segmentation head"'),
    "head.window": Choice("silent; DeSTSeg's sees the whole image"),
    "head.separable": Choice(SILENT, "true: the ASPP's operations fall to an eighth; off in paper"),
    "loss.alpha": Choice("eq. 10, value not given", "chosen on generated data only, never on test scans"),
    "loss.beta": Choice("eq. 10, value not given", "0.01 to 1; chosen on generated data only"),
    "loss.reduction": Choice("sum over views"),
    "loss.region": Choice(SILENT),
    "loss.focal_gamma": Choice("silent; DeSTSeg 4"),
    "optimizer.kind": Choice("silent; DeSTSeg SGD"),
    "optimizer.student_lr": Choice("silent; DeSTSeg 0.4"),
    "optimizer.head_lr": Choice("silent; DeSTSeg 0.01"),
    "optimizer.head_residual_lr": Choice("silent; DeSTSeg 0.1"),
    "optimizer.attention_lr": Choice(SILENT, "1e-4 to 1e-3"),
    "optimizer.warmup_steps": Choice(SILENT),
    "optimizer.weight_decay": Choice("silent; DeSTSeg 1e-4"),
    "optimizer.clip_norm": Choice(SILENT, "DeSTSeg clips nothing"),
    "train.batch": Choice("8 samples"),
    "train.student_steps": Choice('"1000 steps" in passing; DeSTSeg 1,000'),
    "train.head_steps": Choice("silent; DeSTSeg 4,000"),
    "train.precision": Choice(SILENT),
    "train.compile": Choice(SILENT),
    "train.deterministic": Choice(SILENT),
    "train.checkpoint_every": Choice(OURS),
    "train.keep_checkpoints": Choice(OURS),
    "train.workers": Choice(OURS),
    "train.threads": Choice(OURS),
    "train.tensorboard": Choice(OURS),
    "pseudo.probability": Choice(_DESTSEG + ": 1.0"),
    "pseudo.max_scale": Choice(_DESTSEG + ": 2^0 to 2^5"),
    "pseudo.threshold": Choice(_DESTSEG + ": 0.5"),
    "pseudo.max_opacity": Choice(_DESTSEG + ": 0.8"),
    "pseudo.region": Choice("silent; DeSTSeg the whole image"),
    "pseudo.views": Choice(SILENT, "consistent: a defect that several views see, as real ones"),
    "pseudo.modality": Choice(SILENT),
    "pseudo.bump_mm": Choice(SILENT),
    "pseudo.textures": Choice("DTD (Cimpoi et al. 2014)", "procedural: for machines without DTD, never unasked"),
    "dropout.p": Choice("0.2 a view"),
    "dropout.draw": Choice('"less than twice in 1000 steps" for each combination of four: 0.2^4 x 0.8 x 1000 = 1.28, so once a step'),
    "dropout.supervise": Choice("dropped views leave the intra-view decoupling; whether they are taught is silent"),
    "score.map": Choice('a segmentation head "for the final map"'),
    "score.sample": Choice("maximum over views, in Table 3's ensemble"),
    "score.pool_px": Choice(SILENT, "1"),
    "score.top_k": Choice("silent; DeSTSeg 100"),
    "score.region": Choice("silent; DeSTSeg the whole image"),
    "score.calibrate": Choice(SILENT),
    "patchcore.coreset": Choice("Roth et al. 2022: 1, 10 or 25 %"),
    "patchcore.min_patches": Choice(OURS, "0: the paper's share whatever is left"),
    "patchcore.projection": Choice("Roth et al. 2022: 128"),
    "patchcore.neighbours": Choice("Roth et al. 2022: b nearest; their code 9"),
    "patchcore.sigma": Choice("Roth et al. 2022: 4"),
    "patchcore.max_patches": Choice(OURS),
    "padim.channels": Choice("Defard et al. 2021: 100 of ResNet-18, 550 of WideResNet-50"),
    "padim.regulariser": Choice("Defard et al. 2021: 0.01"),
    "padim.sigma": Choice("Defard et al. 2021: 4"),
    "rd.epochs": Choice("Deng and Li 2022: 200"),
    "rd.lr": Choice("Deng and Li 2022: 0.005"),
    "rd.batch": Choice("Deng and Li 2022: 16"),
    "rd.sigma": Choice("Deng and Li 2022: 4"),
    "simplenet.epochs": Choice("Liu et al. 2023: 160; their code 40 of 4"),
    "simplenet.noise": Choice("Liu et al. 2023: 0.015"),
    "simplenet.margin": Choice("Liu et al. 2023: 0.5"),
    "simplenet.adaptor_lr": Choice("Liu et al. 2023: 1e-4"),
    "simplenet.discriminator_lr": Choice("Liu et al. 2023: 2e-4"),
    "simplenet.batch": Choice("Liu et al. 2023: 4; their code 8"),
    "simplenet.sigma": Choice("Liu et al. 2023: 4"),
    "uniad.epochs": Choice("You et al. 2022: 1,000"),
    "uniad.width": Choice("You et al. 2022: 256"),
    "uniad.layers": Choice("You et al. 2022: 4 and 4"),
    "uniad.heads": Choice("You et al. 2022: 8"),
    "uniad.neighbours": Choice("You et al. 2022: 7 x 7 of 14 x 14"),
    "uniad.jitter": Choice("You et al. 2022: 20"),
    "uniad.jitter_probability": Choice("You et al. 2022: 1"),
    "uniad.lr": Choice("You et al. 2022: 1e-4"),
    "uniad.batch": Choice("You et al. 2022: 64 over 8 GPUs"),
    "reconstruct.steps": Choice("Figure 4 names the competitor, not its network"),
    "reconstruct.lr": Choice("Figure 4 names the competitor, not its network"),
    "reconstruct.width": Choice("Figure 4 names the competitor, not its network"),
}  # fmt: skip

FIXED: dict[str, Choice] = {
    "label.missing": Choice(
        '"same missing cases for fairness" decides nothing',
        "both rules are reported when views are left out: the sample's full label, and the label of the views that are left",
    ),
    "eval.pixels": Choice(SILENT, "all present views at 256 x 256, masks by nearest neighbour"),
    "head.input": Choice(
        "silent; DeSTSeg -t * s of three levels at stride 4, from the corrupted image", "not a key: nothing else is built"
    ),
}
"""Choices that are part of the code, not keys."""


@dataclass(frozen=True)
class Explanation:
    """All that is known of a key."""

    key: str
    default: Any
    why: str
    paper: str
    alternatives: str
    allowed: tuple[str, ...]
    set_by: dict[str, Any]


def explain(key: str) -> Explanation:
    """Explain a key.

    Raises
    ------
    BadInput
        If there is no such key; the nearest ones are named.
    """
    defaults = flatten(ModelConfig())
    if key in FIXED:
        choice = FIXED[key]
        return Explanation(key, "fixed", "", choice.paper, choice.alternatives, (), {})
    if key not in defaults:
        near = difflib.get_close_matches(key, [*defaults, *FIXED], 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "mvad explain lists them all"
        raise BadInput(f"no key {key!r}; {hint}")
    presets = {f"preset {name}": keys[key] for name, keys in PRESETS.items() if key in keys}
    methods = {f"--model {name}": keys[key] for name, keys in METHOD_KEYS.items() if key in keys}
    choice = CHOICES[key]
    why = reasons(model_config, ModelConfig)[key]
    allowed = allowed_values(ModelConfig, key)
    return Explanation(key, defaults[key], why, choice.paper, choice.alternatives, allowed, presets | methods)
