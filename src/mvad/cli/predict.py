"""``mvad predict``: score new scans, rendered on the fly, or packed samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Offline, Places, TeacherWeights, Workspace

if TYPE_CHECKING:
    from mvad.datasets.renders.coding import DepthCoding
    from mvad.datasets.scan import ScanRef
    from mvad.datasets.shards.schema import Sample
    from mvad.model.evaluation.predict import NewSample
    from mvad.render.options import RenderOptions
    from mvad.render.rig import Rig


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "predict",
        epilog="Example: mvad predict mvad-data/runs/mvtec3d-cable_gland-patchcore-seed0 downloads/mvtec3d/cable_gland/test",
    )(predict)


def predict(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    source: Annotated[
        Path, typer.Argument(help="A folder of raw scans (any depth), the folder of a packed category, or a shard (.h5).")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Default: predictions/NAME in the run's folder.")] = None,
    false_alarms: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of normal samples that may be called anomalous.")
    ] = 0.05,
    threshold: Annotated[float | None, typer.Option(help="Use this score instead of one from validation normals.")] = None,
    split: Annotated[str, typer.Option(help="Of a packed category: train, validation, test or private.")] = "test",
    light: Annotated[int, typer.Option(min=0, max=5, help="Eyecandies image number (4).")] = 4,
    workspace: Workspace = DEFAULT_WORKSPACE,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
) -> None:
    """Score samples: a CSV with a decision for each, maps, latency. Exit code 6 if some could not be scored."""
    from mvad.cli.console import Bars
    from mvad.errors import BadInput, PartlyDone
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.evaluation.predict import PREDICTIONS
    from mvad.model.evaluation.predict import predict as score
    from mvad.model.evaluation.threshold import Threshold, threshold_of
    from mvad.model.runs import load_run, model_sha256

    if not source.exists():
        raise BadInput(f"{source}: not found; give a folder of scans, a packed category or a shard")
    places = Places(workspace)
    detector, config, facts = load_run(run, WeightsSource(teacher_weights, places.weights, offline))
    samples = list(_samples(source, facts, places, split, light))
    target = out or run / "predictions" / (source.stem if source.suffix == ".h5" else source.resolve().name)
    with Bars() as bars:
        if threshold is None:
            folder = places.shards / facts["dataset"] / facts["category"]
            used = threshold_of(run, detector, config.input.modalities, folder, false_alarms, bars)
            promise = f"at most {100 * (used.promised or 0):.3g} % false alarms expected, from {used.normals} validation normals"
            lack = "" if used.asked else f"; {100 * false_alarms:.3g} % cannot be promised by so few"
            bars.say(f"threshold {used.value:.4g}: {promise}{lack}")
        else:
            used = Threshold(threshold, 0, None, True)
        done = score(detector, model_sha256(run), used, samples, len(samples), target, bars)
        anomalous = sum(row["anomalous"] for row in done.rows)
        bars.say(
            f"{len(done.rows)} scored, {anomalous} anomalous; median a sample: "
            f"{1000 * done.latency('load_seconds'):.0f} ms to load, {1000 * done.latency('score_seconds'):.0f} ms to score"
        )
        bars.say(f"written: {target / PREDICTIONS}")
    if done.failed:
        raise PartlyDone(
            f"{done.failed} of {len(samples)} samples could not be scored; {target / 'failed.jsonl'} has the reasons"
        )


def _samples(source: Path, facts: dict[str, Any], places: Places, split: str, light: int) -> Iterator[NewSample]:
    from mvad.datasets.shards.schema import MANIFEST

    if source.suffix == ".h5":
        return _of_shard(source)
    if (source / MANIFEST).exists():
        return _of_category(source, split)
    return _of_scans(source, facts, places, light)


def _of_shard(path: Path, trusted: bool = False) -> Iterator[NewSample]:
    """Give the samples of one shard; one that somebody sent is parsed in a process of its own."""
    from mvad.datasets.shards.reader import open_shard
    from mvad.files import sha256_file
    from mvad.model.evaluation.predict import NewSample

    shard, sha256 = open_shard(path, trusted), sha256_file(path)
    for row, key in enumerate(shard.texts("key")):
        yield NewSample(key, sha256, lambda row=row: (shard.sample(row), shard.coding))  # type: ignore[misc]


def _of_category(folder: Path, split: str) -> Iterator[NewSample]:
    from mvad.datasets.shards.reader import read_manifest
    from mvad.errors import BadInput
    from mvad.files import inside

    entries = [entry for entry in read_manifest(folder)["shards"] if entry["split"] == split]
    if not entries:
        raise BadInput(f"{folder}: has no {split} split; choose another --split")
    for entry in entries:
        yield from _of_shard(inside(folder, entry["file"]), trusted=True)


def _of_scans(source: Path, facts: dict[str, Any], places: Places, light: int) -> Iterator[NewSample]:
    """Raw scans, rendered with the cameras of the run's category."""
    from mvad.datasets.registry import SCAN_READERS, reader_for
    from mvad.datasets.renders.layout import category_folder
    from mvad.datasets.scan import ReadOptions
    from mvad.errors import BadInput
    from mvad.model.evaluation.predict import NewSample
    from mvad.render.job import recorded_cameras

    dataset, category = facts["dataset"], facts["category"]
    if dataset not in SCAN_READERS:
        raise BadInput(f"{source}: runs on {dataset} score packed samples; give a shard or a packed category")
    options, rig = recorded_cameras(category_folder(places.renders, dataset, category))
    refs = reader_for(dataset).new_refs(source, category, ReadOptions(light=light))
    if not refs:
        raise BadInput(f"{source}: holds no {dataset} scan, no packed category and no shard")
    for ref in refs:
        yield NewSample(ref.key, _hash_of(ref.paths), lambda ref=ref: _rendered(ref, options, rig))  # type: ignore[misc]


def _rendered(ref: ScanRef, options: RenderOptions, rig: Rig) -> tuple[Sample, DepthCoding]:
    from mvad.datasets.shards.sources import seen_sample
    from mvad.render.scan_to_views import views_of

    views, used = views_of(ref, options, rig)
    coding = used.depth_coding
    return seen_sample(ref.key, views.rgb, views.depth, views.normal, views.source, coding), coding


def _hash_of(paths: dict[str, Path]) -> str:
    """Hash the files of a scan; one that is missing is found when the scan is read."""
    from mvad.files import sha256_bytes, sha256_file

    return sha256_bytes("".join(sha256_file(path) for _, path in sorted(paths.items()) if path.exists()).encode())
