"""A run's folder: what was asked for, what it was made from, and the fitted detector."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from mvad import __version__, files
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput, MissingComponent
from mvad.model.backbones.choose import choose_teacher, teacher_by_hash
from mvad.model.backbones.protocol import Teacher
from mvad.model.backbones.weights import WeightsSource
from mvad.model.config import ModelConfig
from mvad.model.detector import Detector, FitContext, InputSpec, as_json
from mvad.model.input_spec import input_spec_of
from mvad.model.registry import TRAINED_TOGETHER, USES_TEXTURES, make_detector
from mvad.model.synthesis.textures import load_textures, locate_textures
from mvad.model.training.checkpoint import last_checkpoint
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress
from mvad.settings import flatten, resolve

CONFIG = "config.json"
MODEL = "model.safetensors"
MODEL_FACTS = "model.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"


def run_name(dataset: str, category: str, model: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{dataset}-{category}-{model}-seed{seed}"


def prepare(
    data: ShardSet, config: ModelConfig, textures_folder: Path, weights: WeightsSource
) -> tuple[ModelConfig, Detector, Teacher, str]:
    """Resolve what ``auto`` and empty keys mean for these data, and make the detector.

    Returns
    -------
    tuple
        The configuration with every key decided, the unfitted detector, its teacher, and one line on the teacher.

    Raises
    ------
    BadInput, MissingComponent
        If the data do not fit the configuration, or weights or textures are missing.
    """
    teacher, notice = choose_teacher(config.teacher, weights, config.seed)
    spec = input_spec_of(data, config)
    config = replace(config, teacher=teacher.name, input=replace(config.input, modalities=spec.modalities))
    if config.model in USES_TEXTURES:
        located = locate_textures(config.pseudo.textures, textures_folder)
        load_textures(located)  # an unusable folder is found here, before anything is written
        config = replace(config, pseudo=replace(config.pseudo, textures=located))
    return config, make_detector(config, spec, teacher), teacher, notice


def fit_run(
    run: Path,
    data: ShardSet,
    config: ModelConfig,
    origins: Mapping[str, str],
    detector: Detector,
    teacher: Teacher,
    progress: Progress,
    ranks: ProcessGroup | None = None,
) -> bool:
    """Train a detector into a run's folder; returns False if it was trained already.

    Where several ranks train together, the first one checks and writes, and methods that learn in one pass are its alone.

    Raises
    ------
    BadInput
        If the folder holds a run of another configuration or other data, or the ranks cannot share the batch.
    """
    ranks = ranks or ProcessGroup()
    if config.train.batch % ranks.size:
        raise BadInput(
            f"train.batch = {config.train.batch} cannot be shared by {ranks.size} processes; choose a multiple (--set train.batch=...)"
        )
    wanted = _facts(data, config, origins, input_spec_of(data, config), teacher)
    with contextlib.ExitStack() as held:
        if ranks.rank == 0:
            held.enter_context(files.locked(run))
            _check_same(run, wanted)
            files.write_sealed_json(run / CONFIG, wanted)
            if not is_trained(run):
                _cut_metrics(run)
        ranks.wait()
        if is_trained(run):
            return False
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        fields = [*config.input.modalities, *(["source"] if config.pseudo.views == "consistent" else [])]
        if ranks.rank == 0 or config.model in TRAINED_TOGETHER:
            with _logs(run, config, ranks) as log, _determinism(config.train.deterministic):
                detector.fit(data.select(fields), FitContext(run, progress, log, ranks))
        if ranks.rank == 0:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(detector.state().items())}
            content = safetensors.torch.save(tensors)
            files.write_bytes(run / MODEL, content)
            files.write_sealed_json(run / MODEL_FACTS, {"sha256": files.sha256_bytes(content), "mvad_version": __version__})
        ranks.wait()
    return True


@contextlib.contextmanager
def _logs(run: Path, config: ModelConfig, ranks: ProcessGroup) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Give what writes a step's figures: to metrics.jsonl, and to TensorBoard where that is wanted; rank 0 only."""
    if ranks.rank:
        yield lambda figures: None
        return
    board = _tensorboard(run) if config.train.tensorboard else None

    def log(figures: Mapping[str, float]) -> None:
        files.append_line(run / METRICS, dict(figures))
        if board is not None:
            for name in figures.keys() - {"step", "phase"}:
                board.add_scalar(name, figures[name], int(figures["step"]))

    try:
        yield log
    finally:
        if board is not None:
            board.close()


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingComponent(
            "train.tensorboard needs TensorBoard; pip install tensorboard (the extra mvad[tensorboard])"
        ) from error
    return SummaryWriter(str(run / "tensorboard"))


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Only deterministic algorithms while this lasts (train.deterministic); what has none warns."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


def is_trained(run: Path) -> bool:
    """Tell whether a run reached its end."""
    return (run / MODEL_FACTS).exists()


def read_facts(run: Path) -> dict[str, Any]:
    """Read a run's ``config.json``.

    Raises
    ------
    BadInput
        If the folder is no run.
    """
    facts = files.read_sealed_json(run / CONFIG, 'a run; "mvad train" makes one', "delete the folder and train again")
    if "config" not in facts:
        raise BadInput(f"{run / CONFIG}: not a run's configuration")
    return facts


def load_run(run: Path, weights: WeightsSource) -> tuple[Detector, ModelConfig, dict[str, Any]]:
    """Load a trained detector with its configuration and facts.

    Raises
    ------
    BadInput
        If the run is not finished, was changed, or its teacher is another one here.
    """
    facts = read_facts(run)
    if not is_trained(run):
        raise BadInput(f"{run}: training is not finished; run the same mvad train again")
    content = (run / MODEL).read_bytes() if (run / MODEL).exists() else b""
    if files.sha256_bytes(content) != _model_facts(run)["sha256"]:
        raise BadInput(
            f"{run / MODEL}: damaged (SHA-256 differs); delete {run / MODEL_FACTS} and train again from the last checkpoint"
        )
    config, _ = resolve(ModelConfig, [("run", facts["config"])])
    teacher = teacher_by_hash(facts["teacher"]["name"], facts["teacher"]["sha256"], weights)
    recorded = facts["spec"]
    depth_range = tuple(recorded["depth_range"]) if recorded["depth_range"] else None
    angles = torch.tensor(recorded["angles"])
    spec = InputSpec(recorded["views"], tuple(recorded["modalities"]), angles, depth_range, recorded["scan_width"])
    detector = make_detector(config, spec, teacher)
    try:
        detector.load_state(safetensors.torch.load(content))
    except (KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise BadInput(f"{run / MODEL}: does not fit the run's configuration; train again") from error
    return detector, config, facts


def model_sha256(run: Path) -> str:
    """Return the hash of a finished run's model.

    Raises
    ------
    BadInput
        If the run is not finished.
    """
    return str(_model_facts(run)["sha256"])


def _model_facts(run: Path) -> dict[str, Any]:
    remedy = f"delete {run / MODEL_FACTS} and run the same mvad train again"
    return files.read_sealed_json(run / MODEL_FACTS, "a finished run", remedy)


def find_runs(runs: Path) -> list[Path]:
    """Return the finished runs below a folder, sorted by name."""
    return sorted(path.parent for path in runs.glob(f"*/{CONFIG}") if is_trained(path.parent))


def machine() -> dict[str, Any]:
    """Return what a figure depends on besides the code: versions and the kind of machine, no names or paths."""
    return {
        "mvad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def _facts(data: ShardSet, config: ModelConfig, origins: Mapping[str, str], spec: InputSpec, teacher: Teacher) -> dict[str, Any]:
    return {
        "dataset": data.dataset,
        "category": data.category,
        "config": flatten(config),
        "origins": dict(origins),
        "spec": as_json(spec),
        "teacher": {"name": teacher.name, "sha256": teacher.sha256},
        "shards": data.sha256,
        "machine": machine(),
    }


def _check_same(run: Path, wanted: Mapping[str, Any]) -> None:
    if not (run / CONFIG).exists():
        return
    found = read_facts(run)
    for key, value in json.loads(json.dumps(wanted["config"])).items():
        if found["config"].get(key) != value:
            raise BadInput(
                f"{run} was made with {key} = {found['config'].get(key)}, this run asks for {value}. "
                "Give --name another, or delete the folder."
            )
    if found["shards"] != wanted["shards"] or found["teacher"] != wanted["teacher"]:
        raise BadInput(f"{run} was made from other shards or another teacher. Give --name another, or delete the folder.")


def _cut_metrics(run: Path) -> None:
    """Drop log lines of steps that will be done again, so that the log has each step once."""
    saved = last_checkpoint(run)
    step = saved.step if saved else 0
    kept = [line for line in files.read_lines(run / METRICS) if line["step"] <= step]
    files.write_lines(run / METRICS, kept)


def input_name(config: Mapping[str, Any]) -> str:
    """Return how a recorded configuration's input is written in tables: ``rgb+depth 128``."""
    return f"{'+'.join(config['input.modalities'])} {config['input.size']}"


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a short name of a configuration: the vector of choices."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
