"""Samples that are scored together: the same answers as alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import CPU, NOWHERE, packed_gears, train

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model import in_batches
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.data import with_views
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import evaluate_missing_views
from mvad.model.in_batches import Scorer
from mvad.progress import Silent


def three_at_once(device: torch.device) -> int:
    return 3


KEYS: dict[str, dict[str, float]] = {"scale": {"score.folds": 2}, "held-out": {"train.holdout": 0.3}}


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough samples to hold two out."""
    return packed_gears(tmp_path_factory.mktemp("gears"), 4, 6, 1) / "mvtec3d" / "gear"


@pytest.fixture(scope="module")
def run(gear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a scale from held-out samples."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(path, gear, model="patchcore", **KEYS["scale"])
    return path


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.suffix != ".json"}


@pytest.mark.thorough(6)
def test_an_evaluation_of_three_at_a_time_writes_what_one_at_a_time_writes(
    run: Path, gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = gear.parent.parent
    one = evaluate_run(run, shards, NOWHERE, Silent(), out=tmp_path / "one" / "run")
    missing = evaluate_missing_views(run, shards, NOWHERE, Silent(), out=tmp_path / "one" / "run")
    monkeypatch.setattr(in_batches, "samples_per_call", three_at_once)
    three = evaluate_run(run, shards, NOWHERE, Silent(), out=tmp_path / "three" / "run")
    assert evaluate_missing_views(run, shards, NOWHERE, Silent(), out=tmp_path / "three" / "run") == missing
    assert (one.seconds["samples_per_call"], three.seconds["samples_per_call"]) == (1, 3)
    assert replace(three, seconds={}) == replace(one, seconds={})
    assert written(tmp_path / "one") == written(tmp_path / "three") != {}


@pytest.mark.thorough(2)
@pytest.mark.parametrize("kind", list(KEYS))
def test_the_scale_and_the_figures_without_labels_do_not_depend_on_how_many_are_scored_together(
    kind: str, gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, at_once in (("one", lambda device: 1), ("three", three_at_once)):
        monkeypatch.setattr(in_batches, "samples_per_call", at_once)
        train(tmp_path / name, gear, model="patchcore", **KEYS[kind])
    facts = files.read_json(tmp_path / "one" / "model.json")
    assert (facts["scale"]["normals"] if kind == "scale" else facts["label_free"]["samples"]) in (
        "2 folds of 6 training samples",
        2,
    )
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "three" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_a_sample_without_views_is_not_scored_and_the_others_of_its_batch_are(
    gear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = ShardSet(gear, "test"), []
    monkeypatch.setattr(in_batches, "samples_per_call", three_at_once)

    def answer(batch: Batch) -> AnomalyMaps:
        asked.append(batch.keys)
        return seen_pixels(batch)

    def read(rows: Sequence[int]) -> Batch:
        return with_views(data.batch(rows), []) if list(rows) == [3] else hidden(data.batch(rows))

    def hidden(batch: Batch) -> Batch:
        batch.present[1] = False
        return batch

    found = list(Scorer(answer, CPU).each(range(4), read))
    assert asked == [(data.keys[0], data.keys[2])], "the last group has one sample, without a view"
    assert [batch.keys[0] for batch, _ in found] == data.keys[:4]
    assert [each is None for _, each in found] == [False, True, False, True]
    assert all(each is None or torch.equal(each.maps, batch.seen.float()) for batch, each in found)


def test_where_the_memory_of_a_gpu_does_not_suffice_half_as_many_are_scored_per_call(
    gear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = ShardSet(gear, "test"), []
    monkeypatch.setattr(in_batches, "samples_per_call", lambda device: 4)

    def answer(batch: Batch) -> AnomalyMaps:
        asked.append(len(batch.keys))
        if len(batch.keys) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return seen_pixels(batch)

    most = 2
    scorer = Scorer(answer, CPU)
    found = list(scorer.each(range(6), data.batch))
    assert asked == [4, 2, 2, 2]
    assert scorer.most == 2
    assert [float(each.sample_scores[0]) for _, each in found if each] == data_pixels(data, 6)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(scorer.each(range(1), data.batch))


def seen_pixels(batch: Batch) -> AnomalyMaps:
    scores = batch.seen.flatten(1).sum(dim=1).float()
    return AnomalyMaps(batch.seen.float(), scores[:, None], scores)


def data_pixels(data: ShardSet, count: int) -> list[float]:
    return [float(data.batch([row]).seen.sum()) for row in range(count)]
