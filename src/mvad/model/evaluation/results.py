"""Results of an evaluation as typed records; ``results.json`` holds ``Results.to_json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvad import files
from mvad.errors import BadInput
from mvad.model.evaluation.rules import RuleFigure, rule_in_words
from mvad.model.evaluation.sample_result import SampleResult as SampleResult
from mvad.model.metrics.intervals import UNDEFINED, Interval
from mvad.model.metrics.table import ERROR_BOUNDS, metrics

RESULTS = "results.json"
SCAN_PROTOCOL = "scan"
NOT_OURS = "not ours"
"""Name of the teacher in the results of imported maps."""

_KIND, _REMEDY = 'results; "mvad evaluate" writes them', "evaluate again"


def defined(value: float) -> float | None:
    """Return a figure for JSON: None instead of NaN."""
    return None if math.isnan(value) else value


def bounds_of(area: Interval) -> tuple[float, float] | None:
    """Return an interval's bounds for JSON: None where the figure is not defined."""
    return None if math.isnan(area.value) else (area.low, area.high)


@dataclass(frozen=True)
class Figures:
    """Figures of merit in 0..1 by the name of their metric; None where a class is missing.

    Attributes
    ----------
    values
        Figures by name.
    intervals
        95 % bounds of those that have an interval.
    by_defect, by_defect_intervals
        S-AUROC of each kind of defect against all good samples, and its 95 % bounds.
    samples, anomalous
        Number of evaluated samples, and of anomalous samples among them.
    regions
        Number of connected regions of ground truth.
    pixel_threshold
        See ``PixelFigures``.
    error_bounds
        Largest errors of pixel figures due to binning, by ``metrics.table.ERROR_BOUNDS``.
    """

    values: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    by_defect: Mapping[str, float | None] = field(default_factory=dict)
    by_defect_intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    samples: int = 0
    anomalous: int = 0
    regions: int = 0
    pixel_threshold: float | None = None
    error_bounds: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float | None:
        """Return a figure by its metric's name; None where it is not defined or was not computed.

        Raises
        ------
        KeyError
            If there is no such metric.
        """
        if name not in self.values and all(metric.name != name for metric in metrics()):
            raise KeyError(f"no metric {name!r}; there are {', '.join(metric.name for metric in metrics())}")
        return self.values.get(name)

    def interval(self, name: str) -> Interval:
        """Return a figure with its bounds, or an undefined interval."""
        value, bounds = self.values.get(name), self.intervals.get(name)
        return UNDEFINED if value is None or bounds is None else Interval(value, *bounds)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the figures are at the top level, by metric."""
        return {
            **self.values,
            "intervals": {**bounds_to_lists(self.intervals), "s_auroc_by_defect": bounds_to_lists(self.by_defect_intervals)},
            "s_auroc_by_defect": dict(self.by_defect),
            "samples": self.samples,
            "anomalous": self.anomalous,
            "regions": self.regions,
            "pixel_threshold": self.pixel_threshold,
            **self.error_bounds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Figures:
        """Restore an object from what ``to_json`` returned."""
        rest = dict(value)
        intervals = dict(rest.pop("intervals"))
        by_defect_intervals = bounds_from_lists(intervals.pop("s_auroc_by_defect", {}))
        by_defect = rest.pop("s_auroc_by_defect", {})
        counts: dict[str, Any] = {name: int(rest.pop(name, 0)) for name in ("samples", "anomalous", "regions")}
        bounds = {name: error for name in ERROR_BOUNDS if (error := rest.pop(name, None)) is not None}
        counts |= {"pixel_threshold": rest.pop("pixel_threshold", None), "error_bounds": bounds}
        return cls(rest, bounds_from_lists(intervals), by_defect, by_defect_intervals, **counts)


def bounds_to_lists(bounds: Mapping[str, tuple[float, float] | None]) -> dict[str, list[float] | None]:
    """Return bounds by name as plain values."""
    return {name: None if pair is None else list(pair) for name, pair in bounds.items()}


def bounds_from_lists(lists: Mapping[str, Sequence[float] | None]) -> dict[str, tuple[float, float] | None]:
    """Restore bounds from what ``bounds_to_lists`` returned."""
    return {name: None if pair is None else (float(pair[0]), float(pair[1])) for name, pair in lists.items()}


@dataclass(frozen=True)
class ScanFile:
    """Names of the fused map and the point cloud of one scan in the run's folder, with their SHA-256."""

    key: str
    map: str
    map_sha256: str
    cloud: str
    cloud_sha256: str


@dataclass(frozen=True)
class ScanResults:
    """Evaluation of maps on the grid of the raw scans.

    Attributes
    ----------
    rule
        Rule by which the views of the written maps were fused.
    figures
        Figures by rule.
    samples
        The files that were written.
    version
        Version of mvad that evaluated; empty in files of before.
    """

    rule: str
    figures: Mapping[str, Figures]
    samples: Sequence[ScanFile]
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rule": self.rule,
            "figures": {rule: figures.to_json() for rule, figures in self.figures.items()},
            "samples": [dict(sample.__dict__) for sample in self.samples],
            **({"version": self.version} if self.version else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ScanResults:
        """Restore an object from what ``to_json`` returned."""
        figures = {rule: Figures.from_json(plain) for rule, plain in value["figures"].items()}
        return cls(value["rule"], figures, [ScanFile(**sample) for sample in value["samples"]], value.get("version", ""))


@dataclass(frozen=True)
class Results:
    """Content of ``results.json``.

    Attributes
    ----------
    run, dataset, category, model, seed
        The run that was evaluated.
    config
        Configuration of the run: values by dotted key.
    teacher, teacher_sha256, backbone
        Name and hash of the teacher, and the run's backbone label in tables (``backbone_label``).
    figures, curves
        Figures of merit, and curves over falling thresholds (``curves_of``).
    samples, test_shards, train_shards
        Results of each sample, and the SHA-256 of each file of the shards.
    training_samples, model_sha256
        Number of training samples, and the hash of the model; None for imported maps.
    views, samples_without_these_views, scan
        Views that were used (empty: all); number of samples that have none of these views; evaluation on the raw scans' grid.
    protocol
        ``scan`` for imported maps on the scans' grid, otherwise empty.
    seconds, machine
        Times in seconds (``network``: of scoring; ``all``: of everything), with ``samples_per_call``, the number of samples that
        were scored together; and the machine (``runs.machine``).
    rules
        S-AUROC and its 95 % bounds under each rule from views to sample (``score.sample``), computed from the scores of the
        views; empty in files of earlier versions, and for imported maps.
    scale
        How the scores were standardised: ``normals`` says by which, in words; ``weights`` of the modalities. Empty: not at all.
    view_names
        Names of the views, in order, for your own photographs; empty for other data.
    unmarked_views
        Number of views with a defect that no mask marks; their pixels do not count in pixel figures (your own photographs only).
    variant
        What distinguishes the run from similar runs in tables (``variants.named_apart``); not stored.
    """

    run: str
    dataset: str
    category: str
    model: str
    seed: int
    config: Mapping[str, Any]
    teacher: str
    teacher_sha256: str
    backbone: str
    figures: Figures
    curves: Mapping[str, Any]
    samples: Sequence[SampleResult]
    test_shards: Mapping[str, str]
    train_shards: Mapping[str, str]
    training_samples: int | None
    model_sha256: str | None = None
    views: tuple[int, ...] = ()
    samples_without_these_views: int = 0
    scan: ScanResults | None = None
    protocol: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, RuleFigure] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    view_names: tuple[str, ...] = ()
    unmarked_views: int = 0
    variant: str = ""

    @property
    def is_imported(self) -> bool:
        """Whether another tool made the maps."""
        return self.teacher == NOT_OURS

    @property
    def input_name(self) -> str:
        """Name of the input in tables, such as ``rgb+depth 128``."""
        return f"{'+'.join(self.config['input.modalities'])} {self.config['input.size']}"

    @property
    def rule(self) -> str:
        """Rule by which scores of views and modalities became the scores of samples, see ``rule_in_words``."""
        return "their own" if self.is_imported else rule_in_words(self.config, bool(self.scale))

    @property
    def standardised_by(self) -> str:
        """What the scores are standardised by, and the weights of the modalities, in words."""
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in self.scale.get("weights", {}).items())
        return str(self.scale.get("normals", "nothing")) + (f"; {weights}" if weights else "")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        plain = ("run", "dataset", "category", "model", "seed", "backbone", "curves", "training_samples")
        optional: dict[str, Any] = {}
        if self.model_sha256 is not None:
            optional["model_sha256"] = self.model_sha256
        if self.views:
            optional |= {"views": list(self.views), "samples_without_these_views": self.samples_without_these_views}
        if self.scan is not None:
            optional["scan"] = self.scan.to_json()
        if self.rules:
            optional["rules"] = {name: figure.to_json() for name, figure in self.rules.items()}
        if self.scale:
            optional["scale"] = dict(self.scale)
        if self.view_names:
            optional |= {"view_names": list(self.view_names), "unmarked_views": self.unmarked_views}
        if self.protocol:
            optional["protocol"] = self.protocol
        return {
            **{name: getattr(self, name) for name in plain},
            **{name: dict(getattr(self, name)) for name in ("config", "test_shards", "train_shards", "seconds", "machine")},
            "teacher": {"name": self.teacher, "sha256": self.teacher_sha256},
            "figures": self.figures.to_json(),
            **optional,
            "samples": [sample.to_json() for sample in self.samples],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Results:
        """Restore an object from what ``to_json`` returned."""
        rest = dict(value)
        teacher, scan = rest.pop("teacher"), rest.pop("scan", None)
        return cls(
            **{
                **rest,
                "teacher": teacher["name"],
                "teacher_sha256": teacher["sha256"],
                "figures": Figures.from_json(rest["figures"]),
                "samples": [SampleResult(**sample) for sample in rest["samples"]],
                "views": tuple(rest.get("views", ())),
                "view_names": tuple(rest.get("view_names", ())),
                "scan": None if scan is None else ScanResults.from_json(scan),
                "rules": {name: RuleFigure.from_json(figure) for name, figure in rest.get("rules", {}).items()},
            }
        )

    def write(self, path: Path) -> None:
        """Write ``results.json``."""
        files.write_sealed_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read ``results.json``.

        Raises
        ------
        BadInput
            If the file is missing, damaged, or has another form.
        """
        value = files.read_sealed_json(path, _KIND, _REMEDY)
        try:
            return cls.from_json(value)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise BadInput(f"{path}: does not have the form of results ({type(error).__name__}: {error}); {_REMEDY}") from error
