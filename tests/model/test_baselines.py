"""Baselines compared with plain implementations of the formulas in their papers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from training import CPU, StopAfter, load, train, untrained_teacher

from mvad.datasets.shards.loader import ShardSet
from mvad.model.baselines.padim import detector as padim
from mvad.model.baselines.padim.detector import PaDiM
from mvad.model.baselines.patchcore import PatchCoreKeys
from mvad.model.baselines.patchcore import detector as patchcore
from mvad.model.baselines.patchcore.detector import PatchCore, distances, furthest_points
from mvad.model.baselines.reverse_distillation.detector import Decoder, ReverseDistillation
from mvad.model.baselines.simplenet.detector import SimpleNet
from mvad.model.baselines.uniad import UniADKeys
from mvad.model.baselines.uniad.detector import Reconstructor, neighbour_mask
from mvad.model.devices import seeded
from mvad.model.features import concatenated, smooth_upsample
from mvad.model.idif.window import Window, extent, fitted
from mvad.model.input_spec import InputSpec
from mvad.model.registry import configure


@pytest.fixture
def gear(workspace: Path) -> Path:
    return workspace / "shards" / "mvtec3d" / "gear"


def test_padim_maps_are_mahalanobis_distances_by_position(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear, model="padim", **{"input.modalities": "rgb", "padim.sigma": 0.01})
    detector = load(tmp_path / "run")
    assert isinstance(detector, PaDiM)
    data, test = ShardSet(gear, "train"), ShardSet(gear, "test")
    fitted_on = torch.cat([detector._embedding(detector.features.images(data.batch([k]))) for k in range(len(data))]).numpy()
    views = detector.features.images(test.batch([0]))
    embedding = detector._embedding(views).numpy()
    places = detector.tensors["0.rgb.places"]
    row, column = (int(axis[len(axis) // 2]) for axis in torch.nonzero(places, as_tuple=True))
    counted = [k for k in range(len(data)) if detector.features.counts(detector.features.images(data.batch([k])), 16)[0, 0].any()]
    points = fitted_on[counted, 0, 0, row, column].astype(np.float64)
    covariance = np.cov(points.T) + 0.01 * np.eye(points.shape[1])
    delta = embedding[0, 0, 0, row, column] - points.mean(axis=0)
    expected = np.sqrt(delta @ np.linalg.solve(covariance, delta))
    index = int((places.nonzero() == torch.tensor([row, column])).all(dim=1).nonzero())
    offset = torch.from_numpy(embedding[0, 0, 0, row, column]) - detector.tensors["0.rgb.mean"][index]
    assert float((detector.tensors["0.rgb.whitening"][index] @ offset).norm()) == pytest.approx(expected, rel=0.02)


def test_half_of_each_whitening_is_stored_and_wholes_of_earlier_runs_are_read(gear: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", gear, model="padim", **{"input.modalities": "rgb"})
    detector = load(tmp_path / "run")
    assert isinstance(detector, PaDiM)
    before, state = dict(detector.tensors), detector.state()
    channels = len(detector.channels)
    assert state["0.rgb.whitening"].shape[1:] == (channels * (channels + 1) // 2,)
    assert bool((before["0.rgb.whitening"].triu(1) == 0).all()), "nothing is lost"
    for stored in (state, {**before, "channels": detector.channels}):
        detector.tensors = {}
        detector.load_state(stored)
        assert all(torch.equal(detector.tensors[name], before[name]) for name in before)


def test_a_memory_bank_is_not_reduced_below_min_patches() -> None:
    bank = object.__new__(PatchCore)
    bank.config = type("C", (), {"patchcore": PatchCoreKeys(coreset=0.1, min_patches=40), "seed": 0})()  # type: ignore[assignment]
    patches = torch.randn(100, 8)
    assert len(bank._coreset(patches, bank._generator("x"))) == 40
    bank.config = type("C", (), {"patchcore": PatchCoreKeys(coreset=0.1, min_patches=400), "seed": 0})()  # type: ignore[assignment]
    assert len(bank._coreset(patches, bank._generator("x"))) == 100
    bank.config = type("C", (), {"patchcore": PatchCoreKeys(coreset=0.1), "seed": 0})()  # type: ignore[assignment]
    assert len(bank._coreset(patches, bank._generator("x"))) == 10


def test_patches_of_a_large_split_are_drawn_before_they_are_gathered(
    gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The banks are the same, and no more than the drawn patches are held."""
    keys = {"input.modalities": "rgb,normal", "patchcore.max_patches": 60, "patchcore.min_patches": 20}
    train(tmp_path / "small", gear, model="patchcore", **keys)
    monkeypatch.setattr(patchcore, "_COUNTED_FIRST", 0)
    joined: list[int] = []
    coreset = PatchCore._coreset
    monkeypatch.setattr(
        PatchCore, "_coreset", lambda self, found, *rest: (joined.append(len(found)), coreset(self, found, *rest))[1]
    )
    kept: list[int] = []
    of_next = patchcore._Draw.of_next
    monkeypatch.setattr(
        patchcore._Draw, "of_next", lambda self, places: (kept.append(len(found := of_next(self, places))), found)[1]
    )
    train(tmp_path / "large", gear, model="patchcore", **keys)
    small, large = (load(tmp_path / name).state() for name in ("small", "large"))
    assert small.keys() == large.keys()
    assert all(torch.equal(small[name], large[name]) for name in small)
    assert max(joined) == 60, "more patches than that were met"
    assert sum(kept) == sum(joined)


def test_padim_of_a_large_split_takes_several_passes(gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"input.modalities": "rgb,normal"}
    train(tmp_path / "small", gear, model="padim", **keys)
    monkeypatch.setattr(padim, "_HELD_BYTES", 1)
    monkeypatch.setattr(padim, "_BLOCK_BYTES", 30_000)
    passes: list[int] = []
    fit_input = PaDiM._fit_input
    monkeypatch.setattr(PaDiM, "_fit_input", lambda self, name, *rest: (passes.append(1), fit_input(self, name, *rest))[1])
    train(tmp_path / "large", gear, model="padim", **keys)
    assert len(passes) == 10
    small, large = (load(tmp_path / name).state() for name in ("small", "large"))
    assert small.keys() == large.keys()
    for name in small:
        assert torch.allclose(small[name].double(), large[name].double(), rtol=1e-5, atol=1e-6), name


def test_the_coreset_is_that_of_a_loop_that_reads_each_point() -> None:
    points = torch.cat([torch.randn(300, 16, generator=torch.Generator().manual_seed(1)), torch.zeros(40, 16)])
    squared, nearest = (points**2).sum(dim=1), torch.full((len(points),), torch.inf)
    latest, expected = 17, []
    for _ in range(320):  # the last ones are equal points, between which the first is taken
        expected.append(latest)
        nearest = torch.minimum(nearest, squared + squared[latest] - 2 * (points @ points[latest]))
        latest = int(nearest.argmax())
    assert furthest_points(points, torch.tensor([17]), 320).tolist() == expected


def test_patches_may_be_left_out_before_or_after_distances_are_computed(
    gear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is what a GPU and an exported graph do, where shapes must not depend on values."""
    train(tmp_path / "run", gear, model="patchcore")
    detector, batch = load(tmp_path / "run"), ShardSet(gear, "test").batch([0, 3])
    batch.seen[0, 1], batch.present[1, 2] = False, False
    before = detector.score(batch)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    after = detector.score(batch)
    assert before.image_scores is not None
    assert after.image_scores is not None
    assert bool((before.image_scores[0, 1] == -torch.inf).all()), "the view shows no object: nothing is measured there"
    assert before.view_scores[0].isfinite().tolist() == [True, False, True, True, True]
    torch.testing.assert_close(after.image_scores, before.image_scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.maps, before.maps, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough(6)
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("rd", {"rd.epochs": 12}),
        ("simplenet", {"simplenet.epochs": 8, "simplenet.noise": 0.5, "simplenet.discriminator_lr": 3e-3}),
        ("uniad", {"uniad.epochs": 25, "uniad.lr": 3e-3}),
    ],
)
def test_training_lowers_a_baselines_loss_and_resumes_bit_identically(
    model: str, keys: dict[str, float], gear: Path, tmp_path: Path
) -> None:
    import json

    import safetensors.torch

    keys = {**keys, "input.modalities": "rgb"}  # type: ignore[dict-item]
    train(tmp_path / "whole", gear, model=model, **keys)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", gear, StopAfter(5), model=model, **keys)
    train(tmp_path / "broken", gear, model=model, **keys)
    one, two = (safetensors.torch.load((tmp_path / n / "model.safetensors").read_bytes()) for n in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_reverse_distillation_maps_are_sums_over_three_levels(gear: Path, tmp_path: Path) -> None:
    train(
        tmp_path / "run",
        gear,
        model="rd",
        **{"input.modalities": "rgb", "score.region": "image", "rd.sigma": 0.01, "teacher": "random"},
    )
    detector = load(tmp_path / "run")
    assert isinstance(detector, ReverseDistillation)
    batch = ShardSet(gear, "test").batch([0])
    views = detector.features.images(batch)
    teacher = detector.features.features(views.images[0, :, 0])
    with torch.no_grad():
        student = detector.decoder.eval()(teacher)
    assert [s.shape for s in student] == [t.shape for t in teacher]
    total = torch.zeros(5, 64, 64)
    for t, s in zip(teacher, student, strict=True):
        cosine = (t * s).sum(1) / (t.norm(dim=1) * s.norm(dim=1))
        total += functional.interpolate((1 - cosine)[:, None], size=64, mode="bilinear", align_corners=False)[:, 0]
    raw = detector.score(batch).image_scores
    assert raw is not None
    assert torch.allclose(raw[0, :, 0], total.amax(dim=(1, 2)), rtol=1e-2)


def test_trained_simplenet_separates_noisy_from_normal_features(gear: Path, tmp_path: Path) -> None:
    keys = {"input.modalities": "rgb", "simplenet.epochs": 12, "simplenet.noise": 0.5, "simplenet.discriminator_lr": 3e-3}
    train(tmp_path / "run", gear, model="simplenet", **keys)
    detector = load(tmp_path / "run")
    assert isinstance(detector, SimpleNet)
    views = detector.features.images(ShardSet(gear, "train").batch([0, 1]))
    patches, chosen = detector._patches(views.images[:, :, 0].flatten(0, 1), views.seen.flatten(0, 1))
    detector.discriminator.eval()
    with torch.no_grad():
        normal = detector.adaptor(patches[chosen])
        noisy = normal + 0.5 * torch.randn(normal.shape, generator=torch.Generator().manual_seed(0))
        gap = detector.discriminator(normal).mean() - detector.discriminator(noisy).mean()
    assert gap > 0.3


def test_uniad_tokens_do_not_attend_to_their_neighbours() -> None:
    allowed = neighbour_mask(8, 7)
    at = 3 * 8 + 4
    for token in range(64):
        near = abs(token // 8 - 3) <= 3 and abs(token % 8 - 4) <= 3
        assert bool(allowed[at, token]) != near
    tiny = neighbour_mask(4, 7)
    assert tiny.any(dim=1).all(), "every token may attend to at least one token"
    assert not tiny.diagonal().any()
    torch.manual_seed(0)
    network = Reconstructor(6, 8, UniADKeys(width=8, layers=1, heads=2)).eval()
    memory = torch.randn(1, 64, 8, requires_grad=True)
    out = network.decoder[0](torch.randn(1, 64, 8), memory, network.position, network.allowed)
    out[0, at].pow(2).sum().backward()
    assert memory.grad is not None
    seen = memory.grad[0].abs().sum(dim=1) > 0
    assert torch.equal(seen, allowed[at]), "neighbouring tokens have no influence"


def test_levels_are_concatenated_at_one_size() -> None:
    levels = [torch.randn(2, 3, 16, 16), torch.randn(2, 4, 8, 8), torch.randn(2, 5, 4, 4)]
    joined = concatenated(levels, 8)
    assert joined.shape == (2, 12, 8, 8)
    for finer, coarse in ((levels[0], joined[:, :3]), (levels[2], joined[:, 7:])):
        corners = slice(None, None, 7), slice(None, None, finer.shape[-1] - 1)
        assert torch.allclose(coarse[:, :, corners[0], corners[0]], finer[:, :, corners[1], corners[1]], atol=1e-6)
    assert torch.allclose(joined[:, 3:7], levels[1], atol=1e-6)


def test_smoothing_keeps_constants_and_spreads_a_spot() -> None:
    assert torch.allclose(smooth_upsample(torch.ones(1, 8, 8), 32, 2.0), torch.ones(1, 32, 32), atol=1e-5)
    spot = torch.zeros(1, 32, 32)
    spot[0, 16, 16] = 1
    smoothed = smooth_upsample(spot, 32, 2.0)
    assert float(smoothed.sum()) == pytest.approx(1, abs=1e-3)
    assert float(smoothed.max()) == pytest.approx(1 / (2 * np.pi * 4), rel=0.05)


def test_the_heads_window_contains_the_object_or_reports_that_it_does_not() -> None:
    seen = torch.zeros(3, 64, 64, dtype=torch.bool)
    seen[0, 10:30, 20:40] = True
    seen[1, 0:12, 50:64] = True
    first, last = extent(seen, 16)
    assert first.tolist() == [[2, 5], [0, 12], [8, 8]]
    assert last.tolist() == [[7, 9], [2, 15], [8, 8]]
    window = fitted([seen], 16)
    assert window.side == 12
    places, fits = window.places(seen)
    assert fits.all()
    planes = torch.arange(3 * 16 * 16, dtype=torch.float32).view(3, 1, 16, 16)
    cut = window.cut(planes, places)
    back = window.paste(cut[:, 0], places, -1.0)
    for k in range(3):
        y, x = places[k].tolist()
        assert torch.equal(back[k, y : y + 12, x : x + 12], planes[k, 0, y : y + 12, x : x + 12])
        assert (back[k] == -1).sum() == 16 * 16 - 12 * 12
    large = torch.ones(1, 64, 64, dtype=torch.bool)
    assert not window.places(large)[1].any()
    assert fitted([large], 16).whole
    assert Window(16, 16).whole


def test_an_object_larger_than_any_in_training_gets_the_whole_image(gear: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    train(tmp_path / "run", gear, **{"input.modalities": "rgb"})
    detector = load(tmp_path / "run")
    side = detector.training_steps.window.side
    assert 0 < side <= 16
    views = detector.images(ShardSet(gear, "test").batch([0]))
    large = replace(views, seen=torch.ones_like(views.seen))
    detector.training_steps.window = Window(8, 16)
    detector.network.eval(), detector.heads.eval()
    _, windowed = detector.training_steps.present_maps(large)
    detector.training_steps.window = Window(16, 16)
    _, whole = detector.training_steps.present_maps(large)
    assert torch.allclose(windowed, whole, atol=1e-6)
    detector.training_steps.window = Window(8, 16)
    small = torch.zeros_like(views.seen)
    small[:, :, 28:36, 28:36] = True
    _, part = detector.training_steps.present_maps(replace(views, seen=small))
    assert (part[:, 0] < 1e-6).all(), "outside of the window nothing is anomalous"
    assert part.max() > 1e-3


def test_without_neighbours_patchcores_score_is_the_largest_distance() -> None:
    """As in the authors' code; eq. 7 with one neighbour would weigh every image by 0."""
    config, _ = configure("paper", "patchcore", [("test", {"patchcore.neighbours": 1, "input.size": 64})])
    detector = PatchCore(config, InputSpec(1, ("rgb",), torch.zeros(1, 3), None), untrained_teacher(), CPU)  # type: ignore[arg-type]
    bank, patches = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[[0.0, 3.0], [4.0, 1.0]]])
    planes, scores = detector._reweighted(distances(patches[0], bank)[None], torch.ones(1, 2, dtype=torch.bool), bank)
    assert planes[0].tolist() == pytest.approx([3, 1])
    assert scores.tolist() == pytest.approx([3])


def test_reverse_distillations_decoder_is_that_of_its_code() -> None:
    """Up-blocks are residual, the fused levels enter the embedding as they are, and nothing follows the last ReLU."""
    levels = [torch.randn(2, c, s, s) for c, s in ((64, 16), (128, 8), (256, 4))]
    plain, projected = Decoder((64, 128, 256), False), Decoder((64, 128, 256), True)
    assert all(bool((level >= 0).all()) for level in plain(levels))
    assert any(bool((level < 0).any()) for level in projected(levels))
    # Of de_resnet18 in blocks: transposed 2x2 on both ways, 3x3, and a plain block; of the embedding: 3C to 2C, and 2C.
    up = [2 * (2 * c * c * 4) + c * c * 9 + 2 * c * c * 9 + 2 * 5 * c for c in (256, 128, 64)]
    embed = 768 * 512 * 9 + 3 * 512 * 512 * 9 + 768 * 512 + 2 * 5 * 512
    down = 64 * 128 * 9 + 2 * 128 * 256 * 9 + 2 * (128 + 256 + 256)
    assert sum(p.numel() for p in plain.parameters()) == sum(up) + embed + down


def test_uniads_dropout_is_of_training_alone_and_leaves_other_numbers_alone() -> None:
    torch.manual_seed(0)
    network, tokens = Reconstructor(6, 8, UniADKeys(width=8, layers=1, heads=2, dropout=0.5)), torch.randn(2, 64, 6)
    before = torch.get_rng_state()
    with torch.no_grad():
        drawn = []
        for seed in (1, 1, 2):
            with seeded(seed):
                drawn.append(network(tokens))
        assert torch.equal(drawn[0], drawn[1]), "a step that is done again draws the same"
        assert not torch.allclose(drawn[0], drawn[2])
        assert torch.equal(network.eval()(tokens), network(tokens))
    assert torch.equal(torch.get_rng_state(), before)


def test_uniad_begins_as_its_code_does() -> None:
    torch.manual_seed(0)
    network = Reconstructor(152, 16, UniADKeys()).requires_grad_(False)
    assert float(network.decoder[0].query.std()) == pytest.approx(1, abs=0.02)  # type: ignore[union-attr]
    position = network.position.view(16, 16, 256)
    assert torch.equal(position[3, 5, :128], network.columns[5])
    assert torch.equal(position[3, 5, 128:], network.rows[3])
    assert 0 <= float(position.min()) < 0.01
    assert 0.99 < float(position.max()) <= 1
    bound = float(network.encoder[0].attention.query.weight.abs().max())  # type: ignore[union-attr]
    assert bound == pytest.approx((6 / (4 * 256)) ** 0.5, rel=0.01)
    assert float(network.leave.bias.abs().max()) == 0


def test_simplenets_discriminator_narrows_by_two_thirds() -> None:
    config, _ = configure("paper", "simplenet", [("test", {"input.size": 64})])
    detector = SimpleNet(config, InputSpec(1, ("rgb",), torch.zeros(1, 3), None), untrained_teacher(), CPU)  # type: ignore[arg-type]
    assert (detector.discriminator[0].in_features, detector.discriminator[0].out_features) == (384, 256)
    assert float(detector.adaptor.weight.detach().std()) == pytest.approx((2 / (384 + 384)) ** 0.5, rel=0.02), "Xavier, normal"
