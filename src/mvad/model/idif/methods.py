"""Declarations of IDIF, the paper's ablations of it (Table 3) and DeSTSeg: the same network with other keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvad.model.idif.config import IdifConfig
from mvad.model.method import Method

_NARROW: dict[str, Any] = {
    "encoder.channels": 128, "encoder.freeze_early": True, "bottleneck.channels": 16, "voxel.channels": 32, "voxel.size": 8,
    "voxel.patch": 1, "voxel.width": 128, "fusion.heads": 4, "decoder.widths": (96, 64, 32), "head.width": 48, "head.kind": "light",
    "optimizer.kind": "adamw", "optimizer.student_lr": 2e-3, "optimizer.head_lr": 2e-3, "optimizer.clip_norm": 1.0,
}  # fmt: skip

_SMALL = _NARROW | {
    "bottleneck.channels": 8,
    "voxel.patch": 2,
    "fusion.blocks": 2,
    "head.share": "view",
    "head.by_position": True,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "destseg": {
        "encoder.level": 32, "encoder.share": "view", "encoder.init": "scratch", "encoder.channels": 0, "bottleneck.kind": "none",
        "fusion.kind": "none", "decoder.project": False, "head.share": "view", "head.window": "image",
        "loss.reduction": "destseg", "loss.region": "image", "optimizer.clip_norm": 1e9, "dropout.p": 0.0,
    },
    "small": _SMALL,
    "best": _SMALL | {"companion.kind": "padim"},
    "demo": _NARROW | {"decoder.widths": (64, 48, 32), "head.width": 32, "fusion.blocks": 2},
}  # fmt: skip
"""Values that the presets give to IDIF's own keys."""

_PAPER = "Mao et al., AAAI-25"
_DETECTOR = "mvad.model.companion:idif"
_SHARED: dict[str, Any] = {
    "paper_backbone": "ResNet-18", "config": IdifConfig, "detector": _DETECTOR, "presets": PRESETS, "shares_batches": True,
}  # fmt: skip

_ALONE = {"companion.kind": "none"}

METHODS = (
    Method(
        name="idif", title="IDIF", summary="intra-view decoupling and inter-view fusion", paper=_PAPER, paper_name="IDIF", **_SHARED,
    ),
    Method(
        name="ivc", title="IDIF without bottleneck", summary="implicit voxel construction alone", paper=f"{_PAPER}, Table 3",
        keys={"bottleneck.kind": "none", **_ALONE}, **_SHARED,
    ),
    Method(
        name="conv3d", title="3-D convolutions", summary="views fused by 3-D convolutions", paper=f"{_PAPER}, Table 3",
        keys={"bottleneck.kind": "none", "fusion.kind": "conv3d", **_ALONE}, **_SHARED,
    ),
    Method(
        name="destseg", title="DeSTSeg", summary="one DeSTSeg per view", paper="Zhang et al., CVPR 2023", paper_name="DeSTSeg",
        keys={
            "bottleneck.kind": "none", "fusion.kind": "none", "encoder.share": "view", "head.share": "view", "dropout.p": 0.0,
            **_ALONE,
        },
        **_SHARED,
    ),
)  # fmt: skip
