"""Checks of ``mvad doctor``. Libraries that can crash a process are tested in a child process."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvad.errors import MvadError
from mvad.pipeline.workspace import Workspace

_NEEDED_GB = 20
_EGL = "import json; from mvad.render.backends.egl_report import egl_report; print(json.dumps(egl_report()))"
_TRIMESH = "import trimesh; print(trimesh.__version__)"
_OPEN3D = "import open3d; print(open3d.__version__)"
_LIBRARIES = "apt-get install libegl1 libgl1 libgles2 libgl1-mesa-dri libgomp1 libx11-6 libusb-1.0-0"


@dataclass(frozen=True)
class Check:
    """Result of a check: ``ok``, ``note`` (optional component is missing) or ``missing`` (required), and one line of text."""

    name: str
    state: Literal["ok", "note", "missing"]
    text: str


def all_checks(workspace: Workspace, teacher_weights: Path | None, offline: bool) -> list[Check]:
    """Run all checks."""
    return [
        Check("python", "ok", platform.python_version()),
        *_torch(),
        _child(
            "open3d", _OPEN3D, "note", f"does not import, so that support planes cannot be found (mvad render); try: {_LIBRARIES}"
        ),
        _child("trimesh", _TRIMESH, "note", "does not import, so that meshes cannot be read; try: pip install trimesh"),
        _egl(),
        _disk(workspace.root),
        *_data(workspace),
        *_teachers(workspace, teacher_weights, offline),
        _textures(workspace),
    ]


def _torch() -> list[Check]:
    from mvad.model.devices import describe_devices

    return [Check(name, "ok", text) for name, text in describe_devices()]


def _child(name: str, code: str, otherwise: Literal["note", "missing"], remedy: str) -> Check:
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Check(name, otherwise, f"hangs; {remedy}")
    if done.returncode == 0:
        return Check(name, "ok", done.stdout.strip().splitlines()[-1])
    reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:160]
    return Check(name, otherwise, f"{remedy} ({reason})")


def _egl() -> Check:
    """Whether ``mvad render --backend egl`` draws; without it ``cpu`` renders, so that nothing needed is missing."""
    check = _child("egl", _EGL, "note", f"no picture, --backend cpu works; for egl: {_LIBRARIES}")
    if check.state != "ok":
        return check  # it crashed or hangs
    state, text = json.loads(check.text)
    return Check("egl", state, text)


def _disk(root: Path) -> Check:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    text = f"{free:.0f} GB free at {existing}"
    return Check(
        "disk", "ok" if free > _NEEDED_GB else "note", text if free > _NEEDED_GB else f"{text}; a full dataset needs {_NEEDED_GB}"
    )


def _data(workspace: Workspace) -> list[Check]:
    from mvad.datasets import realiad
    from mvad.datasets.own.options import READER
    from mvad.datasets.photographs.sets.registry import chosen_categories, photograph_sets
    from mvad.datasets.registry import SCAN_READERS, find_categories

    checks = []
    for name, reader in SCAN_READERS.items():
        if name == READER and not workspace.raw(name).is_dir():
            continue  # own scans, which nobody must have
        try:
            checks.append(
                Check(name, "ok", f"{len(find_categories(reader, workspace.raw(name)))} categories in {workspace.raw(name)}")
            )
        except MvadError:
            checks.append(
                Check(name, "note", f"not in {workspace.raw(name)}; put the download there, give --raw, or mvad synth {name}")
            )
    try:
        raw = workspace.raw("realiad")
        splits = realiad.find_splits(raw) or realiad.JSON_FOLDERS[0]
        checks.append(Check("realiad", "ok", f"{len(realiad.categories(raw, splits))} categories in {raw}"))
    except MvadError:
        checks.append(
            Check(
                "realiad", "note", f"not in {workspace.raw('realiad')}; put realiad_jsons and images there, or mvad synth realiad"
            )
        )
    for name in photograph_sets():
        if workspace.raw(name).is_dir():
            try:
                checks.append(
                    Check(name, "ok", f"{len(chosen_categories(name, workspace.raw(name)))} categories in {workspace.raw(name)}")
                )
            except MvadError as error:
                checks.append(Check(name, "note", str(error)))
    return checks


def _teachers(workspace: Workspace, teacher_weights: Path | None, offline: bool) -> list[Check]:
    from mvad.model.backbones import weights
    from mvad.model.backbones.efficientnet_lite import PACKAGES

    source = weights.WeightsSource(teacher_weights, workspace.weights, offline)
    files = {
        "resnet18": (weights.find_resnet18(source, may_download=False), weights.RESNET18_SHA256),
        "efficientnet_lite0": (weights.find_lite0(), weights.LITE0_SHA256),
    }
    missing = {
        "resnet18": f"no weights; put {weights.RESNET18_FILE} into {workspace.weights}, or name it with --teacher-weights",
        "efficientnet_lite0": PACKAGES,
    }
    some = any(path is not None for path, _ in files.values())
    checks = []
    for name, (path, sha256) in files.items():
        if path is None:
            checks.append(Check(f"teacher {name}", "note" if some or name == "resnet18" else "missing", missing[name]))
            continue
        try:
            weights.check_pinned(path, sha256)
        except MvadError as error:
            checks.append(Check(f"teacher {name}", "missing", str(error)))  # a training would take it, and stop there
        else:
            checks.append(
                Check(f"teacher {name}", "ok", "its package is installed" if name == "efficientnet_lite0" else str(path))
            )
    return checks


def _textures(workspace: Workspace) -> Check:
    from mvad.model.synthesis.textures import load_textures, locate_textures

    try:
        return Check("textures", "ok", load_textures(locate_textures("", workspace.textures)).name)
    except MvadError as error:
        return Check("textures", "note", str(error))
