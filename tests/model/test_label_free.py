"""Held-out training samples: which ones they are, that nothing is fitted to them, and the figures on them."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from training import CPU, NOWHERE, StopAfter, load, packed_gears, prepared, train

from mvad import files
from mvad.cli.tables import label_free_tables
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model import calibration, fitting
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.threshold import Thresholds, left_out_scores, threshold_of
from mvad.model.holdout import Parts, held_out_keys, parts_of
from mvad.model.idif.detector import Idif
from mvad.model.idif.effects import held_out_losses
from mvad.model.label_free import LabelFree, correlation, label_free_figures, near_poses
from mvad.model.registry import make_detector, method_named
from mvad.model.report.page import build_page
from mvad.model.runs import RunFolder
from mvad.model.scoring import SAMPLE_RULES
from mvad.model.training.context import FitContext
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
SHARE = 0.3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shards of a workspace with twelve training samples, rendered at 64 pixels."""
    return packed_gears(tmp_path_factory.mktemp("holdout"), seed=5, train=12, validation=1)


@pytest.fixture(scope="module")
def held_out_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of IDIF that held out four of twelve samples."""
    run = tmp_path_factory.mktemp("held-out") / "run"
    train(run, shards / GEAR, **{"train.holdout": SHARE})
    return run


@pytest.fixture
def parts(shards: Path) -> Parts:
    return parts_of(ShardSet(shards / GEAR, "train"), SHARE)


def test_held_out_samples_are_evenly_spread_over_the_sorted_keys_whatever_their_order() -> None:
    keys = [f"gear/train/good/{number:03}" for number in range(40)]
    chosen = held_out_keys(keys, 0.2)
    assert len(chosen) == 8
    assert {int(b[-3:]) - int(a[-3:]) for a, b in itertools.pairwise(chosen)} == {5}
    for seed in range(3):
        assert held_out_keys(random.Random(seed).sample(keys, len(keys)), 0.2) == chosen
    assert len(held_out_keys(keys, 0.01)) == 2, "at least two"


def test_the_parts_of_a_split_are_disjoint_and_complete(shards: Path) -> None:
    data = ShardSet(shards / GEAR, "train")
    parts, turned = parts_of(data, SHARE), parts_of(data.subset(range(11, -1, -1)), SHARE)
    assert parts.held_out is not None
    assert len(parts.held_out) == 4
    assert sorted([*parts.fitted.keys, *parts.held_out.keys]) == sorted(data.keys)
    assert turned.held_out_keys == parts.held_out_keys
    assert parts.held_out.batch([1]).keys == (parts.held_out.keys[1],)
    assert parts_of(data, 0.0).fitted is data


@pytest.mark.thorough(6)
@pytest.mark.parametrize("model", ["mean_feature", "idif", "retrieve"])
def test_nothing_is_fitted_to_held_out_samples(
    model: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Neither the detector nor the folds of its scale."""
    kind = Idif if model in ("idif", "retrieve") else method_named(model).factory()
    fit: Callable[..., None] = kind.fit  # type: ignore[union-attr]
    fitted: list[set[str]] = []

    def recorded(self: Detector, data: ShardSet, context: FitContext) -> None:
        fitted.append(set(data.keys))
        fit(self, data, context)

    monkeypatch.setattr(kind, "fit", recorded)
    train(tmp_path / "run", shards / GEAR, model=model, **{"train.holdout": SHARE, "score.folds": 2})
    record = RunFolder(tmp_path / "run").record
    assert len(record.held_out) == 4
    assert len(fitted) == 3, "the detector and two folds"
    assert not set().union(*fitted) & set(record.held_out)
    assert len(fitted[0]) == 8
    assert RunFolder(tmp_path / "run").scale_facts["normals"] == "2 folds of 8 training samples"


@pytest.mark.thorough(12)
@pytest.mark.parametrize("model", ["idif", "mean_feature"])
def test_figures_change_no_bit_of_the_model(
    model: str, shards: Path, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    train(tmp_path / "with", shards / GEAR, model=model, **{"train.holdout": SHARE})
    assert RunFolder(tmp_path / "with").label_free is not None
    monkeypatch.setattr(fitting, "label_free_figures", lambda *arguments: None)
    monkeypatch.setattr(Idif, "held_out_losses", lambda *arguments: {})
    train(tmp_path / "without", shards / GEAR, model=model, **{"train.holdout": SHARE})
    assert RunFolder(tmp_path / "without").label_free is None
    assert (tmp_path / "with" / "model.safetensors").read_bytes() == (tmp_path / "without" / "model.safetensors").read_bytes()
    ready, _ = prepared(parts.fitted, model)
    ready.detector.fit(parts.fitted.select(["rgb", "depth"]), FitContext(tmp_path / "alone", Silent(), lambda figures: None))
    found = load(tmp_path / "with").state()
    alone = ready.detector.state()
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], alone[name]) for name in found), "as if the other samples did not exist"


def test_a_run_records_and_logs_its_figures(held_out_run: Path, shards: Path) -> None:
    folder = RunFolder(held_out_run)
    figures = folder.label_free
    assert figures is not None
    assert LabelFree.from_json(figures.to_json()) == figures
    assert list(folder.record.held_out) == held_out_keys(ShardSet(shards / GEAR, "train").keys, SHARE)
    assert figures.samples == 4
    assert figures.distillation is not None
    assert 0 < figures.distillation < 6
    assert figures.voxel_rise not in (None, 0)
    assert 0 <= (figures.held_out_auroc or 0) <= 1
    assert {kind: set(rules) for kind, rules in figures.pseudo_auroc.items()} == {
        kind: set(SAMPLE_RULES) for kind in ("all", "one")
    }
    lines = files.read_lines(held_out_run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 7], "steps, and the finished model"
    assert "held_out_distillation" not in lines[2]
    assert lines[3]["held_out_distillation"] == figures.distillation, "the student does not change after its phase"
    assert lines[3]["held_out_voxel_rise"] == figures.voxel_rise
    assert lines[7] == {"step": 7, **figures.to_log()}
    assert lines[7]["held_out_pseudo_auroc_one_top2"] == figures.pseudo_auroc["one"]["top2"]


@pytest.mark.thorough(8)
@pytest.mark.parametrize("stop", [2, 6, 9, 18])
def test_an_interruption_changes_neither_parts_nor_figures(stop: int, held_out_run: Path, shards: Path, tmp_path: Path) -> None:
    run, keys = tmp_path / "run", {"train.holdout": SHARE}
    with pytest.raises(KeyboardInterrupt):
        train(run, shards / GEAR, StopAfter(stop), **keys)
    with pytest.raises(BadInput, match=r"was made with train\.holdout = 0\.3, this run asks for 0\.2"):
        train(run, shards / GEAR, **{"train.holdout": 0.2})
    assert train(run, shards / GEAR, **keys)
    for name in ("model.safetensors", "model.json"):
        assert (run / name).read_bytes() == (held_out_run / name).read_bytes()
    assert [line["step"] for line in files.read_lines(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7, 7]


@pytest.mark.thorough(4)
def test_a_model_that_is_written_again_logs_its_figures_once(held_out_run: Path, shards: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(held_out_run, tmp_path / "run"))
    (run / "model.json").unlink()
    assert train(run, shards / GEAR, **{"train.holdout": SHARE})
    for name in ("model.json", "metrics.jsonl"):
        assert (run / name).read_bytes() == (held_out_run / name).read_bytes()


def test_without_holdout_nothing_is_recorded(workspace: Path, trained: Callable[[str, str], Path]) -> None:
    run = trained("mean_feature", "mvtec3d")
    assert RunFolder(run).label_free is None
    assert "held_out" not in files.read_sealed_json(run / "config.json", "a run", "")
    assert "label_free" not in files.read_sealed_json(run / "model.json", "a model", "")


def test_too_few_samples_and_too_large_shares_are_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"train\.holdout = 0\.2 holds out 2 of 4 training samples, and at least 3 must stay; use 0, or pack more"
    ):
        train(tmp_path / "run", workspace / "shards" / GEAR, model="mean_feature", **{"train.holdout": 0.2})
    assert not (tmp_path / "run").exists()
    for share in (0.51, -0.1):
        with pytest.raises(BadInput, match=r"train\.holdout"):
            train(tmp_path / "run", workspace / "shards" / GEAR, model="mean_feature", **{"train.holdout": share})


class Stub(Detector):
    """Detector that gives each view of a batch a score by a function."""

    def __init__(self, views: Callable[[Batch], torch.Tensor], modalities: Sequence[str] = ("rgb",)) -> None:
        self.views, self.config, self.device = views, ModelConfig(), CPU
        self.spec = SimpleNamespace(modalities=tuple(modalities), views=5)  # type: ignore[assignment]

    def fit(self, train: ShardSet, context: FitContext) -> None: ...

    def score(self, batch: Batch) -> AnomalyMaps:
        views = self.views(batch)
        return AnomalyMaps(torch.zeros(0), views, views.amax(dim=1))

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Any) -> None: ...


def by_key(scores: dict[str, float]) -> Stub:
    return Stub(lambda batch: torch.full((1, 5), scores[batch.keys[0]]))


def test_m3_is_100_for_scores_that_memorise_and_50_for_exchangeable_ones(parts: Parts) -> None:
    assert parts.held_out is not None
    every = sorted([*parts.fitted.keys, *parts.held_out.keys])
    memorised = {key: float(key in parts.held_out.keys) for key in every}
    rising = {key: float(number) for number, key in enumerate(every)}
    for scores, low, high in ((memorised, 1.0, 1.0), (rising, 0.3, 0.7), (dict.fromkeys(every, 2.0), 0.5, 0.5)):
        figures = label_free_figures(by_key(scores), parts, "label", Silent())
        assert figures is not None
        assert low <= (figures.held_out_auroc or 0) <= high
        assert (figures.distillation, figures.voxel_rise) == (None, None), "only IDIF has these"


def test_m4_is_negative_where_rare_poses_score_high(parts: Parts) -> None:
    assert parts.held_out is not None
    near = near_poses(parts.held_out, range(4), parts.fitted)
    assert near is not None
    held_out = parts.held_out.subset(range(4))
    held_out.pose_numbers, held_out.turns_deg = np.zeros(4, np.int16), np.array([0.0, 90, 180, 0])
    held_out.pose_numbers[3] = -1
    fitted = parts.fitted.subset(range(4))
    fitted.pose_numbers, fitted.turns_deg = np.array([0, 0, 0, 1]), np.array([-174.0, 171, 84, 84])
    assert near_poses(held_out, range(4), fitted).tolist() == [0, 1, 2, -1]  # type: ignore[union-attr]
    scores = dict(zip(held_out.keys, (3.0, 2.0, 1.0, -9.0), strict=True)) | dict.fromkeys(fitted.keys, 0.0)
    figures = label_free_figures(by_key(scores), Parts(fitted, held_out), "label", Silent())
    assert figures is not None
    assert figures.pose_correlation == pytest.approx(-1)
    held_out.pose_numbers = None
    assert near_poses(held_out, range(4), fitted) is None, "photographs have no poses"
    assert label_free_figures(by_key(scores), Parts(fitted, held_out), "label", Silent()).pose_correlation is None  # type: ignore[union-attr]
    assert correlation(np.array([1.0, 2, 3]), np.array([4, 4, 4])) is None
    assert correlation(np.array([1.0, 2]), np.array([4, 5])) is None


def test_m5_rises_with_what_a_detector_sees_of_the_anomaly(parts: Parts) -> None:
    assert parts.held_out is not None
    whole = {key: parts.held_out.batch([row]).rgb for row, key in enumerate(parts.held_out.keys)}
    whole |= {key: parts.fitted.batch([row]).rgb for row, key in enumerate(parts.fitted.keys)}
    noise = np.random.default_rng(0)

    def seeing(share: float) -> Stub:
        def views(batch: Batch) -> torch.Tensor:
            changed = (batch.rgb != whole[batch.keys[0]]).any(dim=-1).flatten(2).any(dim=2)  # type: ignore[union-attr]
            return share * changed.float() + (1 - share) * torch.from_numpy(noise.random((1, 5))).float()

        return Stub(views)

    blind, dim, full = (label_free_figures(seeing(share), parts, "label", Silent()) for share in (0.0, 0.5, 1.0))
    assert blind is not None
    assert dim is not None
    assert full is not None
    for kind in ("all", "one"):
        assert full.pseudo_auroc[kind] == {"max": 1.0, "top2": 1.0, "mean": 1.0}
        assert 0.2 < blind.pseudo_auroc[kind]["max"] < 0.8
        assert blind.pseudo_auroc[kind]["max"] < dim.pseudo_auroc[kind]["max"] <= 1
    assert dim.pseudo_auroc["one"]["mean"] < dim.pseudo_auroc["all"]["mean"], "a mean over views hides what one view shows"


def test_m5_draws_the_same_anomalies_for_every_run(parts: Parts) -> None:
    seen: list[list[torch.Tensor]] = []
    for _ in range(2):
        drawn: list[torch.Tensor] = []

        def views(batch: Batch, drawn: list[torch.Tensor] = drawn) -> torch.Tensor:
            drawn.append(batch.rgb.clone())  # type: ignore[union-attr]
            return torch.zeros(1, 5)

        label_free_figures(Stub(views), parts, "label", Silent())
        seen.append(drawn)
    assert len(seen[0]) == 4 + 4 + 2 * 4 * 4
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
    assert len({picture.numpy().tobytes() for picture in seen[0][8:]}) == 32, "no draw twice"


def test_m2_moves_only_where_the_network_uses_the_voxel_and_leaves_it_as_it_was(held_out_run: Path, parts: Parts) -> None:
    detector, held_out = load(held_out_run), parts.held_out
    assert isinstance(detector, Idif)
    assert held_out is not None
    network = detector.network.train()
    modes = [module.training for module in network.modules()]
    before, numbers = {name: tensor.clone() for name, tensor in detector.state().items()}, torch.get_rng_state()
    losses = held_out_losses(detector, held_out)
    assert losses["voxel_rise"] != 0
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state().items())
    by_one = held_out_losses(detector, held_out, batch=2)
    assert by_one["distillation"] == pytest.approx(losses["distillation"], rel=0.02)
    with torch.no_grad():
        for parameter in network.fusion.spatial_transformer.parameters():  # type: ignore[union-attr]
            if parameter is not network.fusion.spatial_transformer.angles:  # type: ignore[union-attr]
                parameter.zero_()
    unused = held_out_losses(detector, held_out)
    assert unused["voxel_rise"] == 0
    assert unused["distillation"] != losses["distillation"]


def test_a_network_without_voxel_has_m1_only(parts: Parts) -> None:
    ready, _ = prepared(parts.fitted, "destseg")
    assert parts.held_out is not None
    detector = make_detector(ready.config, ready.detector.spec, ready.teacher, ready.detector.device)
    assert list(detector.held_out_losses(parts.held_out)) == ["distillation"]


def test_table_and_page_show_the_figures_and_results_count_what_was_fitted(held_out_run: Path, shards: Path) -> None:
    folder = RunFolder(held_out_run)
    figures = folder.label_free
    assert figures is not None
    (table,) = label_free_tables([folder])
    console = Console(width=120, record=True)
    console.print(table)
    text = console.export_text()
    assert f"{figures.distillation:.4f}" in text
    rules = " / ".join(f"{100 * figures.pseudo_auroc['all'][rule]:.1f}" for rule in ("max", "top2", "mean"))
    assert rules in text
    results = evaluate_run(held_out_run, shards, NOWHERE, Silent())
    assert results.training_samples == 8
    page = build_page([held_out_run])
    assert "Figures to choose by without labels" in page
    assert rules in page
    assert "fused voxel is that of another sample" in page


def test_no_table_and_no_section_where_nothing_was_held_out(workspace: Path, trained: Callable[[str, str], Path]) -> None:
    assert label_free_tables([RunFolder(trained("mean_feature", "mvtec3d"))]) == []


def held_out_of(shards: Path, run: Path) -> ShardSet:
    train, keys = ShardSet(shards / GEAR, "train"), set(RunFolder(run).record.held_out)
    return train.subset([row for row, key in enumerate(train.keys) if key in keys])


def test_the_threshold_takes_held_out_samples_beside_the_validation_split(
    held_out_run: Path, shards: Path, tmp_path: Path
) -> None:
    """Also where there is no validation split, and for samples that lack views."""
    run = Path(shutil.copytree(held_out_run, tmp_path / "run"))
    (run / "threshold.json").unlink(missing_ok=True)
    detector = load(run)
    unseen = [ShardSet(shards / GEAR, "validation"), held_out_of(shards, run)]
    expected = [float(detector.score(data.batch([row])).sample_scores[0]) for data in unseen for row in range(len(data))]
    found = Thresholds(RunFolder(run), detector, shards / GEAR, 0.2, Silent())
    assert (found.whole.normals, found.whole.held_out, found.whole.kept) == (5, 4, True)
    assert found.whole.value == pytest.approx(max(expected))
    assert "from 5 normals, 4 of them held out of training" in found.describe()
    assert found.of([True, False, True, True, True]).normals == 5

    alone = Path(shutil.copytree(shards / GEAR, tmp_path / "shards"))
    manifest = files.read_sealed_json(alone / "manifest.json", "x", "y")
    manifest["shards"] = [entry for entry in manifest["shards"] if entry["split"] != "validation"]
    files.write_sealed_json(alone / "manifest.json", manifest)
    found = Thresholds(RunFolder(run), detector, alone, 0.2, Silent())
    assert (found.whole.normals, found.whole.held_out) == (4, 4)
    assert found.whole.value == pytest.approx(max(expected[1:]))


def test_each_held_out_sample_is_left_out_of_the_scale_that_it_had_a_part_in(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LEAST_VALIDATION", 4)
    train(tmp_path / "run", shards / GEAR, model="padim", **{"train.holdout": SHARE, "score.folds": 0})
    folder, detector = RunFolder(tmp_path / "run"), load(tmp_path / "run")
    assert folder.scale_facts["normals"] == "4 held-out training normals"
    threshold_of(folder, detector, shards / GEAR, 0.2, Silent())
    scores = files.read_sealed_json(tmp_path / "run" / "threshold.json", "x", "y")["scores"]
    assert detector.scale is not None
    validation = float(detector.score(ShardSet(shards / GEAR, "validation").batch([0])).sample_scores[0])
    assert scores == pytest.approx([validation, *left_out_scores(detector.scale, detector)])
    whole = [float(detector.score(held_out_of(shards, tmp_path / "run").batch([row])).sample_scores[0]) for row in range(4)]
    assert not np.allclose(scores[1:], whole)
