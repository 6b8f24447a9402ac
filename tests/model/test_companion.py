"""IDIF with a method of another kind: standardised apart, added with equal weight, saved and loaded as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import load, train

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.companion import WithCompanion
from mvad.model.idif.detector import Idif
from mvad.model.registry import configure, method_named, methods
from mvad.model.runs import RunFolder
from mvad.model.score_scale import scale_of

KEYS = {
    "companion.kind": "padim", "score.sample": "max", "score.folds": 2, "train.student_steps": 1, "train.head_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def gear(workspace: Path) -> Path:
    return workspace / "shards" / "mvtec3d" / "gear"


@pytest.fixture(scope="module")
def run(gear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("companion") / "run"
    train(folder, gear, **KEYS)
    return folder


def test_both_are_standardised_and_added_with_equal_weight(run: Path, gear: Path) -> None:
    detector = load(run)
    assert isinstance(detector, WithCompanion)
    assert detector.scale is not None
    count = len(detector.spec.modalities)
    assert detector.scale.normals.shape[2] == 2 * count
    weights = detector.scale.weights
    assert float(weights[:count].sum()) == pytest.approx(0.5)
    assert float(weights[count:].sum()) == pytest.approx(0.5)
    batch = ShardSet(gear, "test").batch([0, 1, 2])
    found = detector.score(batch)
    assert found.image_scores is not None
    by_hand = (detector.scale.of_scores(found.image_scores) * weights).sum(dim=2)
    assert torch.allclose(found.view_scores, by_hand, atol=1e-5)
    assert set(RunFolder(run).scale_facts["weights"]) == {name for group in detector.scored for name in group}


def test_its_parts_score_as_they_do_alone(run: Path, gear: Path) -> None:
    detector = load(run)
    assert isinstance(detector, WithCompanion)
    batch = ShardSet(gear, "test").batch([0, 1])
    both = detector.score(batch).image_scores
    detector.base.scale, detector.other.scale = None, None
    own, others = detector.base.score(batch).image_scores, detector.other.score(batch).image_scores
    assert both is not None
    assert own is not None
    assert others is not None
    assert torch.equal(both, torch.cat([own, others], dim=2))


def test_without_a_scale_idifs_own_scores_are_given(run: Path, gear: Path) -> None:
    detector = load(run)
    assert isinstance(detector, WithCompanion)
    batch = ShardSet(gear, "test").batch([0, 1])
    detector.scale = None
    assert torch.equal(detector.score(batch).maps, detector.base.score(batch).maps)


def test_a_defect_that_only_one_of_them_sees_stands_out_in_both_together(
    run: Path, gear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the units of their scores."""
    detector = load(run)
    assert isinstance(detector, WithCompanion)
    generator = torch.Generator().manual_seed(0)
    units = (0.01, 100.0)
    count = len(detector.spec.modalities)
    normals = torch.cat([unit * torch.rand(20, 5, count, generator=generator) for unit in units], dim=2)
    detector.scale = scale_of(normals)
    batch = ShardSet(gear, "test").batch([0, 1, 2])
    views = detector.base.images(batch)
    for number, part in enumerate((detector.base, detector.other)):
        maps = units[number] * torch.rand(views.images[:, :, :, 0].shape, generator=generator)
        maps[number] += 3 * units[number]  # sample 0 is seen by IDIF, sample 1 by PaDiM, sample 2 is normal
        monkeypatch.setattr(part, "maps_of", lambda views, maps=maps: maps)
    scores = detector.score(batch).sample_scores
    assert scores[0] > scores[2] + 1
    assert scores[1] > scores[2] + 1


def test_the_higher_modality_of_each_is_added_where_the_highest_counts(run: Path, gear: Path) -> None:
    detector = load(run)
    assert detector.scale is not None
    before = detector.config
    detector.config = replace(before, score=replace(before.score, modalities="max"))
    found = detector.score(ShardSet(gear, "test").batch([0, 1]))
    assert found.image_scores is not None
    standardised = detector.scale.of_scores(found.image_scores)
    count = len(detector.spec.modalities)
    by_hand = (standardised[:, :, :count].amax(dim=2) + standardised[:, :, count:].amax(dim=2)) / 2
    assert torch.allclose(found.view_scores, by_hand, atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("score.scale", "none"), ("score.folds", 1)])
def test_a_companion_without_held_out_normals_is_refused(key: str, value: object, gear: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"needs scores in deviations of held-out normals; {key} = {value} gives none"):
        train(tmp_path / "run", gear, **{**KEYS, key: value})


def test_preset_best_has_a_companion_and_ablations_stand_alone() -> None:
    assert configure("best", "idif", [])[0].companion.kind == "padim"  # type: ignore[attr-defined]
    alone = [name for name, method in methods().items() if method.detector == method_named("idif").detector and name != "idif"]
    assert alone
    for name in [*alone, "retrieve", "reconstruct"]:
        assert configure("best", name, [])[0].companion.kind == "none"  # type: ignore[attr-defined]


@pytest.mark.thorough(2)
def test_without_a_companion_the_detector_is_idif_itself(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear)
    assert isinstance(load(tmp_path / "run"), Idif)
