"""Conformance of all methods to the detector protocol, and robustness of training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from training import NOWHERE, TINY, StopAfter, load, train

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.fitting import fit_run, prepare
from mvad.model.idif.config import IdifConfig
from mvad.model.registry import configure, method_named, methods, register_method, unregister_method
from mvad.model.runs import RunFolder
from mvad.progress import Silent
from mvad.settings import resolve

METHODS = tuple(methods())


@pytest.fixture
def gear(workspace: Path) -> Path:
    return workspace / "shards" / "mvtec3d" / "gear"


@pytest.mark.thorough(6)
@pytest.mark.parametrize("model", METHODS)
def test_a_loaded_detector_scores_as_the_trained_one(model: str, gear: Path, trained: Callable[[str, str], Path]) -> None:
    run = trained(model, "mvtec3d")
    assert not train(run, gear, model=model), "trained already"
    detector = load(run)
    data = ShardSet(gear, "test")
    together = detector.score(data.batch([0, 1, 2]))
    assert together.maps.shape == (3, 5, 64, 64)
    assert together.maps.dtype == torch.float32
    assert torch.isfinite(together.maps).all()
    assert torch.allclose(together.sample_scores, together.view_scores.topk(2).values.mean(dim=1))
    alone = detector.score(data.batch([1]))
    assert torch.allclose(alone.sample_scores, together.sample_scores[1:2], rtol=2e-2, atol=1e-3), (
        "scores do not depend on the batch"
    )
    again = load(run)
    assert torch.equal(again.score(data.batch([1])).maps, alone.maps)
    assert detector.planned_seconds(10) > 0


@pytest.mark.thorough(4)
@pytest.mark.parametrize("model", METHODS)
def test_a_missing_view_has_no_influence_on_the_score(model: str, workspace: Path, trained: Callable[[str, str], Path]) -> None:
    detector = load(trained(model, "realiad"))
    batch = ShardSet(workspace / "shards" / "realiad" / "plate", "test").batch([0])
    present = batch.present.clone()
    present[:, 2] = False
    black, white = batch.rgb.clone(), batch.rgb.clone()
    black[:, 2], white[:, 2] = 0, 255
    one = detector.score(replace(batch, present=present, rgb=black))
    two = detector.score(replace(batch, present=present, rgb=white))
    assert torch.equal(one.view_scores, two.view_scores)
    assert one.view_scores[0, 2] == -torch.inf
    assert not torch.equal(detector.score(batch).view_scores, one.view_scores)


@pytest.mark.thorough(4)
@pytest.mark.parametrize("model", METHODS)
def test_pixels_off_the_object_have_the_lowest_value_of_their_sample(
    model: str, gear: Path, trained: Callable[[str, str], Path]
) -> None:
    detector = load(trained(model, "mvtec3d"))
    batch = ShardSet(gear, "test").batch([0, 3])
    maps = detector.score(batch).maps
    seen = batch.seen if batch.size == maps.shape[-1] else batch.seen[..., ::4, ::4]
    for sample, outline in zip(maps, seen, strict=True):
        assert float(sample[~outline].max()) <= float(sample[outline].min())


@pytest.mark.thorough(4)
@pytest.mark.parametrize("model", METHODS)
def test_the_score_of_a_sample_follows_score_sample(model: str, gear: Path, trained: Callable[[str, str], Path]) -> None:
    detector = load(trained(model, "mvtec3d"))
    detector = change_score(detector, sample="mean")
    found = detector.score(ShardSet(gear, "test").batch([0, 1]))
    assert torch.allclose(found.sample_scores, found.view_scores.mean(dim=1))


@pytest.mark.parametrize("model", ["patchcore", "mean_feature", "simplenet"])
def test_a_black_background_changes_a_baselines_scores(model: str, gear: Path, trained: Callable[[str, str], Path]) -> None:
    detector = load(trained(model, "mvtec3d"))
    batch = ShardSet(gear, "test").batch([0])
    before = detector.score(batch).view_scores
    detector.features.config = replace(detector.config, input=replace(detector.config.input, background="black"))
    assert not torch.equal(detector.score(batch).view_scores, before)


@pytest.mark.gpu
@pytest.mark.parametrize("model", METHODS)
def test_a_method_does_on_a_gpu_what_it_does_on_the_processor(model: str, gear: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    data = ShardSet(gear, "train")
    config, origins = configure("demo", model, [("test", {**TINY, "train.precision": "float32"})])
    ready = prepare(data, config, Path("nowhere"), NOWHERE, torch.device("cuda"))
    fit_run(tmp_path / "run", data, ready, origins, Silent())
    batch = ShardSet(gear, "test").batch([0, 1])
    there = RunFolder(tmp_path / "run").load(NOWHERE, torch.device("cuda")).score(batch)
    here = load(tmp_path / "run").score(batch)
    assert there.maps.device.type == "cpu"
    assert torch.allclose(there.sample_scores, here.sample_scores, rtol=2e-2, atol=1e-3)


def change_score(detector: Any, **changes: Any) -> Any:
    """Replace the keys ``score.*`` of a detector and its parts."""
    for part in (detector, getattr(detector, "base", None)):
        if part is not None:
            part.config = replace(part.config, score=replace(part.config.score, **changes))
    return detector


@pytest.mark.thorough(16)
@pytest.mark.parametrize("kind", ["adamw", "destseg"])
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_interrupting_at_any_step_and_resuming_gives_bit_identical_weights(
    stop: int, kind: str, gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    changes = {
        "optimizer.kind": kind,
        "optimizer.student_lr": 1e-3,
        "optimizer.head_residual_lr": 1e-3,
        "optimizer.head_lr": 1e-3,
    }
    train(whole, gear, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(broken, gear, StopAfter(stop), **changes)
    assert not RunFolder(broken).is_trained
    train(broken, gear, **changes)
    one, two = (safetensors.torch.load((run / "model.safetensors").read_bytes()) for run in (whole, broken))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [[json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, broken)]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 7


@pytest.mark.thorough(4)
def test_training_changes_the_angles_and_lowers_the_loss(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear, **{"train.student_steps": 30, "train.head_steps": 2})
    losses = [
        json.loads(line)["distill"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "distill" in line
    ]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    state = safetensors.torch.load((tmp_path / "run" / "model.safetensors").read_bytes())
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    start = torch.tensor(facts["spec"]["angles"]).repeat_interleave(2, dim=0)
    assert (state["network.fusion.spatial_transformer.angles"] - start).abs().max() > 1e-4


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(gear: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the loss is (nan|inf).*the last checkpoint is step \d+"):
        train(tmp_path / "run", gear, **{"optimizer.student_lr": 1e25, "train.student_steps": 40, "train.checkpoint_every": 1})
    assert not RunFolder(tmp_path / "run").is_trained
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))


def test_a_configuration_value_that_is_not_finite_is_rejected() -> None:
    with pytest.raises(BadInput, match="must be finite"):
        resolve(IdifConfig, [("--set", {"loss.alpha": float("nan")})])


def test_another_configuration_in_an_existing_run_is_rejected_with_the_key(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear, model="mean_feature")
    with pytest.raises(BadInput, match=r"score\.top_k = 100, this run asks for 50"):
        train(tmp_path / "run", gear, model="mean_feature", **{"score.top_k": 50})


def test_damaged_weights_are_reported_and_not_used(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear, model="mean_feature")
    path = tmp_path / "run" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"model\.safetensors: damaged"):
        load(tmp_path / "run")


def test_evaluation_writes_figures_and_one_picture_per_sample(workspace: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", workspace / "shards" / "eyecandies" / "dome", model="mean_feature")
    results = evaluate_run(tmp_path / "run", workspace / "shards", NOWHERE, Silent())
    assert results == RunFolder(tmp_path / "run").results()
    assert results.figures.samples == len(results.samples) == 7
    assert 0 <= results.figures["s_auroc"] <= 1
    assert results.config["input.modalities"] == ["rgb", "normal"], "the paper's input for Eyecandies"
    for sample in results.samples:
        assert (tmp_path / "run" / sample.picture).read_bytes().startswith(b"\xff\xd8")
        assert sample.score == pytest.approx(np.mean(sorted(sample.view_scores)[-2:]), abs=1e-6)


def test_a_run_is_not_evaluated_on_other_data(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "shards", tmp_path / "shards")
    shards = tmp_path / "shards" / "mvtec3d" / "gear"
    train(tmp_path / "run", shards, model="mean_feature")
    manifest = files.read_sealed_json(shards / "manifest.json", "a manifest", "")
    (shards / "train-00000.h5").unlink()
    shutil.copy(shards / "test-00000.h5", shards / "train-00000.h5")
    for entry in manifest["shards"]:
        if entry["split"] == "train":
            entry["sha256"] = next(e["sha256"] for e in manifest["shards"] if e["split"] == "test")
    files.write_sealed_json(shards / "manifest.json", manifest)
    with pytest.raises(BadInput, match="is not what run was trained on"):
        evaluate_run(tmp_path / "run", tmp_path / "shards", NOWHERE, Silent())


def test_a_run_of_version_0_1_is_read(gear: Path, tmp_path: Path, trained: Callable[[str, str], Path]) -> None:
    """It has other names of keys, and the keys of all methods."""
    run = Path(shutil.copytree(trained("patchcore", "mvtec3d"), tmp_path / "run"))
    _record_as_before(run)
    batch = ShardSet(gear, "test").batch([0, 1])
    assert torch.equal(load(run).score(batch).maps, load(trained("patchcore", "mvtec3d")).score(batch).maps)
    assert not train(run, gear, model="patchcore"), "and found trained"


def test_a_run_of_idif_of_version_0_1_is_refused_by_name(gear: Path, tmp_path: Path, trained: Callable[[str, str], Path]) -> None:
    """Its network had other parts, so that its weights say nothing here; nor do those of its checkpoints."""
    run = Path(shutil.copytree(trained("idif", "mvtec3d"), tmp_path / "run"))
    _record_as_before(run)
    _without_new_parts(run / "model.safetensors", run / "model.json", files.read_sealed_json(run / "model.json", "facts", ""))
    with pytest.raises(BadInput, match=r"earlier version of mvad.*train it again as a new run"):
        load(run)
    first, last = sorted((run / "checkpoints").glob("*.json"), key=lambda path: int(path.stem.removeprefix("step-")))
    for path in (last, last.with_suffix(".safetensors"), run / "model.json", run / "model.safetensors"):
        path.unlink()
    facts = files.read_sealed_json(first, "facts", "")
    frozen = first.with_name(facts.pop("frozen")["file"])
    parts = [safetensors.torch.load_file(path) for path in (frozen, first.with_suffix(".safetensors"))]
    safetensors.torch.save_file(parts[0] | parts[1], first.with_suffix(".safetensors"))  # one file had everything
    _without_new_parts(first.with_suffix(".safetensors"), first, facts)
    with pytest.raises(BadInput, match=r"earlier version of mvad.*train it again as a new run"):
        train(run, gear)


def test_a_finished_run_keeps_the_record_of_its_machine(
    gear: Path, tmp_path: Path, trained: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained("mean_feature", "mvtec3d"), tmp_path / "run"))
    before = (run / "config.json").read_bytes()
    monkeypatch.setattr("mvad.model.fitting.machine", lambda device: {"device": "another"})
    assert not train(run, gear, model="mean_feature")
    assert (run / "config.json").read_bytes() == before


def test_a_method_that_ignores_the_scale_is_not_called_standardised(gear: Path, tmp_path: Path) -> None:
    """Methods written before scores had a scale still give raw scores; thresholds and tables must not speak of another unit."""
    from mvad.model.baselines.mean_feature.detector import MeanFeature

    class WithoutScale(MeanFeature):
        def score(self, batch: Batch) -> AnomalyMaps:
            before, self.scale = self.scale, None
            try:
                return super().score(batch)
            finally:
                self.scale = before

    register_method(replace(method_named("mean_feature"), name="without_scale", detector=WithoutScale))
    try:
        train(tmp_path / "run", gear, model="without_scale")
        assert load(tmp_path / "run").scale is None
        assert RunFolder(tmp_path / "run").scale_facts == {}
        train(tmp_path / "other", gear, model="mean_feature")
        assert load(tmp_path / "other").scale is not None
    finally:
        unregister_method("without_scale")


def _record_as_before(run: Path) -> None:
    """Write a run's record as version 0.1 did."""
    record = files.read_sealed_json(run / "config.json", "a run", "")
    before = {"score.top_k": "score.top", "patchcore.min_patches": "patchcore.least", "stn.depth_reduction": "stn.collapse"}
    record["config"] = {before.get(name, name): value for name, value in record["config"].items()} | {"uniad.width": 256}
    record["setting"] = record.pop("spec")
    files.write_sealed_json(run / "config.json", record)


def _without_new_parts(path: Path, facts_path: Path, facts: dict[str, Any]) -> None:
    """Remove the tensors that version 0.1 did not have from a file, and seal its facts."""
    state = {
        name: tensor
        for name, tensor in safetensors.torch.load_file(path).items()
        if ".norm." not in name and ".lifts.0.1." not in name
    }
    content = safetensors.torch.save(state)
    path.write_bytes(content)
    files.write_sealed_json(facts_path, {**facts, "sha256": files.sha256_bytes(content)})
