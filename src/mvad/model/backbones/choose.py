"""Teachers by name, and the meaning of ``auto``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from mvad.errors import BadInput, MissingComponent
from mvad.model.backbones.efficientnet_lite import PACKAGES, EfficientNetLite0
from mvad.model.backbones.protocol import Backbone, Teacher, frozen
from mvad.model.backbones.resnet18 import ResNet18
from mvad.model.backbones.tiny import TinyBackbone
from mvad.model.backbones.weights import (
    LITE0_SHA256,
    RESNET18_FILE,
    RESNET18_SHA256,
    WeightsSource,
    find_lite0,
    find_resnet18,
    load_pinned,
)
from mvad.model.devices import seeded
from mvad.words import no_such

TEACHERS = ("auto", "resnet18", "efficientnet_lite0", "random", "tiny")


def choose_teacher(name: str, source: WeightsSource, seed: int) -> tuple[Teacher, str]:
    """Return a teacher, and one line that says which teacher is used and why.

    Parameters
    ----------
    name
        One of ``TEACHERS``.
    source
        Where weights may be found.
    seed
        Seed of the untrained teachers ``random`` and ``tiny``.

    Raises
    ------
    BadInput
        If the name is unknown or a weights file is not the pinned one.
    MissingComponent
        If the weights are not available; the message says how to provide them.
    """
    if name not in TEACHERS:
        raise no_such("--teacher", name, TEACHERS)
    if name == "random":
        return _untrained(name, seed, ResNet18), "teacher random: an untrained ResNet-18, for tests of the code only"
    if name == "tiny":
        return _untrained(name, seed, TinyBackbone), "teacher tiny: untrained, 8, 16 and 32 channels, for tests of the code only"
    if name == "auto" and source.file is None:
        if find_resnet18(source, may_download=True) is None and find_lite0() is not None:
            return _lite0(), (
                "teacher efficientnet_lite0: ImageNet weights from its package; the paper's resnet18 was neither found nor "
                f"downloaded (--teacher-weights, MVAD_TEACHER_WEIGHTS, or {RESNET18_FILE} in the workspace's weights folder)"
            )
        name = "resnet18"
    if name == "efficientnet_lite0":
        return _lite0(), "teacher efficientnet_lite0: ImageNet weights from its package"
    path = find_resnet18(source, may_download=True)
    if path is None:
        raise MissingComponent(
            f"teacher resnet18: no weights. Put {RESNET18_FILE} into {source.folder}, or name it with --teacher-weights "
            f"or MVAD_TEACHER_WEIGHTS, or take --teacher efficientnet_lite0 ({PACKAGES})"
        )
    return _resnet18(path), f"teacher resnet18: ImageNet weights {path}"


def teacher_by_hash(name: str, sha256: str, source: WeightsSource) -> Teacher:
    """Return the teacher that a run was trained with.

    Raises
    ------
    BadInput
        If the weights on this machine have another hash.
    MissingComponent
        If the weights are not on this machine.
    """
    seed = int(sha256.removeprefix("seed-")) if sha256.startswith("seed-") else 0
    teacher, _ = choose_teacher(name, source, seed)
    if teacher.sha256 != sha256:
        raise BadInput(f"the run was trained with {name} {sha256[:16]}, here is {teacher.sha256[:16]}; use the same weights")
    return teacher


def _untrained(name: str, seed: int, architecture: Callable[[bool], Backbone]) -> Teacher:
    def fresh(deep: bool) -> Backbone:
        with seeded(int.from_bytes(hashlib.sha256(f"teacher {seed}".encode()).digest()[:6], "little")):
            return architecture(deep)

    return frozen(name, f"seed-{seed}", fresh)


def _resnet18(path: Path) -> Teacher:
    state = load_pinned(path, RESNET18_SHA256)

    def fresh(deep: bool) -> Backbone:
        backbone = ResNet18(deep)
        backbone.load_torchvision(state)
        return backbone

    return frozen("resnet18", RESNET18_SHA256, fresh)


def _lite0() -> Teacher:
    path = find_lite0()
    if path is None:
        raise MissingComponent(f"teacher efficientnet_lite0 is not installed; {PACKAGES}")
    state = load_pinned(path, LITE0_SHA256)

    def fresh(deep: bool) -> Backbone:
        backbone = EfficientNetLite0(deep)
        backbone.load_imagenet(state)
        return backbone

    return frozen("efficientnet_lite0", LITE0_SHA256, fresh)
