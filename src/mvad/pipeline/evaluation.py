"""Evaluation of a workspace's runs on views, on the raw scans and with missing views, and of imported maps on the raw scans."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mvad import __version__
from mvad.datasets.registry import find_reader
from mvad.datasets.shards.reader import read_manifest
from mvad.datasets.shards.schema import MANIFEST
from mvad.errors import BadInput
from mvad.files import sha256_file
from mvad.model.backbones.weights import WeightsSource
from mvad.model.evaluation.evaluate import EvaluationCallback, evaluate_run, shown_at_pixels
from mvad.model.evaluation.missing_views import MissingViews, evaluate_missing_views, read_missing_views
from mvad.model.evaluation.results import RESULTS, Results
from mvad.model.evaluation.scan_maps import RULES, Rule, ScanEvaluator
from mvad.model.evaluation.threshold import threshold_is_kept
from mvad.model.exchange.adeval import ANOMAPS, SAMPLE_PATTERN, AdevalWriter
from mvad.model.exchange.imported_maps import evaluate_scan_maps
from mvad.model.registry import PLUGINS, methods
from mvad.model.runs import RunFolder, find_runs
from mvad.pipeline.raw_scans import raw_scans
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress
from mvad.words import folder_name, no_such


@dataclass(frozen=True)
class EvaluationPlan:
    """Options for the evaluation of runs.

    Attributes
    ----------
    workspace, weights, device
        Workspace of the shards, location of the teacher's weights, device of the detectors.
    views
        Views that are used; empty: all.
    project_to_scan, fuse, raw
        Whether maps are projected to the raw scans; rules of fusion there (maps are written for the first; empty: mean);
        folder of the raw categories (None: the workspace's).
    adeval
        Folder for maps and masks for ADEval; None: they are not written.
    out
        Folder in which a folder per run gets the results; None: the runs' own folders.
    """

    workspace: Workspace
    weights: WeightsSource
    device: torch.device
    views: Sequence[int] = ()
    project_to_scan: bool = False
    fuse: Sequence[str] = field(default_factory=tuple)
    raw: Path | None = None
    adeval: Path | None = None
    out: Path | None = None

    def chosen(
        self, runs: Sequence[Path] | None, progress: Progress, dataset: str | None = None, categories: Sequence[str] | None = None
    ) -> list[Path]:
        """Return the given runs, or all finished runs of the workspace whose method is known here, of a dataset and categories.

        Raises
        ------
        BadInput
            If there is no run, or a rule of fusion has an unknown name.
        """
        fusion_rules(self.fuse)
        if runs:
            return list(runs)
        folders, known = [], methods()
        for run in find_runs(self.workspace.runs):
            try:
                record = RunFolder(run).record
                if (dataset and record.dataset != dataset) or (categories and record.category not in categories):
                    continue
                lack = self._lack(RunFolder(run), known)
            except BadInput as error:
                lack = str(error)
            if lack:
                progress.say(f"{run.name}: left out, {lack}")
            else:
                folders.append(run)
        if not folders:
            of = "".join(f" on {name}" for name in ("/".join(filter(None, (dataset, ", ".join(categories or ())))),) if name)
            raise BadInput(f"{self.workspace.runs}: no finished run{of}; run mvad train first, or give --workspace")
        return folders

    def _lack(self, run: RunFolder, known: Container[str]) -> str:
        """Return why a run cannot be evaluated among others, or ""."""
        if run.record.config.get("model") not in known:
            return f"its method is not known here ({PLUGINS}=MODULE names what registers it)"
        if self.project_to_scan and (run.record.pictures is not None or find_reader(run.record.dataset) is None):
            return f"{run.record.dataset} has photographs, no scans"
        packed = run.category_folder(self.workspace.shards)
        if (packed / MANIFEST).exists() and not any(entry["split"] == "test" for entry in read_manifest(packed)["shards"]):
            return "its category has no test split"
        return ""

    def category_of(self, run: Path) -> str:
        """Return the folder of a run's packed category; the run where that is not known."""
        try:
            return str(RunFolder(run).category_folder(self.workspace.shards))
        except BadInput:
            return str(run)

    def earlier(self, run: Path) -> Results | None:
        """Return the results of a run that was evaluated as this plan does, by this version, or None; see ``evaluated_before``.

        Every file that they name is compared with its hash; raw scans of a named folder (``raw``) may be others, so their maps are made again.
        """
        if self.views or self.adeval or (self.project_to_scan and self.raw):
            return None
        folder, place = RunFolder(run), self._place(run)
        packed = folder.category_folder(self.workspace.shards)
        found = evaluated_before(folder, packed, place)
        if found is None or found.machine.get("mvad") != __version__ or not threshold_is_kept(folder, packed, place):
            return None
        written = [pair for s in found.samples for pair in ((s.picture, s.picture_sha256), (s.map, s.map_sha256))]
        if self.project_to_scan:
            rules = fusion_rules(self.fuse)
            if found.scan is None or found.scan.rule != rules[0] or not set(rules) <= set(found.scan.figures):
                return None
            if found.scan.version != __version__:
                return None
            written += [
                pair for s in found.scan.samples for pair in ((s.map, s.map_sha256), (s.cloud, s.cloud_sha256)) if pair[0]
            ]
        return found if all(_is_intact(place / name, sha256) for name, sha256 in written) else None

    def evaluate(self, run: Path, progress: Progress) -> Results:
        """Evaluate one run; see ``evaluate_run``."""
        callbacks, place = self._callbacks(run, progress), self._place(run)
        return evaluate_run(run, self.workspace.shards, self.weights, progress, self.views, callbacks, self.device, place)

    def earlier_missing_views(self, run: Path, results: Results) -> MissingViews | None:
        """Return what an earlier evaluation of every subset of a run's views found for the same model and shards, or None."""
        return missing_views_before(RunFolder(run), results) if self.out is None else None

    def missing_views(self, run: Path, progress: Progress) -> MissingViews:
        """Evaluate one run for every subset of its views."""
        return evaluate_missing_views(run, self.workspace.shards, self.weights, progress, self.device, self._place(run))

    def _place(self, run: Path) -> Path:
        """Return the folder that the results of a run are written to."""
        return run if self.out is None else self.out / run.resolve().name

    def _callbacks(self, run: Path, progress: Progress) -> list[EvaluationCallback]:
        callbacks: list[EvaluationCallback] = []
        if self.project_to_scan:
            record = RunFolder(run).record
            if find_reader(record.dataset) is None:
                raise BadInput(f"{run}: {record.dataset} has photographs, no scans; leave out --project-to-scan")
            raw = self.raw or self.workspace.raw(record.dataset)
            rules = fusion_rules(self.fuse)
            callbacks.append(
                ScanEvaluator(self._place(run), raw_scans(record.dataset, raw, record.category, self.workspace.renders), rules)
            )
        if self.adeval:
            target = self.adeval / run.name
            pictures = RunFolder(run).record.pictures
            size = " --evaluate_size 256" if pictures is None else ""  # photographs are written without what pads them to squares
            progress.say(f'ADEval: python -m adeval {target / ANOMAPS}{size} --nstrips 20000 --sample_key_pat "{SAMPLE_PATTERN}"')
            callbacks.append(AdevalWriter(target, shown_at_pixels(pictures), None if pictures is None else progress.say))
        return callbacks


def evaluated_before(run: RunFolder, packed: Path, place: Path | None = None) -> Results | None:
    """Return a run's results if they are of its model and of all samples of today's test split, and have intervals, else None.

    Parameters
    ----------
    run, packed
        The run, and the folder of its packed category.
    place
        Folder of the results; None: the run's.
    """
    path = (place or run.path) / RESULTS
    if not path.exists() or not (packed / MANIFEST).exists():
        return None
    test = [entry for entry in read_manifest(packed)["shards"] if entry["split"] == "test"]
    try:
        found = Results.read(path)
    except BadInput:  # damaged, or of a version whose form is unknown: it is written again
        return None
    if not found.figures.intervals or found.model_sha256 != run.model_sha256 or found.views:
        return None
    same = found.test_shards == {entry["file"]: entry["sha256"] for entry in test}
    return found if same and len(found.samples) == sum(entry["samples"] for entry in test) else None


def missing_views_before(run: RunFolder, results: Results) -> MissingViews | None:
    """Return what was found for every subset of a run's views on the shards of some results, or None; a damaged file is made again."""
    try:
        return read_missing_views(run, results.test_shards)
    except BadInput:
        return None


def _is_intact(path: Path, sha256: str) -> bool:
    """Return whether a file can be read and is what was written; results of earlier versions name no hash."""
    try:
        return path.is_file() and (not sha256 or sha256_file(path) == sha256)
    except OSError:
        return False


def fusion_rules(names: Sequence[str]) -> list[Rule]:
    """Return the rules of fusion by name, in the given order; the rule ``mean`` where no name is given.

    Raises
    ------
    BadInput
        If a name is not that of a rule.
    """
    unknown = set(names) - set(RULES)
    if unknown:
        raise no_such("--fuse", min(unknown), RULES)
    return [rule for name in dict.fromkeys(names) for rule in RULES if rule == name] or list(RULES[:1])


def evaluate_maps_of(
    maps: Path, dataset: str, categories: Sequence[str] | None, method: str, workspace: Workspace, raw: Path | None,
    progress: Progress, out: Path | None = None,
) -> Iterator[Results]:  # fmt: skip
    """Evaluate another tool's maps on the grid of the raw scans, category by category; see ``evaluate_scan_maps``.

    The runs are made in the folder ``out``; None: in the workspace's runs.

    Raises
    ------
    BadInput
        If a map is missing or unusable, or no category is found.
    """
    for name in categories or _categories_of(maps):
        scans = raw_scans(dataset, raw or workspace.raw(dataset), name, workspace.renders)
        run = (out or workspace.runs) / folder_name(f"{dataset}-{name}-{method}-maps")
        yield evaluate_scan_maps(run, method, maps, scans, progress)


def _categories_of(maps: Path) -> list[str]:
    names = sorted(path.parent.name for path in maps.glob("*/test"))
    if not names:
        raise BadInput(f"{maps}: holds no <category>/test folder of maps; give --category, see docs/exchange.md")
    return names
