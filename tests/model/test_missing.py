"""Missing views: evaluation with subsets of views, both label rules, fillers, effects of modules."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from training import CPU, NOWHERE, TINY, load, train

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.evaluation.data import with_views
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import evaluate_subsets, loss_per_missing_view, subsets_of
from mvad.model.idif.detector import Idif
from mvad.model.idif.effects import module_effects, rises
from mvad.model.metrics.bootstrap import paired_difference
from mvad.model.missing.filled_detector import FilledDetector
from mvad.model.missing.methods import ReconstructConfig
from mvad.model.missing.reconstruct import Reconstruct
from mvad.model.missing.retrieve import Retrieve
from mvad.model.registry import configure
from mvad.model.training.context import FitContext
from mvad.progress import Silent


@pytest.fixture(scope="module")
def gear_run(trained: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(trained("idif", "mvtec3d"), tmp_path_factory.mktemp("missing") / "run"))


@pytest.fixture
def learnt_run(workspace: Path, tmp_path: Path) -> Path:
    """Return a run whose network has learnt something, which takes a minute."""
    keys = {"teacher": "random", "train.student_steps": 40, "train.head_steps": 3, "dropout.p": 0.0}
    train(tmp_path / "run", workspace / "shards" / "mvtec3d" / "gear", **keys)
    return tmp_path / "run"


def test_subsets_of_views_are_all_or_a_number_of_each_size() -> None:
    assert len(subsets_of(5)) == 31
    some = subsets_of(5, 3)
    assert [sum(len(s) == n for s in some) for n in range(1, 6)] == [3, 3, 3, 3, 1]
    assert some[0] == (0, 1, 2, 3, 4)


def test_evaluation_of_some_views_does_not_depend_on_the_others(gear_run: Path, workspace: Path) -> None:
    results = evaluate_run(gear_run, workspace / "shards", NOWHERE, Silent(), [0, 3])
    assert list(results.views) == [0, 3]
    assert (gear_run / "results-views-0-3.json").exists()
    assert not (gear_run / "results.json").exists()
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    for sample in results.samples:
        assert [score is None for score in sample.view_scores] == [False, True, True, False, True]
        assert (gear_run / sample.picture).parent.name == "maps-views-0-3"
    detector = load(gear_run)
    batch = with_views(data.batch([0]), [0, 3])
    black = replace(batch, rgb=torch.zeros_like(batch.rgb))
    black.rgb[:, [0, 3]] = batch.rgb[:, [0, 3]]
    assert torch.equal(detector.score(batch).view_scores, detector.score(black).view_scores)
    with pytest.raises(BadInput, match="views 0 to 4"):
        evaluate_run(gear_run, workspace / "shards", NOWHERE, Silent(), [5])


class Oracle:
    """Detector that returns the labels of the present views."""

    def score(self, batch):  # type: ignore[no-untyped-def]
        from mvad.model.detector import AnomalyMaps

        scores = torch.where(batch.present, batch.view_label.float(), -torch.inf)
        return AnomalyMaps(torch.zeros(batch.mask.shape), scores, scores.amax(dim=1))


def test_both_label_rules_and_the_oracle(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    rows = evaluate_subsets(Oracle().score, data, subsets_of(len(data.views)), Silent())
    assert len(rows) == 31
    for row in rows:
        assert row.s_auroc_visible in (None, 1.0), "the oracle is perfect under the label of the present views"
        assert row.s_auroc_full == row.oracle_full
        shown = torch.zeros(len(data.views), dtype=torch.bool)
        shown[list(row.views)] = True
        batch = data.batch(range(len(data)))
        hidden = (batch.label & ~(batch.view_label & shown).any(dim=1)).sum() / batch.label.sum()
        assert row.oracle_full == pytest.approx(1 - float(hidden) / 2)


def test_the_loss_per_missing_view_is_a_slope() -> None:
    figures = {tuple(range(5 - m)): 0.9 - 0.02 * m for m in range(5)}
    assert loss_per_missing_view(figures, 5) == pytest.approx(-0.02)


def test_retrieval_finds_the_same_training_sample(gear_run: Path, workspace: Path) -> None:
    detector = load(gear_run)
    assert isinstance(detector, Idif)
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    filler = Retrieve(detector.config, detector.spec, detector.teacher, CPU)
    filler.bank = {}
    filler.fit(data, FitContext(gear_run, Silent(), lambda figures: None))
    whole = detector.images(data.batch([2]))
    part = detector.images(with_views(data.batch([2]), [1, 4]))
    filled = filler.fill(part)
    assert filled.present.all()
    assert (filled.images - whole.images).abs().max() <= 0.5, "the same views, up to rounding to grey levels"
    assert torch.equal(filled.seen, whole.seen)
    assert torch.equal(filled.images[:, [1, 4]], part.images[:, [1, 4]])
    complete = FilledDetector(detector, filler)
    answer = complete.score(with_views(data.batch([2]), [1, 4]))
    assert torch.isinf(answer.view_scores[0, [0, 2, 3]]).all()
    assert torch.allclose(
        answer.view_scores[0, [1, 4]], detector.score(data.batch([2])).view_scores[0, [1, 4]], rtol=0.05, atol=0.02
    )


def test_retrieval_without_a_complete_training_sample_is_an_error(gear_run: Path, workspace: Path, tmp_path: Path) -> None:
    detector = load(gear_run)
    assert isinstance(detector, Idif)
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    data._small["present"][:, 0] = 0
    filler = Retrieve(detector.config, detector.spec, detector.teacher, CPU)
    with pytest.raises(BadInput, match="no training sample has all views"):
        filler.fit(data, FitContext(tmp_path, Silent(), lambda figures: None))


@pytest.mark.thorough(6)
def test_generated_views_are_better_than_grey(learnt_run: Path, workspace: Path) -> None:
    detector = load(learnt_run)
    assert isinstance(detector, Idif)
    config, _ = configure(
        "demo", "reconstruct", [("test", {**TINY, "reconstruct.steps": 150, "reconstruct.width": 8, "reconstruct.lr": 6e-3})]
    )
    assert isinstance(config, ReconstructConfig)
    filler = Reconstruct(config, detector.spec, detector.teacher, CPU)
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    part = detector.images(with_views(data.batch([0, 1, 2, 3]), [0, 1, 2, 3]))
    truth = detector.images(data.batch([0, 1, 2, 3])).images[:, 4]
    grey = (truth - torch.tensor(detector.teacher.fill).view(3, 1, 1)).abs().mean()
    filler.fit(data, FitContext(learnt_run, Silent(), lambda figures: None))
    filled = filler.fill(part)
    assert torch.equal(filled.images[:, :4], part.images[:, :4])
    assert (filled.images[:, 4] - truth).abs().mean() < 0.9 * grey


@pytest.mark.thorough(6)
def test_replacing_a_modules_output_raises_the_distillation_loss(learnt_run: Path, workspace: Path) -> None:
    detector = load(learnt_run)
    assert isinstance(detector, Idif)
    before = {name: tensor.clone() for name, tensor in detector.state().items()}
    losses = module_effects(detector, ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train"), Silent(), batch=2)
    assert losses["f_c = 0"] > 1.01 * losses["as trained"]
    assert losses["P_n = P_0"] != losses["as trained"]
    assert losses["P_n of another sample"] != losses["as trained"]
    others = "f_s of the other views of another sample"
    assert losses[others] != losses["as trained"]
    alike = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train").subset([0, 0])
    same = module_effects(detector, alike, Silent(), batch=2)
    assert same[others] == pytest.approx(same["as trained"], rel=1e-5), "the other views of an equal sample"
    assert rises(losses)["f_c = 0"] == pytest.approx(losses["f_c = 0"] / losses["as trained"] - 1)
    assert not {"as trained", "angles moved"} & rises(losses).keys()
    assert losses["view conditions shuffled"] != losses["as trained"]
    assert losses["angles moved"] > 0
    after = detector.state()
    assert all(torch.equal(before[name], after[name]) for name in before), "the network is restored"


def test_the_bootstrap_separates_different_scores_only() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([False, True], 60)
    strong = rng.standard_normal((3, 120)) + 3 * labels
    weak = rng.standard_normal((2, 120)) + 0.3 * labels
    difference = paired_difference(strong, weak, labels, 300)
    assert difference.verdict == "above"
    assert difference.low < difference.mean < difference.high
    assert paired_difference(weak, strong, labels, 300).verdict == "below"
    same = paired_difference(weak, weak, labels, 300)
    assert (same.mean, same.low, same.high, same.verdict) == (0, 0, 0, "not separated")
    with pytest.raises(ValueError, match="good and bad"):
        paired_difference(strong, weak, np.ones(120, bool))


def test_subsets_of_many_views_are_those_of_the_whole_list_without_making_it() -> None:
    for views in (4, 7, 9):
        expected = []
        for size in range(views, 0, -1):
            of_size = list(combinations(range(views), size))
            if len(of_size) > 5:
                of_size = [of_size[int(k)] for k in np.linspace(0, len(of_size) - 1, 5).round()]
            expected += of_size
        assert subsets_of(views, 5) == expected
    many = subsets_of(36, 20)
    assert len(many) == len(set(many)) == 35 * 20 + 1
    assert all(list(subset) == sorted(set(subset)) and subset[-1] < 36 for subset in many)
