"""Checkpoints: tensors in safetensors files, facts and the files' SHA-256 in a JSON file that is written last.

``step-N.safetensors`` holds what the phase changes, ``frozen-N.safetensors`` what it does not change, which is written once a
phase (N: the steps before the phase) and which ``step-N.json`` refers to by name and SHA-256. Without a frozen part, and in
checkpoints of before, everything is in the one file.
"""

from __future__ import annotations

import re
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
from mvad.model.training.tensor_file import TensorFile

FOLDER = "checkpoints"

_OURS = re.compile(r"(step|frozen)-\d+\.(json|safetensors)(\.part-\d+)?")
_KIND = "a checkpoint's facts"


@dataclass(frozen=True)
class Frozen:
    """File with the tensors that a phase does not change.

    Attributes
    ----------
    file, sha256
        Its name in the folder of checkpoints, and its hash.
    names
        Names of its tensors.
    """

    file: str
    sha256: str
    names: frozenset[str]


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after ``step`` steps over all phases; ``frozen`` says which of the tensors are in a file of their own."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    frozen: Frozen | None = None


def frozen_name(begin: int) -> str:
    """Return the name of the file with what is frozen in the phase before which there were ``begin`` steps."""
    return f"frozen-{begin}.safetensors"


def write_frozen(run: Path, name: str, tensors: TensorFile) -> str:
    """Write a file with frozen tensors; return its SHA-256."""
    content = tensors.content()
    files.write_bytes(run / FOLDER / name, content)
    return files.sha256_bytes(content)


def write_checkpoint(
    run: Path, step: int, tensors: TensorFile, frozen: Frozen | None, facts: Mapping[str, Any], keep: int
) -> None:  # fmt: skip
    """Write a checkpoint, then remove all but the last ``keep``, and the frozen parts that none of those refers to.

    Parameters
    ----------
    run, step
        The run's folder, and the number of finished steps.
    tensors
        What is not in the frozen part.
    frozen
        The frozen part, which is on the disk already; None: there is none.
    facts
        More facts to record.
    keep
        Number of checkpoints that are kept.

    Raises
    ------
    BadInput
        If the file system refuses.
    """
    folder, content = run / FOLDER, tensors.content()
    files.write_bytes(folder / f"step-{step}.safetensors", content)
    recorded = {**facts, "step": step, "sha256": files.sha256_bytes(content)}
    if frozen is not None:
        recorded["frozen"] = {"file": frozen.file, "sha256": frozen.sha256}
    # Written last: a checkpoint counts only with its JSON file.
    files.write_sealed_json(folder / f"step-{step}.json", recorded)
    _remove_all_but(folder, _steps(folder)[-keep:])


def newest_step(run: Path) -> int:
    """Return the step of a run's newest checkpoint, which is not read; 0 where there is none."""
    return max(_steps(run / FOLDER), default=0)


def last_checkpoint(run: Path) -> Checkpoint | None:
    """Return a run's newest checkpoint, or None where there is none.

    Raises
    ------
    BadInput
        If its files are damaged or cannot be read.
    """
    folder = run / FOLDER
    steps = _steps(folder)
    if not steps:
        return None
    stem = folder / f"step-{steps[-1]}"
    remedy = f"delete {stem.name}.* to go back to the checkpoint before"
    facts = files.read_sealed_json(stem.with_suffix(".json"), _KIND, remedy)
    tensors = _read(stem.with_suffix(".safetensors"), facts.get("sha256"), remedy)
    path = frozen_file(folder, facts)
    if path is None:
        return Checkpoint(steps[-1], tensors, facts)
    sha256 = str(facts["frozen"]["sha256"])
    unchanged = _read(path, sha256, _remedy_of_frozen(path))
    return Checkpoint(steps[-1], {**unchanged, **tensors}, facts, Frozen(path.name, sha256, frozenset(unchanged)))


def frozen_file(folder: Path, facts: Mapping[str, Any]) -> Path | None:
    """Return the file with the frozen part that a checkpoint's facts refer to, or None.

    Raises
    ------
    BadInput
        If the name leads out of the folder.
    """
    return files.below(folder, facts["frozen"]["file"]) if "frozen" in facts else None


def remove_damaged(path: Path) -> None:
    """Remove a damaged file of checkpoints with what is of no use without it: its checkpoint, or all that refer to it.

    Raises
    ------
    BadInput
        If the file system refuses.
    """
    stems = [*(f"step-{step}" for step in _referring(path)), path.stem]
    for name in (f"{stem}{ending}" for stem in stems for ending in (".json", ".safetensors")):
        if (path.parent / name).exists():
            files.remove(path.parent / name)


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
    """Restore an optimizer's state from what ``pack_optimizer`` returned.

    What has the shape of its parameter gets the parameter's memory layout, too, as it had before: optimizers take all
    parameters in one kernel only where these layouts agree.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + "."):
            number, key = name.removeprefix(prefix + ".").split(".", 1)
            state.setdefault(int(number), {})[key] = _laid_out_as(parameters[int(number)], tensor)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a value with the strides of its parameter, if it has the parameter's shape."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)


def _read(path: Path, sha256: object, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a file whose hash is known."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if files.sha256_bytes(content) != sha256:
        raise BadInput(f"{path}: damaged (SHA-256 differs); {remedy}")
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: no safetensors file ({error}); {remedy}") from error


def _remedy_of_frozen(path: Path) -> str:
    """Return what to do where a frozen part is damaged: checkpoints that refer to it are of no use without it."""
    lost = _referring(path)
    names = ", ".join(f"step-{step}.*" for step in lost)
    left = len(lost) < len(_steps(path.parent))
    return f"delete {names}, which need it, " + ("to go back to the checkpoint before" if left else "to begin again")


def _referring(path: Path) -> list[int]:
    """Return the steps of the checkpoints that refer to a frozen part; those whose facts are damaged are left out."""
    found = []
    for step in _steps(path.parent):
        try:
            facts = files.read_sealed_json(path.parent / f"step-{step}.json", _KIND, "")
            found += [step] if frozen_file(path.parent, facts) == path else []
        except BadInput:
            continue
    return found


def _remove_all_but(folder: Path, steps: list[int]) -> None:
    """Remove all files of other checkpoints, and what interrupted writers left; JSON files first, which need the others."""
    needed = {f"step-{step}.{ending}" for step in steps for ending in ("json", "safetensors")}
    removable = [path for path in folder.iterdir() if _OURS.fullmatch(path.name) and path.name not in needed]
    if any(path.name.startswith("frozen-") for path in removable):
        try:
            found = [frozen_file(folder, files.read_sealed_json(folder / f"step-{step}.json", _KIND, "")) for step in steps]
            removable = [path for path in removable if path not in found]
        except BadInput:  # a kept checkpoint is damaged, so that what it refers to is not known
            removable = [path for path in removable if not path.name.startswith("frozen-")]
    for path in sorted(removable, key=lambda path: (path.suffix != ".json", path.name)):
        files.remove(path)


def _steps(folder: Path) -> list[int]:
    names = (path.stem.removeprefix("step-") for path in folder.glob("step-*.json"))
    return sorted(int(name) for name in names if name.isdigit())
