"""Training in a run's folder: compare with the run that the folder holds, train, log, write the model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mvad import __version__, files
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.schema import PICTURES
from mvad.errors import BadInput, MissingComponent
from mvad.model.backbones.choose import choose_teacher
from mvad.model.backbones.protocol import Teacher
from mvad.model.backbones.weights import WeightsSource
from mvad.model.calibration import Calibration, calibrate, remove_folds
from mvad.model.config import CHECKPOINT_KEYS, ModelConfig, TexturedConfig
from mvad.model.detector import Detector
from mvad.model.devices import arithmetic, check_deterministic
from mvad.model.holdout import Parts, parts_of
from mvad.model.idif.config import IdifConfig
from mvad.model.input_spec import input_spec_of, uses_source
from mvad.model.label_free import LabelFree, label_free_figures
from mvad.model.memory import kept_memory
from mvad.model.registry import make_detector, method_named, recorded_config
from mvad.model.runs import CONFIG, METRICS, MODEL, MODEL_FACTS, RunFolder, RunRecord, machine
from mvad.model.synthesis.textures import load_textures, locate_textures
from mvad.model.training.checkpoint import last_checkpoint, newest_step
from mvad.model.training.context import FitContext
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress
from mvad.settings import flatten


@dataclass(frozen=True)
class Prepared:
    """A detector ready for training.

    Attributes
    ----------
    config
        Configuration in which ``auto`` and empty keys are resolved.
    detector, teacher
        The unfitted detector and its teacher.
    notice
        One line that says which teacher is used and why.
    """

    config: ModelConfig
    detector: Detector
    teacher: Teacher
    notice: str


def prepare(
    data: ShardSet, config: ModelConfig, textures_folder: Path, weights: WeightsSource, device: torch.device
) -> Prepared:  # fmt: skip
    """Resolve ``auto`` and empty keys for a training split, and make the detector on a device.

    Raises
    ------
    BadInput, MissingComponent
        If the data do not fit the configuration, or weights or textures are missing.
    """
    if config.train.deterministic:
        check_deterministic(device)
    teacher, notice = choose_teacher(config.teacher, weights, config.seed)
    spec = input_spec_of(data, config)
    config = replace(config, teacher=teacher.name, input=replace(config.input, modalities=spec.modalities))
    if isinstance(config, TexturedConfig):
        located = locate_textures(config.pseudo.textures, textures_folder)
        load_textures(located)  # raises for an unusable folder before anything is written
        config = replace(config, pseudo=replace(config.pseudo, textures=located))
    return Prepared(config, make_detector(config, spec, teacher, device), teacher, notice)


def fit_run(
    run: Path,
    data: ShardSet,
    prepared: Prepared,
    origins: Mapping[str, str],
    progress: Progress,
    ranks: ProcessGroup | None = None,
) -> bool:
    """Train a detector in a run's folder; return False if the run was finished before.

    Where several processes train together, rank 0 checks and writes; methods that do not share batches train on rank 0 only.

    Parameters
    ----------
    run
        The run's folder; created if need be.
    data
        The training split.
    prepared
        See ``prepare``.
    origins
        Where the value of each key came from, recorded with the run.
    progress
        Receives the steps of the training.
    ranks
        The processes that train together; default: this process alone.

    Raises
    ------
    BadInput
        If the folder holds a run of another configuration or other data, the ranks do not divide the batch, or too few samples
        would stay beside those that are held out (``train.holdout``).
    """
    ranks, config, folder = ranks or ProcessGroup(), prepared.config, RunFolder(run)
    if config.train.batch % ranks.size:
        raise BadInput(
            f"train.batch = {config.train.batch} cannot be shared by {ranks.size} processes; choose a multiple (--set train.batch=...)"
        )
    shares_batches = method_named(config.model).shares_batches
    parts = parts_of(data, config.train.holdout)
    record = _record(data, prepared, origins, parts.held_out_keys)
    with contextlib.ExitStack() as stack:
        if ranks.rank == 0:
            stack.enter_context(files.locked(run))
            _check_same(run, record)
            if not folder.is_trained:  # a finished run keeps the record of the machine that trained it
                files.write_sealed_json(run / CONFIG, record.to_json())
                _cut_metrics(run)
        ranks.wait()
        if folder.is_trained:
            return False
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        if ranks.rank == 0 or shares_batches:
            _fit(run, parts, prepared, progress, ranks if shares_batches else ProcessGroup(), ranks.rank == 0)
        ranks.wait()
    return True


def _fit(run: Path, parts: Parts, prepared: Prepared, progress: Progress, group: ProcessGroup, writes: bool) -> None:
    """Fit the detector, find the scale of its scores, and write the model if this process is the one that writes.

    Nothing but the figures on held-out samples sees them, and the scale where the validation split has too few normals.
    """
    config, detector = prepared.config, prepared.detector
    read = parts.fitted.select([*config.input.modalities, *(["source"] if uses_source(config) else [])])
    held_out = None if parts.held_out is None else parts.held_out.select(config.input.modalities)

    def fresh() -> Detector:
        return make_detector(config, detector.spec, prepared.teacher, detector.device)

    train, one_shape = config.train, _has_one_shape(config, read)
    computing = arithmetic(train.precision, train.deterministic, one_shape)
    with _logs(run, config, group) as log, computing, kept_memory(detector.device):
        detector.fit(read, FitContext(run, progress, log, group, held_out))
        calibration = calibrate(detector, fresh, method_named(config.model), read, run, progress, group, held_out)
        detector.scale = calibration.scale
        if calibration.scale is not None and not _uses_scale(detector, read):
            progress.say(f"{config.model} does not pass scale=self.scale to finish_maps, so its raw scores are compared")
            detector.scale, calibration = None, Calibration()
        if writes:
            figures = label_free_figures(detector, parts, f"figures without labels of {run.name}", progress)
            _write_model(run, detector, calibration, figures)
            remove_folds(run)
            step = newest_step(run)
            if figures is not None and step:  # methods that train in steps
                log({"step": step, **figures.to_log()})


def _uses_scale(detector: Detector, data: ShardSet) -> bool:
    """Return whether the scale of a detector changes the scores of a sample."""
    batch, scale = data.batch([0]), detector.scale
    standardised = detector.score(batch).view_scores
    detector.scale = None
    raw = detector.score(batch).view_scores
    detector.scale = scale
    return not torch.equal(standardised, raw)


def _write_model(run: Path, detector: Detector, calibration: Calibration, figures: LabelFree | None) -> None:
    state = detector.state() | (calibration.scale.state() if calibration.scale else {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    content = safetensors.torch.save(tensors)
    files.write_bytes(run / MODEL, content)
    facts = {"sha256": files.sha256_bytes(content), "mvad_version": __version__, **calibration.to_json()}
    if figures is not None:
        facts["label_free"] = figures.to_json()
    files.write_sealed_json(run / MODEL_FACTS, facts)


@contextlib.contextmanager
def _logs(run: Path, config: ModelConfig, ranks: ProcessGroup) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that logs a step's figures to metrics.jsonl and, if configured, to TensorBoard; rank 0 only."""
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


def _has_one_shape(config: ModelConfig, data: ShardSet) -> bool:
    """Return whether all steps compute on as many images: every sample has all its views, and none is dropped.

    With ``dropout.p`` above 0 the number of images takes some twenty values, for each of which cuDNN would search again.
    """
    return bool(data.present.all()) and not (isinstance(config, IdifConfig) and config.dropout.p > 0)


def _record(data: ShardSet, prepared: Prepared, origins: Mapping[str, str], held_out: Sequence[str]) -> RunRecord:
    teacher = prepared.teacher
    return RunRecord(
        data.dataset, data.category, flatten(prepared.config), origins, teacher.name, teacher.sha256, data.sha256,
        prepared.detector.spec.to_json(), machine(prepared.detector.device), held_out,
        data.config.get(PICTURES),
    )  # fmt: skip


def _check_same(run: Path, record: RunRecord) -> None:
    if not (run / CONFIG).exists():
        return
    existing = RunFolder(run).record
    recorded = flatten(recorded_config(existing.config))
    for name, value in json.loads(json.dumps(record.config)).items():
        if recorded.get(name) != value and name not in CHECKPOINT_KEYS:
            raise BadInput(
                f"{run} was made with {name} = {recorded.get(name)}, this run asks for {value}. "
                "Give --name another, or delete the folder."
            )
    same_teacher = (existing.teacher, existing.teacher_sha256) == (record.teacher, record.teacher_sha256)
    if existing.shards != record.shards or not same_teacher:
        raise BadInput(f"{run} was made from other shards or another teacher. Give --name another, or delete the folder.")


def _cut_metrics(run: Path) -> None:
    """Remove log lines that will be written again: of steps after the last checkpoint, and of the finished model."""
    saved = last_checkpoint(run)
    step = saved.step if saved else 0
    kept = [line for line in files.read_lines(run / METRICS) if line["step"] <= step and "loss" in line]
    files.write_lines(run / METRICS, kept)
