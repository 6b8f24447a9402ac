"""One scale for views and modalities: the estimate, the rules, held-out samples, weights, what runs record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import ndimage
from training import NOWHERE, StopAfter, load, packed_gears, prepared, train

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.model.calibration import Scored, calibrate, fold_count, weights_of
from mvad.model.config import ScoreConfig
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.results import Results
from mvad.model.evaluation.threshold import Thresholds, kept_threshold, left_out_scores, threshold_of
from mvad.model.holdout import parts_of
from mvad.model.images import ViewImages
from mvad.model.registry import make_detector, method_named
from mvad.model.runs import RunFolder
from mvad.model.score_scale import ScoreScale, pair_deviation, pair_location, scale_of
from mvad.model.scoring import SAMPLE_RULES, finish_maps, over_views
from mvad.model.synthesis.compact import draw_compact, draw_in_sample
from mvad.model.training.context import FitContext
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shards of a workspace with ten validation samples, rendered at 64 pixels."""
    return packed_gears(tmp_path_factory.mktemp("many"), seed=4, train=6, validation=10)


def views_of(present: list[bool], size: int = 4) -> ViewImages:
    shape = (1, len(present), size, size)
    return ViewImages(
        torch.zeros(1, len(present), 1, 3, size, size), torch.ones(shape, dtype=torch.bool), torch.tensor([present])
    )


def scale(location: Any, deviation: Any, weights: Any) -> ScoreScale:
    tensors = [torch.tensor(values, dtype=torch.float32) for values in (location, deviation, weights)]
    return ScoreScale(*tensors, torch.zeros(0, *tensors[0].shape))


def test_a_sample_without_views_has_the_lowest_score_under_every_rule() -> None:
    scores = torch.tensor([[-torch.inf, -torch.inf], [-5.0, -torch.inf]])
    for rule in SAMPLE_RULES:
        assert over_views(scores, rule).tolist() == [-torch.inf, -5.0]


def test_location_and_deviation_are_medians_over_pairs() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 100.0])
    assert float(pair_location(values)) == pytest.approx(3.5)  # of 1, 1.5, 2, 2.5, 3, 4, 50.5, 51, 52, 100
    assert float(pair_deviation(values)) == pytest.approx(49.5 / 0.9538726, rel=1e-5)  # of 1, 2, 3, 96, 98, 99
    normal = torch.from_numpy(np.random.default_rng(0).normal(3, 2, 2000))
    assert float(pair_location(normal)) == pytest.approx(3, abs=0.15)
    assert float(pair_deviation(normal)) == pytest.approx(2, rel=0.05)


def test_views_that_do_not_differ_get_one_scale_and_others_their_own() -> None:
    rng = np.random.default_rng(1)
    ranges = []
    for _ in range(20):
        alike = torch.from_numpy(rng.standard_normal((23, 5, 1)))
        own = torch.stack([pair_deviation(column) for column in alike[:, :, 0].T])
        drawn = scale_of(alike).deviation
        ranges.append((float((own.max() / own.min()).log()), float((drawn.max() / drawn.min()).log())))
    plain, drawn_together = np.mean(ranges, axis=0)
    assert drawn_together < 0.3 * plain
    spread = torch.tensor([0.2, 0.5, 1.0, 2.0, 5.0])
    differ = scale_of(torch.from_numpy(rng.standard_normal((23, 5, 1))) * spread[:, None])
    assert torch.allclose(differ.deviation[:, 0], spread, rtol=0.5)
    few = scale_of(torch.from_numpy(rng.standard_normal((3, 5, 1))) * spread[:, None])
    assert float(few.deviation.max() / few.deviation.min()) < 25, "three samples prove less"


@pytest.mark.parametrize(("shift", "factor"), [(-7.0, 1.0), (5.0, 0.01)])
def test_the_scale_follows_a_shift_and_a_factor(shift: float, factor: float) -> None:
    scores = torch.from_numpy(np.random.default_rng(2).lognormal(size=(12, 3, 2)))
    plain, moved = scale_of(scores), scale_of(scores * factor + shift)
    assert torch.allclose(moved.of_scores((scores * factor + shift).float()), plain.of_scores(scores.float()), atol=2e-2)


def test_a_missing_view_and_equal_scores_have_a_finite_scale() -> None:
    scores = torch.from_numpy(np.random.default_rng(3).standard_normal((8, 3, 1)))
    scores[:, 2] = torch.nan
    scores[:, 1] = 4.0
    found = scale_of(scores)
    assert bool(torch.isfinite(found.location).all())
    assert bool((found.deviation > 0).all())
    assert bool((scale_of(torch.full((5, 2, 1), 3.0)).deviation == 1).all())


def test_every_rule_has_its_value() -> None:
    views = torch.tensor([[1.0, 5.0, 2.0, -torch.inf], [-torch.inf, -torch.inf, 7.0, -torch.inf]])
    assert over_views(views, "max").tolist() == [5, 7]
    assert over_views(views, "top2").tolist() == [3.5, 7]
    assert over_views(views, "mean").tolist() == pytest.approx([8 / 3, 7])


def test_modalities_are_standardised_and_added_with_weights() -> None:
    """View 0: (12 - 10) / 2 = 1 and (5 - 1) / 4 = 1, so 0.25 * 1 + 0.75 * 1 = 1; view 1: 3 and -0.25."""
    scores = torch.tensor([[[12.0, 5.0], [16.0, 0.0]]])
    maps = scores[..., None, None].expand(1, 2, 2, 4, 4)
    used = scale([[10, 1], [10, 1]], [[2, 4], [2, 4]], [0.25, 0.75])
    views = views_of([True, True])
    added = finish_maps(maps, views, ScoreConfig(sample="top2"), scores, used)
    assert added.view_scores[0].tolist() == pytest.approx([1, 0.5625])
    assert added.sample_scores.tolist() == pytest.approx([0.78125])
    assert added.maps[0, :, 0, 0].tolist() == pytest.approx([1, 0.5625])
    assert torch.equal(added.image_scores, scores), "raw scores are kept"
    highest = finish_maps(maps, views, ScoreConfig(modalities="max"), scores, used)
    assert highest.view_scores[0].tolist() == pytest.approx([1, 3])
    raw = finish_maps(maps, views, ScoreConfig(modalities="max"), scores)
    assert raw.view_scores[0].tolist() == [12, 16]
    assert finish_maps(maps, views, ScoreConfig(), scores).view_scores[0].tolist() == [8.5, 8]
    absent = finish_maps(maps, views_of([True, False]), ScoreConfig(), scores, used)
    assert absent.view_scores[0, 1] == -torch.inf
    assert absent.image_scores[0, 1].tolist() == [-torch.inf] * 2
    assert bool((absent.maps[0, 1] == absent.maps.min()).all()), "what does not count has the lowest value"


def test_maps_of_views_keep_their_order_and_modalities_get_one_unit() -> None:
    """Deviations 1 and 4 of the first modality have the geometric mean 2, locations 0 and 2 the mean 1."""
    maps = torch.tensor([[[3.0, 10.0], [5.0, 10.0]]])[..., None, None].expand(1, 2, 2, 4, 4)
    used = scale([[0, 10], [2, 10]], [[1, 5], [4, 5]], [0.5, 0.5])
    assert used.of_maps(maps)[0, :, :, 0, 0].tolist() == [[1, 0], [2, 0]]
    assert finish_maps(maps, views_of([True, True]), ScoreConfig(), scale=used).maps[0, :, 0, 0].tolist() == [0.5, 1]


def test_a_modality_at_chance_gets_no_weight_and_few_samples_give_equal_ones() -> None:
    rng = np.random.default_rng(5)
    normals = torch.from_numpy(rng.standard_normal((30, 5, 2)))
    sees = normals + torch.tensor([1.5, 0.0])
    weights = weights_of(scale_of(normals), [sees, sees])
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[0]) > 0.9
    few = weights_of(scale_of(normals[:3]), [sees[:3] - 1.0])
    assert float(few[0]) < 0.9
    assert weights_of(scale_of(normals), [normals]).tolist() == [0.5, 0.5], "no modality sees anything"
    hidden = sees.clone()
    hidden[:, 1:] = torch.nan
    assert float(weights_of(scale_of(normals), [hidden])[0]) > 0.8, "views that do not show it are left out"


def test_a_compact_anomaly_has_the_size_of_a_defect_and_stays_where_it_is_shown(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "train", fields=["rgb", "depth", "normal", "source"])
    batch = data.batch(range(4))
    width = 160
    for shown, views in (("one", 1), ("all", 5)):
        shares = []
        for seed in range(8):
            changed, shows = draw_compact(batch, torch.Generator().manual_seed(seed), "one" if shown == "one" else "all", width)
            assert bool((shows.flatten(2).any(dim=2).sum(dim=1) <= views).all())
            assert bool((shows & ~batch.seen).sum() == 0)
            for name in ("rgb", "normal"):
                different = (getattr(changed, name) != getattr(batch, name)).any(dim=-1)
                assert not bool((different & ~shows).any())
                assert bool((different & shows).any())
            depth = changed.depth_code.int() - batch.depth_code.int()
            assert not bool((depth[~shows] != 0).any())
            assert bool((depth != 0).any())
            share = shows.flatten(2).sum(dim=2) / batch.seen.flatten(2).sum(dim=2)
            shares += share[share > 0].tolist()
        assert 0.004 < np.median(shares) < 0.04
    again = draw_compact(batch, torch.Generator().manual_seed(7), "all", width)[0]
    assert torch.equal(again.rgb, changed.rgb)


def test_one_place_on_the_scan_is_changed_in_all_views(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "train", fields=["rgb", "source"])
    batch = data.batch([0])
    shows = draw_compact(batch, torch.Generator().manual_seed(3), "all", 160)[1]
    inside, outside = set(batch.source[shows].tolist()), set(batch.source[~shows & batch.seen].tolist())
    assert int(shows.flatten(2).any(dim=2).sum()) >= 3
    assert not inside & outside, "a scan point is changed in all views or in none"
    covered = len(np.unique(batch.source[batch.seen].numpy() // 2)) * 4  # cells of the scan; views show about every second
    widest = 2 * (1.8 * 0.027 * covered / np.pi) ** 0.5 + 2
    for view in range(5):
        labels, count = ndimage.label(shows[0, view].numpy(), np.ones((3, 3)))
        assert count <= 4, "at most three blobs, some cut by what hides them"
        for number in range(1, count + 1):
            places = batch.source[0, view].numpy()[labels == number]
            assert np.ptp(places // 160) <= widest
            assert np.ptp(places % 160) <= widest


def test_validation_normals_are_used_where_there_are_ten(many: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", many / GEAR, model="padim", **{"score.folds": 0})
    folder = RunFolder(tmp_path / "run")
    shards = ShardSet(many / GEAR, "validation").sha256
    assert folder.scale_facts["normals"] == "10 validation normals"
    assert folder.scale_facts["shards"] == shards
    assert sum(folder.scale_facts["weights"].values()) == pytest.approx(1, abs=1e-3)
    detector = load(tmp_path / "run")
    assert detector.scale is not None
    assert detector.scale.normals.shape == (10, 5, 2)
    validation = ShardSet(many / GEAR, "validation").batch(range(10))
    assert torch.allclose(detector.score(validation).image_scores, detector.scale.normals, rtol=1e-3)


def test_otherwise_each_fold_is_scored_by_a_detector_that_has_not_seen_it(workspace: Path, tmp_path: Path) -> None:
    packed = workspace / "shards" / GEAR
    train(tmp_path / "run", packed, model="mean_feature", **{"score.folds": 2})
    detector = load(tmp_path / "run")
    assert RunFolder(tmp_path / "run").scale_facts["normals"] == "2 folds of 4 training samples"
    data = ShardSet(packed, "train")
    train(tmp_path / "in-sample", packed, model="mean_feature", **{"score.folds": 1})
    inside = load(tmp_path / "in-sample")
    assert RunFolder(tmp_path / "in-sample").scale_facts["normals"] == "4 training samples, not held out"
    assert float(detector.scale.normals.mean()) > float(inside.scale.normals.mean()), "samples in training lie nearer"
    ready, _ = prepared(data, "mean_feature")
    other = make_detector(ready.config, ready.detector.spec, ready.teacher, ready.detector.device)
    other.fit(data.subset([1, 3]), FitContext(tmp_path, Silent(), lambda figures: None))
    assert torch.allclose(other.score(data.batch([0])).image_scores[0], detector.scale.normals[0])
    assert not (tmp_path / "run" / "scale").exists(), "folds are removed when the model is written"


def test_a_part_of_a_split_has_its_samples_only(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "test")
    part = data.subset([4, 1])
    assert len(part) == 2
    assert list(part.keys) == [data.keys[4], data.keys[1]]
    assert torch.equal(part.batch([0]).rgb, data.batch([4]).rgb)
    assert part.labels.tolist() == data.labels[[4, 1]].tolist()
    assert torch.equal(part.select(["rgb"]).batch([1]).rgb, data.batch([1]).rgb)
    kept = ShardSet(workspace / "shards" / GEAR, "test").in_memory()
    assert torch.equal(kept.subset([4, 1]).batch([0]).rgb, data.batch([4]).rgb)


@pytest.mark.thorough(6)
@pytest.mark.parametrize("model", ["simplenet", "mean_feature"])
def test_calibration_continues_after_an_interruption_with_the_same_result(model: str, workspace: Path, tmp_path: Path) -> None:
    packed, keys = workspace / "shards" / GEAR, {"model": model, "score.folds": 2}
    count = Counting()
    train(tmp_path / "whole", packed, count, **keys)
    for stop in sorted({count.steps - 1, count.steps - 3, count.steps // 2 + 1}):
        run = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            train(run, packed, StopAfter(stop), **keys)
        assert train(run, packed, **keys)
        assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


class Counting(Silent):
    """Counts steps."""

    steps = 0

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps


def test_scores_of_a_fold_are_stored_exactly() -> None:
    rows = torch.tensor([[0.1, torch.nan], [3e-9, 2.5e7]])
    stored = Scored([rows], {"all": [rows], "one": []})
    back = Scored.from_json(json.loads(json.dumps(stored.to_json())))
    assert torch.equal(back.normals[0].nan_to_num(-1), rows.nan_to_num(-1))
    assert len(back.pseudo["one"]) == 0


def test_folds_follow_key_method_and_validation_split(workspace: Path, many: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "train")
    for model, keys, expected in (
        ("padim", {"score.folds": 0}, 4), ("simplenet", {"score.folds": 0}, 2), ("padim", {"score.folds": 3}, 3), ("padim", {}, 0),
        ("padim", {"score.folds": 0, "score.scale": "none"}, 0),
    ):  # fmt: skip
        config = prepared(data, model, **keys)[0].config
        assert fold_count(config, method_named(model), data) == expected
        assert fold_count(config, method_named(model), ShardSet(many / GEAR, "train")) == 0


def test_a_run_of_before_scores_as_before(workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]) -> None:
    """Its configuration does not have the keys, and its model no scale."""
    run = Path(shutil.copytree(trained("padim", "mvtec3d"), tmp_path / "run"))
    record = files.read_sealed_json(run / "config.json", "a run", "")
    for name in ("score.scale", "score.modalities", "score.folds"):
        del record["config"][name]
    files.write_sealed_json(run / "config.json", record)
    state = safetensors.torch.load((run / "model.safetensors").read_bytes())
    content = safetensors.torch.save({name: tensor for name, tensor in state.items() if not name.startswith("scale.")})
    (run / "model.safetensors").write_bytes(content)
    files.write_sealed_json(run / "model.json", {"mvad_version": "0.1.0", "sha256": files.sha256_bytes(content)})
    old, new = load(run), load(trained("padim", "mvtec3d"))
    assert old.scale is None
    assert new.scale is not None
    batch = ShardSet(workspace / "shards" / GEAR, "test").batch([0, 1])
    found = old.score(batch)
    assert torch.equal(found.view_scores, new.score(batch).image_scores.amax(dim=2))
    results = evaluate_run(run, workspace / "shards", NOWHERE, Silent())
    assert results.rule == "top2 of raw scores"
    assert results.standardised_by == "nothing"


@pytest.mark.thorough(6)
def test_the_scale_reaches_the_network_that_computes_the_scores(workspace: Path, trained: Callable[[str, str], Path]) -> None:
    for model in ("retrieve", "idif", "patchcore"):
        detector = load(trained(model, "mvtec3d"))
        batch = ShardSet(workspace / "shards" / GEAR, "test").batch([0])
        scaled, detector.scale = detector.score(batch), None
        assert not torch.allclose(detector.score(batch).view_scores, scaled.view_scores), model


def test_both_modalities_move_the_scores_of_patchcore(many: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", many / GEAR, model="patchcore", **{"score.folds": 0})
    detector = load(tmp_path / "run")
    scale_used = detector.scale
    detector.scale = replace(scale_used, weights=torch.tensor([0.5, 0.5]))
    batch = ShardSet(many / GEAR, "test").batch(range(4))
    before = detector.score(batch).view_scores
    for name, other in (("rgb", 255 - batch.rgb), ("depth_code", batch.depth_code.int().add(3000).clamp(max=65535))):
        changed = replace(batch, **{name: other.to(getattr(batch, name).dtype)})
        assert bool((detector.score(changed).view_scores != before).any(dim=1).all()), f"{name} counts"


def test_results_have_every_rule_from_one_pass(workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]) -> None:
    run = Path(shutil.copytree(trained("padim", "mvtec3d"), tmp_path / "run"))
    results = evaluate_run(run, workspace / "shards", NOWHERE, Silent())
    assert list(results.rules) == ["max", "top2", "mean"]
    assert results.rules["top2"].s_auroc == results.figures["s_auroc"]
    assert results.rules["top2"].interval == results.figures.intervals["s_auroc"]
    bad = [np.mean(sample.view_scores) for sample in results.samples if sample.label]
    good = [np.mean(sample.view_scores) for sample in results.samples if not sample.label]
    assert results.rules["mean"].s_auroc == pytest.approx(np.mean([b > g for b in bad for g in good]))
    assert results.rule == "top2 of standardised scores, modalities added"
    assert results.standardised_by.startswith("4 training samples, not held out; depth ")
    assert Results.read(run / "results.json") == results
    plain = results.to_json()
    del plain["rules"], plain["scale"]
    before = Results.from_json(plain)
    assert before.rules == {}, "files of before are read"
    assert before.standardised_by == "nothing"


def test_the_threshold_leaves_each_validation_sample_out_of_its_own_scale(many: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", many / GEAR, model="padim", **{"score.folds": 0})
    detector, folder = load(tmp_path / "run"), RunFolder(tmp_path / "run")
    found = threshold_of(folder, detector, many / GEAR, 0.1, Silent())
    scores = files.read_sealed_json(tmp_path / "run" / "threshold.json", "x", "y")["scores"]
    assert found.normals == len(scores) == 10
    kept = [row for row in range(10) if row != 3]
    whole, detector.scale = detector.scale, scale_of(detector.scale.normals[kept], detector.scale.weights)
    alone = float(detector.score(ShardSet(many / GEAR, "validation").batch([3])).sample_scores[0])
    assert scores[3] == pytest.approx(alone, rel=1e-3)
    detector.scale = whole
    assert left_out_scores(whole, detector) == pytest.approx(scores)


def test_samples_whose_views_no_normal_has_are_promised_nothing(many: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", many / GEAR, model="padim", **{"score.folds": 0})
    shards = Path(shutil.copytree(many / GEAR, tmp_path / "shards"))
    with h5py.File(shards / "validation-00000.h5", "r+") as file:
        file["present"][:, 2] = False
    manifest = files.read_sealed_json(shards / "manifest.json", "x", "y")
    for entry in manifest["shards"]:
        entry["sha256"] = files.sha256_file(shards / entry["file"])
    files.write_sealed_json(shards / "manifest.json", manifest)
    for again in (False, True):  # the second time from what is stored
        thresholds = Thresholds(RunFolder(tmp_path / "run"), load(tmp_path / "run"), shards, 0.1, Silent())
        assert (thresholds.whole.promised, thresholds.whole.kept, thresholds.whole.normals) == (None, False, 10), again
        assert np.isfinite(thresholds.whole.value)
        assert "nothing is promised, since none of 10 validation normals has all views" in thresholds.describe()
        for views in ([False, False, True, False, False], [True, False, True, False, False]):
            assert thresholds.of(views).promised is None
            assert thresholds.of(views).value == thresholds.whole.value
        some = thresholds.of([True, True, False, False, False])
        assert (some.normals, some.promised) == (10, pytest.approx(1 / 11))
    assert kept_threshold(tmp_path / "run", RunFolder(tmp_path / "run").model_sha256).promised is None  # type: ignore[union-attr]
    stored = files.read_sealed_json(tmp_path / "run" / "threshold.json", "", "")
    del stored["whole"]  # as an earlier version wrote it
    files.write_sealed_json(tmp_path / "run" / "threshold.json", stored | {"by_views": {"0-2": stored["scores"]}})
    thresholds = Thresholds(RunFolder(tmp_path / "run"), load(tmp_path / "run"), shards, 0.1, Silent())
    assert thresholds.whole.promised is None
    assert thresholds.of([True, False, True, False, False]).promised is None


def test_a_view_that_shows_no_object_is_not_measured_for_the_scale() -> None:
    seen = torch.ones(1, 3, 8, 8, dtype=torch.bool)
    seen[0, 1] = False
    views = ViewImages(torch.zeros(1, 3, 1, 3, 8, 8), seen, torch.tensor([[True, True, False]]))
    maps = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8) + 5
    found = finish_maps(maps, views, ScoreConfig())
    assert found.image_scores is not None
    assert found.image_scores[0, :, 0].tolist() == [5, -torch.inf, -torch.inf]
    assert found.view_scores[0].tolist() == [5, -torch.inf, -torch.inf], "nor does it count in new samples"


def test_a_method_without_image_scores_is_compared_as_it_is(workspace: Path, tmp_path: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "train")
    ready, _ = prepared(data, "mean_feature")

    class Bare:
        config, spec, scale, device = ready.config, ready.detector.spec, None, ready.detector.device

        def score(self, batch: Any) -> Any:
            return replace(ready.detector.score(batch), image_scores=None)

    found = calibrate(
        Bare(), lambda: ready.detector, method_named("mean_feature"), data, tmp_path, Silent(), ProcessGroup()  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.scale is None
    assert found.to_json() == {}


def test_the_threshold_of_two_methods_takes_the_mean_of_their_maxima() -> None:
    normals = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0))
    scale = scale_of(normals)
    config = ScoreConfig(modalities="max", sample="max")
    detector = SimpleNamespace(config=SimpleNamespace(score=config), scored=[("rgb", "normal"), ("rgb", "normal")])
    found = left_out_scores(scale, detector)  # type: ignore[arg-type]
    for sample, score in enumerate(found):
        values = scale.without([sample]).of_scores(normals[sample][None])[0]
        assert score == pytest.approx(float((values[:, :2].amax(dim=1) + values[:, 2:].amax(dim=1)).max() / 2))


def test_many_normals_are_left_out_of_their_scale_in_twenty_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is one sample in twenty; the estimate does not have to be made once per sample."""
    normals = torch.randn(50, 2, 1, generator=torch.Generator().manual_seed(0))
    scale = scale_of(normals)
    config = ScoreConfig(modalities="max", sample="max")
    detector = SimpleNamespace(config=SimpleNamespace(score=config), scored=["rgb"])
    found = left_out_scores(scale, detector)  # type: ignore[arg-type]
    for sample in (0, 7, 49):
        values = scale.without(range(sample % 20, 50, 20)).of_scores(normals[sample][None])[0]
        assert found[sample] == pytest.approx(float(values.max()))
    made = []
    without = ScoreScale.without
    monkeypatch.setattr(ScoreScale, "without", lambda self, samples: (made.append(list(samples)), without(self, samples))[1])
    assert left_out_scores(scale, detector, [49, 3]) == [found[3], found[49]]  # type: ignore[arg-type]
    assert made == [[3, 23, 43], [9, 29, 49]]


def test_anomalies_in_meshes_are_not_placed_by_the_numbers_of_faces(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, widths = ShardSet(workspace / "shards" / GEAR, "train", ["rgb", "source"]), []
    monkeypatch.setattr(
        "mvad.model.synthesis.compact.draw_compact", lambda batch, generator, shown, width, radius: widths.append(width)
    )
    for data.is_mesh in (False, True):
        draw_in_sample(data.batch([0]), data, 0, "all", [0])
    assert widths == [int(data.scan_sizes[0, 1]), None]


def test_held_out_normals_serve_for_the_scale_where_the_validation_split_has_too_few(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvad.model.calibration._validation", lambda data: None)
    monkeypatch.setattr("mvad.model.calibration.LEAST_VALIDATION", 2)
    train(tmp_path / "run", many / GEAR, model="mean_feature", **{"score.folds": 2, "train.holdout": 0.5})
    run, data = RunFolder(tmp_path / "run"), ShardSet(many / GEAR, "train")
    kept = run.record.held_out
    assert run.scale_facts["normals"] == f"{len(kept)} held-out training normals"
    detector = load(tmp_path / "run")
    assert detector.scale is not None
    scale, detector.scale = detector.scale, None
    raw = [detector.score(data.batch([data.keys.index(key)])).image_scores[0] for key in data.keys if key in kept]
    assert torch.allclose(scale.normals, torch.stack(raw), atol=1e-5)
    parts = parts_of(data, 0.5)
    config = prepared(data, "mean_feature", **{"score.folds": 2})[0].config
    counts = [fold_count(config, method_named("mean_feature"), parts.fitted, held) for held in (None, parts.held_out)]
    assert counts == [2, 0]


def test_a_view_in_which_nothing_counts_has_no_score() -> None:
    """A method's own score of a view without an object, such as the distance of no feature at all, decides nothing."""
    views = views_of([True, True])
    views.seen[0, 1] = False
    scores = torch.tensor([[[0.1], [9.0]]])
    found = finish_maps(scores[..., None, None].expand(1, 2, 1, 4, 4), views, ScoreConfig(sample="max"), scores)
    assert found.view_scores[0].tolist() == pytest.approx([0.1, -torch.inf])
    assert found.sample_scores.tolist() == pytest.approx([0.1])
    everywhere = finish_maps(scores[..., None, None].expand(1, 2, 1, 4, 4), views, ScoreConfig(region="image"), scores)
    assert everywhere.view_scores[0].tolist() == pytest.approx([0.1, 9.0])
    views.seen[:] = False
    nothing = finish_maps(scores[..., None, None].expand(1, 2, 1, 4, 4), views, ScoreConfig(), scores)
    assert bool(nothing.view_scores.isfinite().all()), "a sample has a score"
