"""Evaluation of anomaly maps that another tool made, on an export or on the raw scans (``docs/exchange.md``)."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mvad import files
from mvad.datasets.exported import read_export, read_table
from mvad.datasets.masks import same_proportions
from mvad.datasets.scan import GOOD, ScanSource
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.config import ScoreConfig
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import MAPS, TrainedOn, evaluate_split, write_pictures
from mvad.model.evaluation.figures import curves_of, figures_of
from mvad.model.evaluation.pictures import grey_levels, rows_of, square
from mvad.model.evaluation.results import NOT_OURS, RESULTS, SCAN_PROTOCOL, Results, SampleResult
from mvad.model.exchange.adeval import refuse_pickle
from mvad.model.metrics.pixels import PixelScores
from mvad.model.registry import backbone_label
from mvad.model.runs import CONFIG, RunRecord, machine
from mvad.model.scoring import image_scores
from mvad.progress import Progress

SCORES = "scores.csv"
SUFFIXES = (".npy", ".tiff", ".tif", ".png")
_MAX_SIDE = 8192


def evaluate_imported_maps(run: Path, name: str, export: Path, maps: Path, shards: Path, progress: Progress) -> Results:
    """Evaluate another tool's maps of a test split; write ``config.json``, ``results.json`` and pictures to a run's folder.

    Parameters
    ----------
    run
        Folder of the run; files are written there.
    name
        Name of the method in tables.
    export
        Folder of the exported category (``target/<dataset>/<category>``).
    maps
        Folder of maps in the layout of the export: ``<view>/<image_path>`` with another suffix, (H, W) numbers, higher is more
        anomalous. ``<view>/scores.csv`` (``image_path,score``) may hold view scores; the default is the mean of the highest
        pixels.
    shards
        Folder of the workspace's shards, which hold masks and labels.
    progress
        Receives one step per sample.

    Raises
    ------
    BadInput
        If a map is missing or unusable, or the export was made from other shards than these.
    """
    refuse_pickle(maps)
    facts = read_export(export)
    data = ShardSet(shards / facts["dataset"] / facts["category"], "test")
    if not data.sha256.items() <= facts["made_from"].items():
        raise BadInput(f"{export}: was not made from the shards in {data.folder}; export them again")
    pictures = _paths(export, facts["views"])
    reader = _Maps(maps, pictures, _scores(maps, facts["views"], pictures), data.views)
    record = _record_of(data.dataset, data.category, name, [facts["modality"]], data.size)
    with files.locked(run):
        _claim(run, record)
        return evaluate_split(run, data, reader.answer, record, TrainedOn(), progress)


def _record_of(dataset: str, category: str, name: str, modalities: list[str], size: int) -> RunRecord:
    config = {"input.modalities": modalities, "input.size": size, "model": name, "seed": 0}
    return RunRecord(dataset, category, config, {}, NOT_OURS, "", {}, None, machine())


def evaluate_scan_maps(run: Path, name: str, maps: Path, scans: ScanSource, progress: Progress) -> Results:
    """Evaluate another tool's maps on the grid of the raw scans by the datasets' protocol; see ``evaluate_imported_maps``.

    Parameters
    ----------
    run, name, progress
        As for ``evaluate_imported_maps``.
    maps
        Folder of ``<category>/test/<defect>/<id>.tiff`` (or without the category; or .npy, .png), MVTec 3D-AD's layout of
        submissions. (H, W) numbers, higher is more anomalous; resized to the scan's grid. ``scores.csv`` (``key,score``) may
        hold a score per scan; the default is the map's highest value.
    scans
        The category's raw scans, which hold labels and ground truth.

    Raises
    ------
    BadInput
        If a map is missing or unusable, or has other proportions than its scan.
    """
    refuse_pickle(maps)
    refs = scans.of_split("test")
    if not refs:
        raise BadInput(f"{scans.dataset}/{scans.category}: has no test split to evaluate maps on")
    root = maps if (maps / scans.category).is_dir() else maps.parent if maps.name == scans.category else None
    score_by_key = _scan_scores(maps / SCORES, scans.category, [ref.key for ref in refs])
    record = _record_of(scans.dataset, scans.category, name, ["scan"], 0)
    with files.locked(run):
        _claim(run, record)
        progress.start(f"evaluate {run.name}", len(refs))
        pixels, samples = PixelScores(), []
        for ref in refs:
            scan, label = scans.load(ref.key), ref.defect != GOOD
            stored_map = read_map(*((root, ref.key) if root else (maps, _inner(ref.key, scans.category))), named=False)
            values = _resized(stored_map, scan.valid.shape, f"{root or maps}: the map of {ref.key}")
            truth = np.zeros(values.shape, bool) if scan.gt is None else scan.gt
            pixels.add(ref.key, [values], [truth])
            score = float(values.max()) if score_by_key is None else score_by_key[ref.key]
            samples.append(keep_pictures(run, ref.key, ref.defect, label, score, scan.rgb, truth, values))
            progress.advance()
        results = Results(
            run=run.name, dataset=scans.dataset, category=scans.category, model=name, seed=0, config=record.config,
            teacher=NOT_OURS, teacher_sha256="", backbone=backbone_label(name, NOT_OURS), figures=figures_of(samples, pixels),
            curves=curves_of(samples, pixels), samples=samples, test_shards={}, train_shards={}, training_samples=None,
            protocol=SCAN_PROTOCOL, machine=machine(),
        )  # fmt: skip
        results.write(run / RESULTS)
    return results


def keep_pictures(
    run: Path, key: str, defect: str, label: bool, score: float, rgb: NDArray[np.uint8], truth: NDArray[np.bool_],
    values: NDArray[np.float32],
) -> SampleResult:  # fmt: skip
    """Write the pictures of an evaluated scan (colour, ground truth, map), and return its results."""
    shown = square(rgb), square(np.repeat(truth[..., None], 3, axis=2)), square(values[..., None])[..., 0]
    levels, low, high = grey_levels(shown[2][None])
    picture = bytes(imagecodecs.jpeg_encode(rows_of([shown[0][None]], shown[1][None, ..., 0] > 0, levels), level=88))
    drawn = bytes(imagecodecs.png_encode(levels, level=6))
    written = write_pictures(run, MAPS, key, picture, drawn)
    return SampleResult(
        key=key,
        defect=defect,
        label=label,
        score=score,
        view_labels=[label],
        view_scores=[score],
        map_range=[low, high],
        **written,
    )


def _resized(values: NDArray[np.float32], shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """Return a map in the size of its scan.

    Raises
    ------
    BadInput
        If it has other proportions, as that of a scan which a tool padded to a square: it would be stretched.
    """
    if values.shape == shape:
        return values
    if not same_proportions(values.shape, shape):
        h, w = values.shape
        raise BadInput(
            f"{what} has {w} x {h} pixels, the scan {shape[1]} x {shape[0]}; cut off the margin that was added to the scan"
        )
    large = functional.interpolate(torch.from_numpy(values)[None, None], size=shape, mode="bilinear", align_corners=False)
    return np.asarray(large[0, 0].numpy())


def _claim(run: Path, record: RunRecord) -> None:
    """Write a run's ``config.json``, unless the folder holds another run."""
    about = record.to_json()
    before = files.read_sealed_json(run / CONFIG, "a run", "give --name another") if (run / CONFIG).exists() else about
    if _identity(before) != _identity(about):
        raise BadInput(f"{run}: holds another run; give --name another, or delete the folder")
    files.write_sealed_json(run / CONFIG, about)


def _identity(about: Mapping[str, Any]) -> Any:
    """Return what makes a run the same run: everything but the machine."""
    return json.loads(json.dumps({name: value for name, value in about.items() if name != "machine"}))


def _paths(export: Path, views: list[str]) -> dict[tuple[str, str], str]:
    """Return the path of the exported picture of the test split by (key, view)."""
    return {(row["key"], view): row["image_path"] for view in views for row in read_table(export, view) if row["split"] == "test"}


def _scores(maps: Path, views: list[str], pictures: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], float]:
    """Return the scores in the other tool's tables by (view, picture); {} where there is no table.

    Raises
    ------
    BadInput
        If some views have a table and others none: scores and means of pixels are not on one scale.
    """
    found: dict[tuple[str, str], float] = {}
    tables = {view: files.below(maps, view) / SCORES for view in views}
    without = [view for view, path in tables.items() if not path.exists()]
    if without and len(without) < len(views):
        raise BadInput(
            f"{tables[without[0]]}: is missing, and other views have one; give a table of scores for every view, or for none"
        )
    for view in views:
        known = {picture: picture for (_, named), picture in pictures.items() if named == view}
        table = _table(tables[view], "image_path", known)
        found |= {(view, picture): score for picture, score in (table or {}).items()}
    return found


def _scan_scores(path: Path, category: str, keys: Sequence[str]) -> dict[str, float] | None:
    """Return the scores of scans by key, which a table may give without the category; None where there is no table."""
    known = {key: key for key in keys}
    return _table(path, "key", {**{_inner(key, category): key for key in keys}, **known})


def _inner(key: str, category: str) -> str:
    return key.removeprefix(f"{category}/")


def _table(path: Path, column: str, known: Mapping[str, str]) -> dict[str, float] | None:
    """Return the scores of a CSV file; None where there is no file.

    Parameters
    ----------
    path
        A file in UTF-8, with or without a byte order mark.
    column
        The column of the names.
    known
        What each name that may stand there means. All that is meant must be there exactly once.

    Raises
    ------
    BadInput
        If the file has other columns, a score is not a finite number, or a name is unknown, there twice, or missing.
    """
    if not path.exists():
        return None
    try:
        rows = [(row[column], float(row["score"])) for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise BadInput(f"{path}: expected the columns {column} and score, a number ({error})") from error
    scores: dict[str, float] = {}
    for name, score in rows:
        meant = known.get(name)
        if meant is None:
            raise BadInput(f"{path}: {name!r} is not of this test split; expected names such as {min(known, default='')!r}")
        if meant in scores:
            raise BadInput(f"{path}: {name!r} stands there twice; give every one a single score")
        if not math.isfinite(score):
            raise BadInput(f"{path}: the score of {name!r} is not finite; give every one a number")
        scores[meant] = score
    missing = set(known.values()) - scores.keys()
    if missing:
        raise BadInput(f"{path}: {len(missing)} have no score, such as {min(missing)!r}; give every one a score, or no table")
    return scores


@dataclass(frozen=True)
class _Maps:
    """Reader of the other tool's maps and scores."""

    folder: Path
    pictures: dict[tuple[str, str], str]
    scores: dict[tuple[str, str], float]
    views: list[str]

    def answer(self, batch: Batch) -> AnomalyMaps:
        """Return the maps of one sample, at the size of its views."""
        size, key = batch.size, batch.keys[0]
        maps, scores = torch.zeros(1, len(self.views), size, size), torch.full((1, len(self.views)), -torch.inf)
        for k, view in enumerate(self.views):
            if not batch.present[0, k]:
                continue
            picture = self.pictures.get((key, view))
            if picture is None:
                raise BadInput(f"{self.folder}: {key} of {view} is not in the export; export again")
            stored = torch.from_numpy(read_map(self.folder / view, picture))[None, None]
            maps[0, k] = functional.interpolate(stored, size=size, mode="bilinear", align_corners=False)[0, 0]
            score = self.scores.get((view, picture))
            scores[0, k] = image_scores(maps[0, k], ScoreConfig()) if score is None else score
        return AnomalyMaps(maps, scores, scores.amax(dim=1))


def read_map(folder: Path, picture: str, named: bool = True) -> NDArray[np.float32]:
    """Return the map (H, W) float32 of an exported picture.

    Parameters
    ----------
    folder, picture
        Folder of the maps, and the picture's path within.
    named
        Whether the path ends in the picture's suffix, which the map's takes the place of.

    Raises
    ------
    BadInput
        If there is no map, there are several that differ, or it is not one channel of finite numbers.
    """
    stem = files.inside(folder, picture)
    stem = stem.with_suffix("") if named else stem
    paths = [path for suffix in SUFFIXES if (path := stem.with_name(stem.name + suffix)).exists()]
    if not paths:
        raise BadInput(f"{stem}.npy: not found, nor {', '.join(SUFFIXES[1:])}; every test picture needs a map")
    values = _values_of(paths[0])
    for other in paths[1:]:
        if not np.array_equal(_values_of(other), values):
            raise BadInput(f"{paths[0]}: differs from {other.name}; leave one map of each picture")
    return values


def _values_of(path: Path) -> NDArray[np.float32]:
    """Return the map in a file."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False, mmap_mode="r")
        elif path.suffix == ".png":
            array = imagecodecs.png_decode(path.read_bytes())
        else:
            array = tifffile.imread(path)
    except Exception as error:  # numpy and the codecs raise many kinds
        raise BadInput(f"{path}: not readable as a map ({' '.join(str(error).split())[:80]})") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not 1 <= min(array.shape) <= max(array.shape) <= _MAX_SIDE:
        raise BadInput(f"{path}: expected a map (H, W) of numbers, found {array.shape} {array.dtype}")
    values = np.array(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: holds a value that is not finite; give every pixel a number")
    return values
