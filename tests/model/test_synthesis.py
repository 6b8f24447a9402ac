"""Pseudo anomalies: noise compared with a plain implementation, parts of a batch, patches on the scan in all views."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.config import PseudoConfig, TexturedConfig
from mvad.model.images import ViewImages, view_images
from mvad.model.input_spec import InputSpec, input_spec_of
from mvad.model.synthesis.paste import corrupt
from mvad.model.synthesis.perlin import draw_perlin, make_perlin
from mvad.model.synthesis.textures import ProceduralTextures
from mvad.model.training.parallel import ProcessGroup
from mvad.settings import resolve


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_noise(scales: tuple[int, int], angles: np.ndarray, size: int) -> np.ndarray:
    """Compute Perlin noise on a lattice pixel by pixel, in readable code."""
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) * 2 ** scales[1] / size, (j + 0.5) * 2 ** scales[0] / size
            row, column = min(int(y), 2 ** scales[1] - 1), min(int(x), 2 ** scales[0] - 1)
            total = 0.0
            for dy in (0, 1):
                for dx in (0, 1):
                    fy, fx = y - row - dy, x - column - dx
                    wy, wx = (1 - abs(f) ** 3 * (abs(f) * (abs(f) * 6 - 15) + 10) for f in (fy, fx))
                    angle = angles[row + dy, column + dx]
                    total += wy * wx * (math.cos(angle) * fx + math.sin(angle) * fy)
            out[i, j] = total * math.sqrt(2)
    return out


def test_noise_equals_perlin_noise() -> None:
    numbers = draw_perlin(6, 4, generator(5))
    numbers = replace(numbers, turns=torch.zeros(6))
    made = make_perlin(numbers, 32)
    for k in range(6):
        expected = plain_noise(tuple(numbers.scales[k].tolist()), numbers.gradients[k].numpy(), 32)
        assert np.abs(made[k].numpy() - expected).max() < 1e-4, numbers.scales[k]


def test_noise_is_rotated() -> None:
    numbers = draw_perlin(1, 4, generator(1))
    straight = make_perlin(replace(numbers, turns=torch.zeros(1)), 32)
    quarter = make_perlin(replace(numbers, turns=torch.tensor([math.pi / 2])), 32)
    assert torch.allclose(quarter[0], torch.rot90(straight[0]), atol=1e-4) or torch.allclose(
        quarter[0], torch.rot90(straight[0], -1), atol=1e-4
    )


def test_large_maps_are_enlarged_small_maps() -> None:
    numbers = draw_perlin(3, 6, generator(2))
    small = torch.nn.functional.avg_pool2d(make_perlin(numbers, 256)[:, None], 2)[:, 0]
    assert (small - make_perlin(numbers, 128)).abs().max() < 0.15


def views_of(samples: int, modalities: int) -> ViewImages:
    images = torch.rand(samples, 3, modalities, 3, 32, 32, generator=generator(9)) * 255
    return ViewImages(images, torch.ones(samples, 3, 32, 32, dtype=torch.bool), torch.ones(samples, 3, dtype=torch.bool))


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "depth")])
def test_ranks_generate_the_parts_of_one_process(modalities: tuple[str, ...]) -> None:
    spec = InputSpec(3, modalities, torch.zeros(3, 3), (0.65, 0.03))
    whole = views_of(4, len(modalities))
    expected = corrupt(whole, spec, ProceduralTextures(), PseudoConfig(), generator(3))
    for rank in range(2):
        here = slice(2 * rank, 2 * rank + 2)
        part = ViewImages(whole.images[here], whole.seen[here], whole.present[here])
        made = corrupt(part, spec, ProceduralTextures(), PseudoConfig(), generator(3), ProcessGroup(rank, 2))
        assert torch.equal(made.images, expected.images[here])
        assert torch.equal(made.mask, expected.mask[here])


@pytest.mark.parametrize("modalities", [("depth",), ("normal",)])
def test_textures_in_depth_are_used_on_request_only(modalities: tuple[str, ...]) -> None:
    spec = InputSpec(3, modalities, torch.zeros(3, 3), (0.65, 0.03))
    views = views_of(2, 1)
    native = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(4))
    texture = corrupt(views, spec, ProceduralTextures(), PseudoConfig(modality="texture"), generator(4))
    rgb = corrupt(views, replace(spec, modalities=("rgb",)), ProceduralTextures(), PseudoConfig(), generator(4))
    assert torch.equal(texture.images, rgb.images)
    assert not torch.equal(native.images, texture.images)


@pytest.mark.parametrize(("dataset", "category"), [("mvtec3d", "gear"), ("eyecandies", "dome")])
def test_width_of_scans_and_range_of_depth_are_those_of_the_shards(dataset: str, category: str, workspace: Path) -> None:
    config, _ = resolve(TexturedConfig, [("test", {"pseudo.views": "consistent"})])
    spec = input_spec_of(ShardSet(workspace / "shards" / dataset / category, "train"), config)
    rig = files.read_sealed_json(workspace / "renders" / dataset / category / "rig.json", "a rig", "")["rig"]
    assert spec.scan_width == 160
    assert spec.depth_range == pytest.approx(((rig["near_m"] + rig["far_m"]) / 2, rig["radius_m"]))
    assert input_spec_of(ShardSet(workspace / "shards" / dataset / category, "train"), TexturedConfig()).scan_width is None


def other_shards(workspace: Path, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Return a copy of the generated shards in which a field of the training split has other values."""
    folder = shutil.copytree(workspace / "shards" / "mvtec3d" / "gear", tmp_path / "gear")
    with h5py.File(folder / "train-00000.h5", "r+") as file:
        file[name][:] = change(file[name][:])
    manifest = files.read_sealed_json(folder / "manifest.json", "a manifest", "")
    for entry in manifest["shards"]:
        entry["sha256"] = files.sha256_file(folder / entry["file"])
    files.write_sealed_json(folder / "manifest.json", manifest)
    return folder


def test_a_split_of_scans_of_several_widths_has_no_consistent_patches(workspace: Path, tmp_path: Path) -> None:
    folder = other_shards(workspace, tmp_path, "scan_size", lambda sizes: sizes + np.array([[0, 0], [0, 0], [0, 40], [80, 0]]))
    config, _ = resolve(TexturedConfig, [("test", {"pseudo.views": "consistent"})])
    with pytest.raises(
        BadInput, match=r"the scans of train have the widths 160, 200, pseudo\.views = consistent needs one; take"
    ):
        input_spec_of(ShardSet(folder, "train"), config)
    assert input_spec_of(ShardSet(folder, "train"), TexturedConfig()).depth_range is not None


def test_the_range_of_depth_is_not_guessed_from_its_coding(workspace: Path, tmp_path: Path) -> None:
    """As with the cameras of a rig file, whose near and far have no fixed relation to the radius."""
    folder = other_shards(workspace, tmp_path, "rig/range", lambda _: np.array([0.4, 1.0, 0.07]))
    assert input_spec_of(ShardSet(folder, "train"), TexturedConfig()).depth_range == pytest.approx((0.7, 0.07))


def test_photographs_have_no_scan_width(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "realiad" / "plate", "train")
    config, _ = resolve(TexturedConfig, [("test", {"pseudo.views": "consistent"})])
    with pytest.raises(BadInput, match="has no source"):
        input_spec_of(data, config)
    views = views_of(1, 1)
    spec = InputSpec(3, ("rgb",), torch.zeros(3, 3), None)
    with pytest.raises(BadInput, match="needs scans' source maps"):
        corrupt(views, spec, ProceduralTextures(), PseudoConfig(views="consistent"), generator())


def test_a_consistent_patch_lies_on_the_scan(workspace: Path) -> None:
    """Views that see the same point of the scan agree on whether it is corrupted, except for pixels at the patch's edge."""
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train", fields=["rgb", "source"])
    config, _ = resolve(TexturedConfig, [("test", {"pseudo.views": "consistent", "input.modalities": "rgb"})])
    spec = input_spec_of(data, config)
    views = view_images(data.batch([0, 1, 2, 3]), ("rgb",), 64, (127.0, 127.0, 127.0), None)
    agree, hurt_points = [], 0
    for seed in range(6):
        corrupted = corrupt(views, spec, ProceduralTextures(), config.pseudo, generator(seed))
        assert views.source is not None
        for b in range(4):
            seen = [
                dict(zip(views.source[b, v].flatten().tolist(), corrupted.mask[b, v, 0].flatten().tolist(), strict=True))
                for v in range(5)
            ]
            for v in range(1, 5):
                shared = (seen[0].keys() & seen[v].keys()) - {-1}
                agree += [seen[0][point] == seen[v][point] for point in shared]
                hurt_points += sum(seen[0][point] for point in shared)
    assert hurt_points > 100
    assert np.mean(agree) == 1, "views agree at the same point of the scan"
    independent = corrupt(views, spec, ProceduralTextures(), PseudoConfig(), generator(0))
    assert not torch.equal(independent.mask[:, 0], independent.mask[:, 1])


@pytest.mark.parametrize("modalities", [("rgb", "normal"), ("depth", "normal"), ("normal",), ("rgb", "depth", "normal")])
def test_every_view_gets_a_pseudo_anomaly_in_some_modality(modalities: tuple[str, ...]) -> None:
    """RGB alone, geometry alone, or both; without RGB there is nothing to alternate with."""
    views = views_of(24, len(modalities))
    spec = InputSpec(views.seen.shape[1], modalities, torch.zeros(views.seen.shape[1], 3), (0.6, 0.03))
    config = PseudoConfig(region="image", compact=1.0)
    masks = corrupt(views, spec, ProceduralTextures(), config, generator(5)).mask.flatten(3).any(dim=3)
    assert float(masks.any(dim=2).float().mean()) > 0.95
    alone = masks.sum(dim=2) < len(modalities)
    assert bool(alone.any()) == ("rgb" in modalities and len(modalities) > 1)
