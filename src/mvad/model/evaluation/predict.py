"""Prediction of new samples: scores, maps and times; one by one on a processor, several together on a GPU."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from mvad import files
from mvad.datasets.scan import NO_POSE
from mvad.datasets.shards.loader import Batch, collate
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.evaluation.decide import NewSample, Scored, scored_new
from mvad.model.evaluation.evaluate import check_stem, file_stem
from mvad.model.evaluation.pictures import grey_levels, strip
from mvad.model.evaluation.read_ahead import Earlier, read_ahead
from mvad.model.evaluation.threshold import Thresholds
from mvad.model.in_batches import Scorer
from mvad.model.memory import kept_memory
from mvad.progress import Progress

PREDICTIONS = "predictions.csv"
PREDICTIONS_LINES = "predictions.jsonl"
FAILED = "failed.jsonl"
SCORED = "scored.jsonl"
"""Log of samples that were scored, by which a repeated prediction continues."""
_PLACES = ("pose", "fit", "cut")
"""What a prediction of a render says of where the object lay."""
_CAUSE = ("view", "row", "column")
_OF_PICTURES = ("view_name", "picture", "x", "y", "missing")
"""What a prediction of photographs says of the cause, and which views are missing."""
MAPS = "maps"


@dataclass(frozen=True)
class Prediction:
    """The score of one new sample.

    Attributes
    ----------
    key
        Name of the sample: its path below the given folder, or its key in the shards.
    score, anomalous
        Score of the sample, and whether it is above the threshold.
    view_scores
        Score of each view; None where it is missing, or shows no object.
    load_seconds, score_seconds
        Seconds for reading (and rendering), and for scoring.
    pose, fit
        Of a render: the stable pose that the scan took, -1 where it fits none; its fit to the pose's template, 0 to 1, None
        without one. None of photographs, and where an earlier version scored the sample.
    cut
        Views that the object reaches beyond.
    path
        The file that it was read from.
    view, row, column
        The view with the highest score, and the pixel of its map with the highest value: what caused the decision. None where
        an earlier version scored the sample.
    view_name, picture, x, y
        Of photographs: that view's name, its file, and the pixel of that picture (column x, row y, from 0). None of renders.
    missing
        Names of the views that the sample has not.
    write_seconds
        Seconds for writing maps and picture.
    threshold, promised
        The threshold, and the share of false alarms that it promises; None: nothing.
    """

    key: str
    score: float
    anomalous: bool
    view_scores: Sequence[float | None]
    load_seconds: float
    score_seconds: float
    pose: int | None = None
    fit: float | None = None
    cut: Sequence[int] = ()
    path: str = ""
    view: int | None = None
    row: int | None = None
    column: int | None = None
    view_name: str | None = None
    picture: str | None = None
    x: int | None = None
    y: int | None = None
    missing: Sequence[str] = ()
    write_seconds: float = 0.0
    threshold: float = float("nan")
    promised: float | None = None

    @property
    def decision(self) -> str:
        """``anomalous`` or ``normal``."""
        return "anomalous" if self.anomalous else "normal"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, with ``sample`` for the key and ``decision``."""
        rest = {name: value for name, value in self.__dict__.items() if name not in ("key", "anomalous", "promised")}
        return {
            "sample": self.key,
            "decision": self.decision,
            **rest,
            "view_scores": list(self.view_scores),
            "cut": list(self.cut),
            "missing": list(self.missing),
            "promised_false_alarms": self.promised,
        }


@dataclass(frozen=True)
class Predictions:
    """Predictions of new samples.

    Attributes
    ----------
    rows
        One prediction per sample that was scored.
    failed
        Number of samples that could not be scored; ``failed.jsonl`` has the reasons.
    """

    rows: Sequence[Prediction]
    failed: int

    def latency(self, name: str) -> float:
        """Return the median of ``load_seconds``, ``score_seconds`` or ``write_seconds`` without the first sample, which warms up; 0 for no rows."""
        values = [float(getattr(row, name)) for row in self.rows][min(1, len(self.rows) - 1) :]
        return float(np.median(values)) if values else 0.0

    def poses(self) -> dict[str, Any]:
        """Return ``unfit``, the samples that fit no stable pose well, and ``cut``, the views that samples reach beyond, by key."""
        unfit = sorted(row.key for row in self.rows if row.pose == NO_POSE)
        return {"unfit": unfit, "cut": {row.key: list(row.cut) for row in sorted(self.rows, key=lambda r: r.key) if row.cut}}

    def incomplete_lines(self, most: int = 8) -> list[str]:
        """Return one line for each of the first samples that lack views, or have no threshold with a promise for those that show them."""
        lacking = [row for row in self.rows if row.missing or (row.promised is None and None in row.view_scores)]
        lines = [
            f"notice: {row.key} has {'not the view ' + ', '.join(row.missing) if row.missing else 'a view without a score'}; "
            + ("nothing is promised of its threshold" if row.promised is None else "its threshold is that of such parts")
            for row in lacking[:most]
        ]
        return lines + ([f"notice: and {len(lacking) - most} more lack views"] if len(lacking) > most else [])

    def describe(self) -> str:
        """Return one line: number of scored and of anomalous samples, and median times per sample."""
        load, score, write = (1000 * self.latency(name) for name in ("load_seconds", "score_seconds", "write_seconds"))
        anomalous = sum(row.anomalous for row in self.rows)
        return (
            f"{len(self.rows)} scored, {anomalous} anomalous; median per sample: {load:.0f} ms to load, {score:.0f} ms to score, "
            f"{write:.0f} ms to write"
        )


def predict(
    detector: Detector, model: str, thresholds: Thresholds, samples: Iterable[NewSample], count: int, out: Path, progress: Progress,
    views: Sequence[str] = (),
) -> Predictions:  # fmt: skip
    """Score samples, and write ``predictions.csv``, ``predictions.jsonl``, ``maps/KEY.tiff`` and ``maps/KEY.jpg``; continues after an interruption.

    Parameters
    ----------
    detector, model
        The detector, and the SHA-256 of its model.
    thresholds
        Samples with higher scores are anomalous; a sample without some of its views has a threshold of its own.
    samples, count
        The samples, and how many there are.
    out
        Folder for the files.
    progress
        Receives one step per sample.
    views
        Names of the views, for the heads of the columns; empty: their numbers.

    Returns
    -------
    Predictions
        Samples that cannot be read are skipped; ``failed.jsonl`` lists them with the reason.
    """
    with files.locked(out), kept_memory(detector.device):
        earlier = [row for row in files.read_lines(out / PREDICTIONS_LINES) if "made_from" in row]
        if earlier and not (out / SCORED).exists():  # the log of an earlier version
            files.write_lines(out / SCORED, earlier)
        done = {row["key"]: row for row in files.read_lines(out / SCORED)}
        gathered, failures = list[tuple[dict[str, Any], str]](), list[dict[str, str]]()
        stems: dict[str, str] = {}
        progress.start(f"predict into {out.name}", count)

        def made(sample: NewSample) -> Earlier:
            made_from, row = [model, sample.fingerprint()], done.get(sample.key)
            is_done = row is not None and row["made_from"] == made_from and _maps_exist(out, sample.key)
            return Earlier(made_from, row if is_done else None)

        for sample, row in _rows(detector, samples, lambda sample: check_stem(sample.key, stems), made, out):
            progress.advance()
            if isinstance(row, BadInput):
                failures.append({"key": sample.key, "reason": str(row)})
                progress.say(f"failed: {sample.key}: {row}")
                continue
            measured = {name: row[name] for name in ("key", "score", "view_scores", "load_seconds", "score_seconds")}
            later = (*_PLACES, *_CAUSE, *_OF_PICTURES, "write_seconds")  # an earlier version wrote none of them
            measured |= {name: row[name] for name in later if name in row}
            gathered.append((measured, sample.path))
        rows = [decided(measured, thresholds, path) for measured, path in gathered]  # may score normals, with a bar of its own
        files.write_text(out / PREDICTIONS, _table(rows, views))
        files.write_lines(out / PREDICTIONS_LINES, [row.to_json() for row in rows])
        if failures:
            files.write_lines(out / FAILED, failures)
        elif (out / FAILED).exists():
            files.remove(out / FAILED)
    return Predictions(rows, len(failures))


def decided(facts: Mapping[str, Any], thresholds: Thresholds, path: str) -> Prediction:
    """Return the prediction of a sample that was scored (``decide.Scored.facts``)."""
    used = thresholds.of([score is not None for score in facts["view_scores"]])
    anomalous = facts["score"] > used.value
    return Prediction(anomalous=anomalous, path=path, threshold=used.value, promised=used.promised, **facts)


def write_maps(folder: Path, key: str, scored: Scored) -> None:
    """Write a sample's maps as ``KEY.tiff``, (V, H, W) float32, and the picture ``KEY.jpg``."""
    stem = file_stem(key)
    files.write_bytes(folder / f"{stem}.tiff", tiff_of(scored))
    files.write_bytes(folder / f"{stem}.jpg", picture_of(scored))


def tiff_of(scored: Scored) -> bytes:
    """Return a sample's maps (V, H, W) float32 as a TIFF of one page per view."""
    target = io.BytesIO()
    tifffile.imwrite(target, scored.maps, compression="zlib", compressionargs={"level": 1}, metadata=None)
    return target.getvalue()


def picture_of(scored: Scored) -> bytes:
    """Return a sample's views and maps as a JPEG picture: one column per view."""
    return bytes(imagecodecs.jpeg_encode(strip(scored.batch, grey_levels(scored.maps)[0]), level=88))


def _rows(
    detector: Detector, samples: Iterable[NewSample], check: Callable[[NewSample], None], made: Callable[[NewSample], Earlier],
    out: Path,
) -> Iterator[tuple[NewSample, dict[str, Any] | BadInput]]:  # fmt: skip
    """Yield each sample with its row, which is logged and its maps written, or with the reason why there is none.

    On a GPU several samples are scored together, while others are read.
    """
    scorer = Scorer(detector.score, detector.device)
    with contextlib.closing(read_ahead(detector, samples, check, made)) as iterator:
        while group := list(itertools.islice(iterator, scorer.most)):
            rows: dict[int, dict[str, Any] | BadInput] = {n: one.row for n, one in enumerate(group) if one.row is not None}
            reads = {n: one.read for n, one in enumerate(group) if one.read is not None}
            answers = _answers(scorer, [read.batch for read in reads.values()]) if reads else []
            for number, answer in zip(reads, answers, strict=True):
                with _failing(rows, number):
                    if isinstance(answer, BadInput):
                        raise answer
                    scored, began = scored_new(reads[number], *answer), time.perf_counter()
                    write_maps(out / MAPS, group[number].sample.key, scored)
                    written = {"write_seconds": round(time.perf_counter() - began, 5)}
                    row = {"made_from": group[number].made_from, **scored.facts, **written}
                    files.append_line(out / SCORED, row)
                    rows[number] = row
            yield from ((one.sample, rows[number]) for number, one in enumerate(group))


def _answers(scorer: Scorer, batches: Sequence[Batch]) -> list[tuple[AnomalyMaps, float] | BadInput]:
    """Return the detector's answer to each sample, and the seconds that it took of those of all; or why there is none."""
    if len({batch.mask.shape for batch in batches}) > 1:
        return [answer for batch in batches for answer in _answers(scorer, [batch])]
    try:
        before, found = scorer.seconds, scorer.scored(collate(batches))
    except BadInput as error:  # fields or depth ranges differ, or one of them cannot be scored
        return [error] if len(batches) == 1 else [answer for batch in batches for answer in _answers(scorer, [batch])]
    share = (scorer.seconds - before) / len(found)
    return [(answer, share) for answer in found if answer is not None]


@contextlib.contextmanager
def _failing(found: dict[int, dict[str, Any] | BadInput], number: int) -> Iterator[None]:
    """Note why a sample has no row, unless the reason is not the sample's own."""
    try:
        yield
    except BadInput as error:
        if getattr(error, "is_general", False):
            raise
        found[number] = error


def _maps_exist(out: Path, key: str) -> bool:
    return all((out / MAPS / f"{file_stem(key)}{suffix}").exists() for suffix in (".tiff", ".jpg"))


def _table(rows: Sequence[Prediction], names: Sequence[str]) -> str:
    target = io.StringIO()
    views = max((len(row.view_scores) for row in rows), default=0)
    writer = csv.writer(target, lineterminator="\n")
    view_scores = (f"view_{names[k] if names else k}" for k in range(views))
    head = ("path", "sample", "score", "threshold", "decision", *_CAUSE, *view_scores)
    pictured = _OF_PICTURES if names else ()
    writer.writerow([*head, "load_seconds", "score_seconds", "write_seconds", *_PLACES, *pictured])
    for row in rows:
        scores = ["" if score is None else f"{score:.7g}" for score in row.view_scores]
        cause = ["" if place is None else place for place in (row.view, row.row, row.column)]
        cells = [row.path, row.key, f"{row.score:.7g}", f"{row.threshold:.7g}", row.decision, *cause, *scores]
        fit = "" if row.fit is None else f"{row.fit:.4f}"
        places = ["" if row.pose is None else row.pose, fit, " ".join(map(str, row.cut))]
        pictures = [row.view_name, row.picture, row.x, row.y, " ".join(row.missing)] if names else []
        writer.writerow([*cells, row.load_seconds, row.score_seconds, row.write_seconds, *places, *pictures])
    return target.getvalue()
