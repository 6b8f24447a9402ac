"""Checkpoints: tensors in a safetensors file, facts and the tensors' SHA-256 in a JSON file that is written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mvad import files
from mvad.errors import BadInput

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after ``step`` steps over all phases."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint, then remove all but the last ``keep``."""
    folder = run / FOLDER
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    content = safetensors.torch.save(contiguous)
    files.write_bytes(folder / f"step-{step}.safetensors", content)
    # Written last: a checkpoint counts only with its JSON file.
    files.write_sealed_json(folder / f"step-{step}.json", {**facts, "step": step, "sha256": files.sha256_bytes(content)})
    for old in _steps(folder)[:-keep]:
        files.remove(folder / f"step-{old}.json")
        files.remove(folder / f"step-{old}.safetensors")


def last_checkpoint(run: Path) -> Checkpoint | None:
    """Return a run's newest checkpoint, or None where there is none.

    Raises
    ------
    BadInput
        If its files are damaged or cannot be read.
    """
    steps = _steps(run / FOLDER)
    if not steps:
        return None
    stem = run / FOLDER / f"step-{steps[-1]}"
    remedy = f"delete {stem.name}.* to go back to the checkpoint before"
    facts = files.read_sealed_json(stem.with_suffix(".json"), "a checkpoint's facts", remedy)
    path = stem.with_suffix(".safetensors")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); delete {stem.name}.json to go back a checkpoint") from error
    if files.sha256_bytes(content) != facts.get("sha256"):
        raise BadInput(f"{path}: damaged (SHA-256 differs); delete {stem.name}.* to go back to the checkpoint before")
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: no safetensors file ({error}); delete it to go back a checkpoint") from error
    return Checkpoint(steps[-1], tensors, facts)


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors named ``prefix.parameter.name``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unpack_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore an optimizer's state from what ``pack_optimizer`` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + "."):
            number, key = name.removeprefix(prefix + ".").split(".", 1)
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _steps(folder: Path) -> list[int]:
    names = (path.stem.removeprefix("step-") for path in folder.glob("step-*.json"))
    return sorted(int(name) for name in names if name.isdigit())
