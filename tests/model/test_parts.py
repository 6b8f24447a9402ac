"""Teachers, pseudo anomalies, scores, PatchCore, charts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from training import CPU, prepared, untrained_teacher

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput, MissingComponent
from mvad.model.backbones.choose import TEACHERS, choose_teacher
from mvad.model.backbones.resnet18 import ResNet18
from mvad.model.backbones.weights import LITE0_SHA256, WeightsSource, find_lite0, load_pinned
from mvad.model.baselines.patchcore import PatchCoreConfig
from mvad.model.baselines.patchcore.detector import PatchCore
from mvad.model.config import PseudoConfig, ScoreConfig
from mvad.model.images import ViewImages, view_images
from mvad.model.input_spec import InputSpec
from mvad.model.metrics.auroc import auroc
from mvad.model.paper.tables import BTF, UNKNOWN_ORIGIN, main_table, paper_s_auroc
from mvad.model.report.charts import histogram, line_chart
from mvad.model.scoring import finish_maps, image_scores, smooth
from mvad.model.synthesis.paste import box_mean, corrupt
from mvad.model.synthesis.perlin import perlin_noise
from mvad.model.synthesis.textures import FolderTextures, ProceduralTextures, load_textures, locate_textures
from mvad.model.training.context import FitContext
from mvad.progress import Silent
from mvad.settings import resolve

OFFLINE = WeightsSource(None, Path("nowhere"), offline=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["random", "tiny", "efficientnet_lite0"])
def test_a_teacher_returns_strides_4_8_16_without_gradients(name: str) -> None:
    teacher, notice = choose_teacher(name, OFFLINE, 0)
    assert name in notice
    images = torch.rand(2, 3, 64, 64) * 255
    levels = teacher.features(images)
    assert [tuple(level.shape) for level in levels] == [
        (2, c, 64 // s, 64 // s) for c, s in zip(teacher.channels, (4, 8, 16), strict=True)
    ]
    assert not any(level.requires_grad for level in levels)
    fresh = teacher.fresh(False)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), teacher.backbone.state_dict().values(), strict=True)
    )
    assert torch.allclose(teacher.features(images[:1])[2], levels[2][:1], atol=1e-4)
    deep = teacher.fresh(True).eval()
    with torch.no_grad():
        third = deep.stages(images)[2]
        assert torch.allclose(third, levels[2], atol=1e-4), "the same up to stride 16"
        assert deep.deepest(third).shape == (2, deep.deep_channels, 2, 2)


def test_the_imagenet_teacher_has_the_pinned_hash() -> None:
    path = find_lite0()
    assert path is not None, "make setup installs the extra teacher"
    assert len(load_pinned(path, LITE0_SHA256)) == 296
    assert choose_teacher("auto", OFFLINE, 0)[0].name == "efficientnet_lite0"


def test_resnet18_has_torchvisions_names_and_shapes() -> None:
    names = set(ResNet18().state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
        "layer3.1.bn2.bias",
    } <= names
    assert not any(name.startswith(("layer4", "fc")) for name in names)


def test_resnet18_without_weights_is_an_error_with_remedies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingComponent, match=r"--teacher-weights.*efficientnet_lite0"):
        choose_teacher("resnet18", OFFLINE, 0)
    with pytest.raises(BadInput, match="choose from"):
        choose_teacher("resnet50", OFFLINE, 0)
    assert set(TEACHERS) == {"auto", "resnet18", "efficientnet_lite0", "random", "tiny"}


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch /tmp/mvad-was-here",)


def test_a_pickle_is_rejected_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-f37072fd.pth"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(BadInput, match="not loaded"):
        choose_teacher("resnet18", WeightsSource(path, tmp_path, offline=True), 0)
    assert not Path("/tmp/mvad-was-here").exists()


def test_perlin_masks_differ_and_repeat_with_the_seed() -> None:
    one, same, other = (
        perlin_noise(6, 64, 6, generator(1)),
        perlin_noise(6, 64, 6, generator(1)),
        perlin_noise(6, 64, 6, generator(2)),
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.abs().max() < 1.6
    share = float((perlin_noise(300, 64, 6, generator(0)) > 0.5).float().mean())
    assert 0.02 < share < 0.25, f"{share:.3f} of the pixels"


def fake_views(modalities: int = 2, size: int = 64) -> ViewImages:
    images = torch.full((2, 3, modalities, 3, size, size), 100.0)
    seen = torch.zeros(2, 3, size, size, dtype=torch.bool)
    seen[:, :, 8:56, 8:56] = True
    return ViewImages(images, seen, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "depth"), ("rgb", "normal")])
def test_pseudo_anomalies_change_only_the_object_under_the_mask(modalities: tuple[str, ...]) -> None:
    views = fake_views(len(modalities))
    spec = InputSpec(3, modalities, torch.zeros(3, 3), (0.65, 0.03))
    corrupted = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(4))
    changed = (corrupted.images - views.images).abs().amax(dim=3) > 1e-3
    assert not changed[corrupted.mask == 0].any()
    assert not (corrupted.mask.bool() & ~views.seen[:, :, None]).any()
    assert changed.any()
    again = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(4))
    assert torch.equal(again.images, corrupted.images)
    if len(modalities) == 2:
        alike = [bool((corrupted.mask[b, v, 0] == corrupted.mask[b, v, 1]).all()) for b in range(2) for v in range(3)]
        assert not all(alike), "some views change in one modality only"


def test_depth_bumps_have_the_configured_height() -> None:
    views = fake_views(1)
    spec = InputSpec(3, ("depth",), torch.zeros(3, 3), (0.65, 0.03))
    corrupted = corrupt(views, spec, ProceduralTextures(), PseudoConfig(bump_mm=(1.0, 2.0)), generator(1))
    change = (corrupted.images - views.images).abs().amax(dim=(2, 3, 4, 5)) * 0.03 / 127.5
    peaks = change[corrupted.mask.sum(dim=(2, 3, 4)) > 0]
    assert len(peaks)
    assert (peaks > 0.00099).all()
    assert (peaks < 0.00201).all()


def facing_views(*modalities: str) -> tuple[ViewImages, InputSpec]:
    """Views full of a surface that faces the camera, and what they show."""
    views = fake_views(len(modalities), 128)
    views.seen[:] = True
    normals = views.images[:, :, modalities.index("normal")]
    normals[:, :, :2], normals[:, :, 2] = 127.5, 0.0
    return views, InputSpec(3, modalities, torch.zeros(3, 3), (0.65, 0.03))


def test_normals_differ_wherever_they_are_marked_as_defective() -> None:
    views, spec = facing_views("normal")
    marked = []
    for seed in range(4):
        corrupted = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(seed))
        normals = torch.nn.functional.normalize(corrupted.images[:, :, 0] / 127.5 - 1, dim=2)
        turned = torch.rad2deg(torch.arccos((-normals[:, :, 2]).clamp(-1, 1)))
        marked.append(turned[corrupted.mask[:, :, 0] > 0])
    turned = torch.cat(marked)
    assert len(turned) > 5000
    assert (turned < 1).float().mean() < 0.05  # a plateau has the normals of a normal part
    assert turned.median() > 5


def test_depth_and_normals_of_a_view_are_raised_to_the_same_side() -> None:
    views, spec = facing_views("depth", "normal")
    compared = 0
    for seed in range(4):
        corrupted = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(seed))
        depth = corrupted.images[:, :, 0, 0] - views.images[:, :, 0, 0]
        nearer = (depth[..., 2:] - depth[..., :-2])[..., 1:-1]  # nearer is brighter
        slope = (corrupted.images[:, :, 1, 0] - 127.5)[..., 2:-2]
        inside = -torch.nn.functional.max_pool2d(-corrupted.mask.amin(dim=2), 5, 1, 2) > 0
        both = inside[..., 2:-2] & (nearer.abs() > 1e-3) & (slope.abs() > 1e-3)
        assert (nearer.sign() == -slope.sign())[both].all()  # the surface z(x, y) has the normal (dz/dx, dz/dy, -1)
        compared += int(both.sum())
    assert compared > 1000


@pytest.mark.parametrize("width", [1, 3, 9])
def test_means_over_squares_by_columns_and_rows_are_those_of_the_squares(width: int) -> None:
    maps = torch.rand(2, 1, 12, 20, generator=generator())
    assert torch.allclose(box_mean(maps, width), torch.nn.functional.avg_pool2d(maps, width, 1, width // 2), atol=1e-6)


def test_procedural_textures_are_used_on_request_only(no_textures: None, tmp_path: Path) -> None:
    with pytest.raises(MissingComponent, match="--textures procedural"):
        locate_textures("", tmp_path / "none")
    assert load_textures(locate_textures("procedural", tmp_path)).name == "procedural"
    with pytest.raises(BadInput, match="no JPEG or PNG"):
        load_textures(str(tmp_path))


@pytest.mark.real
def test_real_dtd_textures_are_drawn(real_data: Path) -> None:
    textures = FolderTextures(real_data / "dtd" / "images")
    assert "60 pictures" in textures.name
    drawn = textures.make(textures.ready(textures.plan(8, 128, generator()), 128), 128)
    assert drawn.shape == (8, 3, 128, 128)
    assert float(drawn.std()) > 10


def test_views_are_averaged_over_the_object_and_filled_elsewhere(workspace: Path) -> None:
    batch = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test").batch([0])
    depth_range = (0.65, 0.05)
    full = view_images(batch, ("rgb", "depth"), 64, (127.0, 127.0, 127.0), depth_range)
    half = view_images(batch, ("rgb", "depth"), 32, (127.0, 127.0, 127.0), depth_range)
    assert full.images.shape == (1, 5, 2, 3, 64, 64)
    assert (full.images.permute(0, 1, 4, 5, 2, 3)[~full.seen] == 127).all()
    row, column = (
        int(v[0])
        for v in torch.nonzero(
            batch.seen[0, 0, ::2, ::2] & batch.seen[0, 0, 1::2, 1::2] & batch.seen[0, 0, ::2, 1::2] & batch.seen[0, 0, 1::2, ::2],
            as_tuple=True,
        )
    )
    block = batch.rgb[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].float().mean(dim=(0, 1))
    assert torch.allclose(half.images[0, 0, 0, :, row, column], block, atol=1e-3)
    with pytest.raises(BadInput, match="does not divide"):
        view_images(batch, ("rgb",), 48, (0.0, 0.0, 0.0), None)


def test_scores_depend_on_a_spot_and_not_on_the_background() -> None:
    config = ScoreConfig(pool_px=1)
    maps = torch.zeros(1, 2, 1, 256, 256)
    seen = torch.zeros(1, 2, 256, 256, dtype=torch.bool)
    seen[:, :, 50:200, 50:200] = True
    maps[0, 0, 0, 100:110, 100:110] = 1.0
    maps[0, 1, 0, 0:40, 0:40] = 9.0
    cleaned = smooth(maps, seen[:, :, None], config)
    views = ViewImages(torch.zeros(1, 2, 1, 3, 256, 256), seen, torch.ones(1, 2, dtype=torch.bool))
    answer = finish_maps(cleaned, views, config)
    assert answer.view_scores.tolist() == [[1.0, 0.0]]
    assert answer.sample_scores.tolist() == [0.5], "the mean of the two highest views"
    assert finish_maps(cleaned, views, replace(config, sample="max")).sample_scores.tolist() == [1.0]
    assert float(image_scores(maps[..., ::2, ::2], config)[0, 0, 0]) == pytest.approx(1.0)


def test_a_constant_added_to_all_maps_and_scores_changes_no_figure() -> None:
    """Baselines once wrote 0 off the object, which is higher than all values of a method whose maps are negative."""
    draw = torch.Generator().manual_seed(0)
    seen = torch.rand(6, 3, 32, 32, generator=draw) > 0.4
    present = torch.ones(6, 3, dtype=torch.bool)
    present[2, 1] = False
    views = ViewImages(torch.zeros(6, 3, 2, 3, 32, 32), seen, present)
    maps = -5 - torch.rand(6, 3, 2, 32, 32, generator=draw)
    defect = torch.rand(6, 3, 32, 32, generator=draw) > 0.9
    labels = torch.tensor([True, False] * 3).numpy()
    figures = []
    for shift in (0.0, 10.0):
        for scores in (None, maps.amax(dim=(-2, -1)) + shift):
            found = finish_maps(maps + shift, views, ScoreConfig(), scores)
            assert torch.allclose(found.maps[~seen & present[:, :, None, None]].max(), found.maps.amin(dim=(1, 2, 3)).max())
            pixels = [found.maps[present].flatten().numpy(), defect[present].flatten().numpy()]
            figures.append((auroc(found.sample_scores.numpy(), labels), auroc(*pixels)))
    assert figures[0] == pytest.approx(figures[2], abs=1e-6)
    assert figures[1] == pytest.approx(figures[3], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60))
def test_auroc_equals_scikit_learns_ties_included(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if labels.all() or not labels.any():
        assert np.isnan(auroc(scores, labels))
        return
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_patchcore_scores_a_patch_that_no_normal_view_has_highest(workspace: Path, tmp_path: Path) -> None:
    from mvad.model.training.context import FitContext
    from mvad.progress import Silent

    data = ShardSet(workspace / "shards" / "realiad" / "plate", "train")
    teacher, _ = choose_teacher("efficientnet_lite0", OFFLINE, 0)
    config, _ = resolve(PatchCoreConfig, [("test", {"model": "patchcore", "input.size": 64})])
    method = PatchCore(config, InputSpec(5, ("rgb",), torch.zeros(5, 3), None), teacher, CPU)
    method.fit(data, FitContext(tmp_path, Silent(), lambda figures: None))
    batch = data.batch([0])
    clean = method.score(batch)
    corrupted = batch.rgb.clone()
    corrupted[0, 1, 28:40, 28:40] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    found = method.score(replace(batch, rgb=corrupted))
    assert found.view_scores[0].max() > 1.15 * clean.view_scores[0].max()
    assert found.sample_scores[0] > clean.sample_scores[0]
    assert int(found.view_scores[0].argmax()) == 1
    row, column = divmod(int(found.maps[0, 1].argmax()), 64)
    assert 22 <= row <= 46
    assert 22 <= column <= 46
    again = PatchCore(config, InputSpec(5, ("rgb",), torch.zeros(5, 3), None), teacher, CPU)
    again.fit(data, FitContext(tmp_path, Silent(), lambda figures: None))
    assert all(torch.equal(again.banks[name], bank) for name, bank in method.banks.items()), "seeded"


def test_the_greedy_coreset_covers_better_than_a_random_one() -> None:
    teacher, _ = choose_teacher("random", OFFLINE, 0)
    config, _ = resolve(PatchCoreConfig, [("test", {"model": "patchcore", "patchcore.coreset": 0.02})])
    method = PatchCore(config, InputSpec(1, ("rgb",), torch.zeros(1, 3), None), teacher, CPU)
    patches = torch.cat([torch.randn(990, 16, generator=generator()), torch.randn(10, 16, generator=generator(1)) + 9])
    chosen = method._coreset(patches, method._generator("bank"))
    assert len(chosen) == 20
    reach = torch.cdist(patches, chosen).min(dim=1).values.max()
    random = patches[torch.randperm(1000, generator=generator(2))[:20]]
    assert reach < torch.cdist(patches, random).min(dim=1).values.max()


def test_the_papers_figures_are_package_data() -> None:
    assert paper_s_auroc("mvtec3d", "cable_gland", "idif") == 96.1
    assert paper_s_auroc("mvtec3d", "cable_gland", "patchcore") is None, "the row of that name is another method's"
    assert main_table("mvtec3d")["cable_gland", BTF].s_auroc == 74.8
    assert paper_s_auroc("eyecandies", "CandyCane", "idif") == 88.6
    assert paper_s_auroc("eyecandies", "CandyCane", "patchcore") is None
    assert main_table("eyecandies")["CandyCane", UNKNOWN_ORIGIN].s_auroc == 44.8
    assert paper_s_auroc("realiad", "audiojack", "idif") == 96.1
    assert paper_s_auroc("mvtec3d", "gear", "idif") is None


def test_charts_are_svg_with_their_names_escaped() -> None:
    line = line_chart("<a>", [("x & y", np.array([0.0, 1.0]), np.array([0.0, 2.0]))], "x", "y")
    bars = histogram("b", [("g", np.array([1.0, 2.0])), ("h", np.array([3.0]))], "s")
    assert "&lt;a&gt;" in line
    assert "x &amp; y" in line
    assert bars.count("<rect") == 40


def test_patchcore_scores_an_image_without_patches_lowest_and_finite() -> None:
    detector = PatchCore(PatchCoreConfig(), InputSpec(1, ("rgb",), torch.zeros(1, 3), None), untrained_teacher("tiny"), CPU)
    patches, counts = torch.rand(2, 4, 4, 8, generator=generator()), torch.zeros(2, 4, 4, dtype=torch.bool)
    counts[0, 1, 2] = True
    planes, scores = detector._compare(patches, counts, torch.rand(5, 8, generator=generator(1)))
    assert float(scores[0]) > float(scores[1]) == 0
    assert not planes[1].any()


@pytest.mark.parametrize("model", ["patchcore", "padim"])
def test_a_view_that_no_training_sample_shows_is_named(
    model: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    ready = prepared(data, model)[0]
    shown = ready.detector.features.each_sample

    def without_view_2(train: ShardSet):  # type: ignore[no-untyped-def]
        for views in shown(train):
            present = views.present.clone()
            present[:, 1] = False
            seen = views.seen.clone()
            seen[:, 1] = False
            yield replace(views, present=present, seen=seen)

    monkeypatch.setattr(ready.detector.features, "each_sample", without_view_2)
    with pytest.raises(BadInput, match="view 2 of 5: none of the samples"):
        ready.detector.fit(data, FitContext(tmp_path, Silent(), lambda figures: None))
