"""What the head says of normal samples at each position (``head.by_position``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional
from training import CPU, StopAfter, load, prepared, train

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.evaluation.data import with_views
from mvad.model.fitting import fit_run
from mvad.model.idif.detector import Idif
from mvad.model.idif.positions import PositionSums
from mvad.model.scoring import smooth
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
BY_POSITION = {"head.by_position": True, "score.map": "head", "score.calibrate": False, "score.folds": 2}


def sums_of(logits: torch.Tensor, counts: torch.Tensor, parts: int = 1) -> PositionSums:
    sums = PositionSums.of(logits.shape[1], (logits.shape[2], logits.shape[3]), CPU)
    for one, inside in zip(logits.chunk(parts), counts.chunk(parts), strict=True):
        sums.add(one, inside)
    return sums


def test_means_and_deviations_are_those_of_the_samples_around_each_position() -> None:
    """Against a loop over cells, with cells that few or no samples have."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 2, 6, 7, generator=random) * 3 - 4
    cells = torch.rand(9, 2, 6, 7, generator=random) > 0.4
    cells[:, :, 0] = False
    mean, deviation = sums_of(logits, cells.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3), parts=3).mean_and_deviation()
    x, inside, count = logits.double().numpy(), cells.numpy(), cells.sum(dim=0).numpy()
    for k in range(2):
        means, variances = np.zeros((6, 7)), np.zeros((6, 7))
        for i in range(6):
            for j in range(7):
                near = np.s_[:, k, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                means[i, j] = x[near][inside[near]].mean() if inside[near].any() else 0.0
        for i in range(6):
            for j in range(7):
                near = np.s_[:, k, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
                away = (x[near] - means[near[2:]]) ** 2
                variances[i, j] = away[inside[near]].mean() if inside[near].any() else 0.0
        weight, known = count[k] / count[k].sum(), count[k] / (count[k] + 5)
        typical = (weight * means).sum(), (weight * variances).sum()
        assert np.allclose(mean[k], known * means + (1 - known) * typical[0], atol=1e-4)
        expected = np.sqrt(known * variances + (1 - known) * typical[1] + 0.3 * typical[1])
        assert np.allclose(deviation[k], expected, atol=1e-4)


def test_a_place_where_the_head_is_unsure_of_every_part_does_not_count_and_another_does() -> None:
    random = torch.Generator().manual_seed(0)
    normals = torch.randn(40, 1, 16, 16, generator=random) - 6
    normals[:, :, 4:7, 4:7] += 6 * torch.rand(40, 1, 3, 3, generator=random) + 4
    mean, deviation = sums_of(normals, torch.ones(40, 1, 64, 64)).mean_and_deviation()
    parts = torch.randn(2, 1, 16, 16, generator=random) - 6
    parts[:, :, 4:7, 4:7] += 6 * torch.rand(2, 1, 3, 3, generator=random) + 4
    parts[1, 0, 11, 11] += 5  # a defect, of which the head is less sure than of what is normal at the other place
    judged = (parts - mean) / deviation
    assert parts[1, 0, 11, 11] < parts[0].max()
    assert judged[1, 0, 11, 11] == judged[1].max()
    assert judged[1].max() > judged[0].max() + 1


def test_a_view_that_nothing_was_learnt_of_keeps_its_logits() -> None:
    counts = torch.ones(3, 2, 16, 16)
    counts[:, 1] = 0
    mean, deviation = sums_of(torch.randn(3, 2, 4, 4) - 6, counts).mean_and_deviation()
    assert torch.equal(mean[1], torch.zeros(4, 4))
    assert torch.equal(deviation[1], torch.ones(4, 4))
    assert bool((mean[0] < -3).all())


@pytest.fixture(scope="module")
def run(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("positions") / "run"
    train(run, workspace / "shards" / GEAR, **BY_POSITION)
    return run


def test_positions_are_saved_and_the_saved_detector_scores_by_them(run: Path, workspace: Path) -> None:
    saved = safetensors.torch.load_file(run / "model.safetensors")["positions"]
    detector = load(run)
    assert isinstance(detector, Idif)
    assert torch.equal(detector.positions, saved)
    assert saved.shape == (2, 5 * len(detector.spec.modalities), 16, 16)
    data = ShardSet(workspace / "shards" / GEAR, "test", detector.spec.modalities)
    views = detector.images(data.batch([0]))
    found = detector.maps_of(views)  # which sets the networks to evaluation
    _, logits = detector.training_steps.present_logits(views)
    large = functional.interpolate(((logits - saved[0]) / saved[1])[None], size=64, mode="bilinear", align_corners=False)
    shape = (1, 5, len(detector.spec.modalities), 64, 64)
    expected = smooth(large.view(shape), views.seen[:, :, None], detector.config.score)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_view_is_judged_by_its_own_positions_when_others_are_missing(run: Path, workspace: Path) -> None:
    detector = load(run)
    assert isinstance(detector, Idif)
    assert detector.positions is not None
    data = ShardSet(workspace / "shards" / GEAR, "test", detector.spec.modalities)
    before = detector.score(with_views(data.batch([0]), [1, 3])).view_scores
    modalities = len(detector.spec.modalities)
    others = torch.tensor([k // modalities not in (1, 3) for k in range(5 * modalities)])
    detector.positions[0, others] = 100.0
    assert torch.equal(detector.score(with_views(data.batch([0]), [1, 3])).view_scores, before)
    detector.positions[0, ~others] = 100.0
    assert not torch.equal(detector.score(with_views(data.batch([0]), [1, 3])).view_scores, before)


@pytest.mark.thorough(2)
def test_an_interruption_while_positions_are_learnt_changes_nothing(run: Path, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", workspace / "shards" / GEAR, StopAfter(4 + 3 + 2), **BY_POSITION)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(tmp_path / "run", workspace / "shards" / GEAR, **BY_POSITION)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("seed", [1, 3])
def test_no_view_is_dropped_from_all_samples_by_which_scores_are_judged(seed: int, workspace: Path) -> None:
    """With a single sample, seed 1 would lose view 0, and seed 3 views 2 and 3."""
    ready, _ = prepared(ShardSet(workspace / "shards" / GEAR, "train").subset([0]), seed=seed, **{"dropout.p": 0.2})
    assert isinstance(ready.detector, Idif)
    data = ShardSet(workspace / "shards" / GEAR, "train", ready.detector.spec.modalities)
    alone = data.subset([0])
    assert torch.stack([views.present[0] for views in ready.detector._training_views(alone)]).any(dim=0).all()
    several = [views.present[0] for views in ready.detector._training_views(data)]
    assert not torch.stack(several).all(), "views are dropped, as in training"


def test_a_view_that_no_training_sample_shows_is_refused(workspace: Path, tmp_path: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "train")
    data._small["present"] = data.present & (np.arange(5) != 2)
    ready, origins = prepared(data)
    with pytest.raises(BadInput, match="view 3 of 5: none of the samples that are trained on shows it"):
        fit_run(tmp_path / "run", data, ready, origins, Silent())


@pytest.mark.thorough(2)
def test_without_the_key_the_head_gives_probabilities(workspace: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", workspace / "shards" / GEAR, **BY_POSITION | {"head.by_position": False, "score.folds": 1})
    assert "positions" not in safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    detector = load(tmp_path / "run")
    assert isinstance(detector, Idif)
    data = ShardSet(workspace / "shards" / GEAR, "test", detector.spec.modalities)
    maps = detector.maps_of(detector.images(data.batch([0])))
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
