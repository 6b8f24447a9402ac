"""Rules for the verification of runs: which files they hold, and how each is checked."""

from __future__ import annotations

from pathlib import Path

from mvad import files
from mvad.datasets.verify import Check, FilePattern, FileRules, Kind, check_log, check_sealed, named
from mvad.model.calibration import FOLDER as FOLDS
from mvad.model.evaluation.missing_views import MISSING_VIEWS
from mvad.model.evaluation.results import Results
from mvad.model.evaluation.threshold import THRESHOLD
from mvad.model.runs import CONFIG, METRICS, MODEL_FACTS
from mvad.model.training.checkpoint import FOLDER as CHECKPOINTS
from mvad.model.training.checkpoint import frozen_file

RUNS = "runs"
"""Name of the folder that holds runs."""


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run: it lies in ``runs``, or it has a configuration and what training writes."""
    return folder.parent.name == RUNS or (
        (folder / CONFIG).exists() and any((folder / name).exists() for name in (MODEL_FACTS, METRICS, CHECKPOINTS))
    )


def _in_run(path: Path) -> bool:
    return _is_run(path.parent)


def _results(check: Check, path: Path) -> None:
    results = Results.read(path)
    check.seen.add(path)
    for sample in results.samples:
        check.compare(files.inside(path.parent, sample.picture), sample.picture_sha256, "evaluate again")
        check.compare(files.inside(path.parent, sample.map), sample.map_sha256, "evaluate again")
    for scan in results.scan.samples if results.scan else ():
        for name, sha256 in ((scan.map, scan.map_sha256), (scan.cloud, scan.cloud_sha256)):
            check.compare(files.inside(path.parent, name), sha256, "evaluate --project-to-scan again")


def _tensors(check: Check, path: Path) -> None:
    facts = files.read_sealed_json(path, "facts of a model", "train again from the checkpoint before")
    check.seen.add(path)
    check.compare(path.with_suffix(".safetensors"), facts.get("sha256"), "train again from the checkpoint before")
    frozen = frozen_file(path.parent, facts)
    if frozen is not None:
        check.compare(frozen, facts["frozen"]["sha256"], "train again from a checkpoint that does not need it")


def _onnx(check: Check, path: Path) -> None:
    facts = files.read_sealed_json(path, "facts of an exported detector", "export again")
    check.seen.add(path)
    check.compare(path.with_suffix(""), facts.get("onnx_sha256"), "export again")


def _repair_of(path: Path) -> tuple[Kind, Path] | None:
    return next((("run", folder) for folder in path.parents if _is_run(folder)), None)


RUN_RULES = FileRules(
    (
        FilePattern(named(METRICS, "missing-views.jsonl", "predictions.jsonl", "scored.jsonl"), check_log),
        FilePattern(
            lambda path: path.name == MODEL_FACTS or (path.parent.name == CHECKPOINTS and path.match("step-*.json")), _tensors
        ),
        FilePattern(lambda path: path.match("results*.json") and _in_run(path), _results),
        FilePattern(named(MISSING_VIEWS, THRESHOLD), check_sealed),
        FilePattern(lambda path: path.match(f"{FOLDS}/fold-*.json"), check_sealed),
        FilePattern(lambda path: path.match("reports/reproduce-*.json"), check_sealed),
        FilePattern(lambda path: path.name.endswith(".onnx.json"), _onnx),
        FilePattern(lambda path: path.name == CONFIG and _in_run(path), check_sealed),
    ),
    _repair_of,
)
"""Rules for the files of runs and for the reports made of them."""
