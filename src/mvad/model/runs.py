"""Folder of a run: its configuration, the data it was trained on, and the trained detector."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from mvad import __version__, files
from mvad.errors import BadInput
from mvad.model.backbones.choose import teacher_by_hash
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import Detector
from mvad.model.evaluation.results import RESULTS, Results
from mvad.model.input_spec import InputSpec
from mvad.model.label_free import LabelFree
from mvad.model.registry import make_detector, recorded_config
from mvad.model.score_scale import PREFIX, ScoreScale
from mvad.words import folder_name

CONFIG = "config.json"
MODEL = "model.safetensors"
MODEL_FACTS = "model.json"
METRICS = "metrics.jsonl"


def run_name(dataset: str, category: str, model: str, seed: int) -> str:
    """Return the name of a run's folder, which is one name whatever the others hold."""
    return folder_name(f"{dataset}-{category}-{model}-seed{seed}")


@dataclass(frozen=True)
class RunRecord:
    """Content of a run's ``config.json``.

    Attributes
    ----------
    dataset, category
        Data that the run was trained on.
    config, origins
        Values by dotted key, and where each value came from.
    teacher, teacher_sha256
        The teacher's name and the hash of its weights.
    shards
        SHA-256 of each file of the training split.
    spec
        The detector's input spec as plain values; None for imported maps.
    machine
        Versions of the software and kind of device, see ``machine``.
    held_out
        Keys of the training samples that are not trained on (``train.holdout``), sorted.
    pictures
        How photographs of a folder become views, as the shards record it; None for other data.
    """

    dataset: str
    category: str
    config: Mapping[str, Any]
    origins: Mapping[str, str]
    teacher: str
    teacher_sha256: str
    shards: Mapping[str, str]
    spec: Mapping[str, Any] | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    held_out: Sequence[str] = ()
    pictures: Mapping[str, Any] | None = None

    @property
    def model(self) -> str:
        """The method's name."""
        return str(self.config["model"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        same = {name: dict(getattr(self, name)) for name in ("config", "origins", "shards", "machine")}
        spec = {} if self.spec is None else {"spec": dict(self.spec)}
        teacher = {"name": self.teacher, "sha256": self.teacher_sha256}
        held_out = {"held_out": list(self.held_out)} if self.held_out else {}
        pictures = {} if self.pictures is None else {"pictures": dict(self.pictures)}
        return {"dataset": self.dataset, "category": self.category, "teacher": teacher, **same, **spec, **held_out, **pictures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """Restore a record from what ``to_json`` returned; in version 0.1 ``spec`` was named ``setting``."""
        return cls(
            value["dataset"], value["category"], value["config"], value["origins"], value["teacher"]["name"],
            value["teacher"]["sha256"], value["shards"], value.get("spec", value.get("setting")), value["machine"], tuple(value.get("held_out", ())),
            value.get("pictures"),
        )  # fmt: skip


class RunFolder:
    """Folder of a run, made by ``mvad train`` or ``mvad import``; its record is read once.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def record(self) -> RunRecord:
        """Content of ``config.json``.

        Raises
        ------
        BadInput
            If the folder is no run.
        """
        remedy = "delete the folder and train again"
        value = files.read_sealed_json(self.path / CONFIG, 'a run; "mvad train" makes one', remedy)
        try:
            return RunRecord.from_json(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.path / CONFIG}: not a run's configuration; {remedy}") from error

    @property
    def is_trained(self) -> bool:
        """Whether training is finished."""
        return (self.path / MODEL_FACTS).exists()

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the trained model.

        Raises
        ------
        BadInput
            If the run is not finished.
        """
        return str(self._model_facts["sha256"])

    @property
    def scale_facts(self) -> dict[str, Any]:
        """What the scale of the scores was estimated from: ``normals`` in words, ``shards``, ``weights``; empty without a scale.

        Raises
        ------
        BadInput
            If the run is not finished.
        """
        return dict(self._model_facts.get("scale", {}))

    @property
    def label_free(self) -> LabelFree | None:
        """Figures on the training samples that were held out; None where none were.

        Raises
        ------
        BadInput
            If the run is not finished.
        """
        figures = self._model_facts.get("label_free")
        return None if figures is None else LabelFree.from_json(figures)

    @property
    def _model_facts(self) -> dict[str, Any]:
        remedy = f"delete {self.path / MODEL_FACTS} and run the same mvad train again"
        return files.read_sealed_json(self.path / MODEL_FACTS, "a finished run", remedy)

    def category_folder(self, shards: Path) -> Path:
        """Return the folder of the run's category in the workspace's shards."""
        return shards / self.record.dataset / self.record.category

    def results(self) -> Results | None:
        """Return the results of its evaluation, or None where it was not evaluated.

        Raises
        ------
        BadInput
            If the file is damaged.
        """
        return Results.read(self.path / RESULTS) if (self.path / RESULTS).exists() else None

    def load(self, weights: WeightsSource, device: torch.device) -> Detector:
        """Return the trained detector on a device.

        Raises
        ------
        BadInput
            If the run is not finished, its model was changed, or the teacher's weights on this machine are others.
        MissingComponent
            If the teacher's weights are not on this machine.
        """
        record = self.record
        if record.spec is None:
            raise BadInput(f"{self.path}: holds imported maps, not a trained detector; give a run that mvad train made")
        if not self.is_trained:
            raise BadInput(f"{self.path}: training is not finished; run the same mvad train again")
        model = self.path / MODEL
        content = model.read_bytes() if model.exists() else b""
        if files.sha256_bytes(content) != self.model_sha256:
            raise BadInput(
                f"{model}: damaged (SHA-256 differs); delete {self.path / MODEL_FACTS} and train again from the last checkpoint"
            )
        config = recorded_config(record.config)
        teacher = teacher_by_hash(record.teacher, record.teacher_sha256, weights)
        detector = make_detector(config, InputSpec.from_json(record.spec), teacher, device)
        try:
            state = safetensors.torch.load(content)
            detector.scale = ScoreScale.from_state(state)
            detector.load_state({name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)})
        except (KeyError, RuntimeError, safetensors.SafetensorError) as error:
            raise BadInput(
                f"{model}: does not fit the networks of this version of mvad, or the run's configuration; train again"
            ) from error
        return detector


def find_runs(runs: Path) -> list[Path]:
    """Return the folders of finished runs in a folder, sorted by name."""
    return sorted(path.parent for path in runs.glob(f"*/{CONFIG}") if RunFolder(path.parent).is_trained)


def machine(device: torch.device = torch.device("cpu")) -> dict[str, Any]:  # immutable
    """Return what a result depends on besides code and data: versions and the kind of device, no host names or paths."""
    return {
        "mvad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a short hash that identifies a configuration, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
