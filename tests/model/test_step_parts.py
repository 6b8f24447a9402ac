"""Parts of a training step that do the same as the plain way with fewer kernels, or without waiting for a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_idif import spec, tiny
from torch import nn
from torch.nn import functional
from training import untrained_teacher

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.devices import moved
from mvad.model.frozen import frozen_copy
from mvad.model.idif.head import head_input
from mvad.model.idif.losses import cosine_maps
from mvad.model.idif.network import Network
from mvad.model.idif.spatial_transformer import SpatialTransformer, euler_to_matrix, rotate_voxel
from mvad.model.idif.window import Window
from mvad.model.presence import Presence
from mvad.model.synthesis import textures as of_textures
from mvad.model.synthesis.textures import FolderTextures
from mvad.model.training.numbers import Carried, HostTensor, mapped
from mvad.model.training.optimizers import Optimizers, constant, groups
from mvad.model.training.weights import CastWeights, count_no_batches

CPU = torch.device("cpu")
MASKS = {
    "all": torch.ones(3, 4).bool(),
    "two views": torch.tensor([[False, True, True, False]]).expand(3, -1),
    "by sample": torch.tensor([[True, False, True, False], [False, True, True, True], [True, False, False, False]]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_rows_of_a_presence_are_those_of_a_boolean_index(mask: torch.Tensor) -> None:
    presence, values = Presence(mask, CPU), torch.randn(3, 4, 5)
    rows = values[mask]
    assert torch.equal(presence.take(values), rows)
    spread = torch.zeros_like(values)
    spread[mask] = rows
    assert torch.equal(presence.spread(rows), spread)
    assert presence.used == sorted({int(k) for k in mask.nonzero()[:, 1]})
    parts = presence.by_input(rows)
    for k in presence.used:
        assert torch.equal(parts[k], values[mask[:, k], k])
    assert torch.equal(presence.joined(parts), rows)
    of_other_ranks = {k: torch.zeros(0, 5, requires_grad=True) for k in range(4) if k not in presence.used}
    joined = presence.joined(of_other_ranks | parts)
    assert torch.equal(joined, rows)
    if of_other_ranks:
        joined.sum().backward()
        assert all(part.grad is not None for part in of_other_ranks.values()), "their backward pass takes part in sums over ranks"
    assert presence.count == len(rows)
    assert presence.everything == bool(mask.all())


def test_presences_of_other_shapes_or_masks_have_other_keys() -> None:
    masks = [*MASKS.values(), torch.ones(4, 3).bool(), torch.ones(300, 1).bool()]
    assert len({Presence(mask, CPU).key for mask in masks}) == len(masks)
    assert Presence(MASKS["all"].clone(), CPU).key == Presence(MASKS["all"], CPU).key


@pytest.mark.parametrize("name", ["random", "tiny", "efficientnet_lite0"])
def test_a_frozen_copy_has_no_batch_norm_and_the_same_features(name: str) -> None:
    backbone = untrained_teacher(name).backbone
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and weights of a trained network
            nn.init.uniform_(module.running_mean, -1, 1), nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.uniform_(module.bias, -1, 1)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    images = torch.rand(2, 3, 64, 64) * 255
    copy = frozen_copy(backbone, lambda module: module(images), False)
    assert not [module for module in copy.modules() if isinstance(module, nn.BatchNorm2d)]
    for one, two in zip(backbone(images), copy(images), strict=True):
        assert torch.allclose(one, two, atol=1e-4 * float(one.abs().max()))
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items()), "the original is as it was"


def test_a_frozen_network_gives_the_same_features_with_views_missing() -> None:
    teacher = untrained_teacher("tiny")
    network = Network(tiny(), spec(), teacher).train()
    present = torch.ones(2, 3, dtype=torch.bool)
    images = torch.rand(2, 3, 3, 64, 64) * 255
    network(images, present, lambda shape: torch.randn(shape))  # moves the running statistics
    network.eval()
    copy = frozen_copy(network, lambda module: module(images, present), False)
    assert isinstance(copy, Network)
    present[0, 1] = False
    with torch.no_grad():
        for one, two in zip(network(images, present).levels, copy(images, present).levels, strict=True):
            assert torch.allclose(one, two, atol=1e-4 * float(one.abs().max()))
    low = frozen_copy(network, lambda module: module(images, present), True)
    assert {p.dtype for m in low.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()} == {torch.bfloat16}


def test_cast_weights_get_the_weights_of_the_step_and_give_their_gradients() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    weights, x = CastWeights(layer), torch.randn(8, 4)
    for _ in range(2):
        layer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = layer(x)
        expected.float().square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16), weights.used():
            assert layer[0].weight.dtype == torch.bfloat16
            found = layer(x)
        assert layer[0].weight.dtype == torch.float32
        assert torch.equal(found, expected)
        found.float().square().sum().backward()
        weights.give_gradients()
        for p, gradient in zip(layer.parameters(), gradients, strict=True):
            assert p.grad is not None
            assert p.grad.dtype == torch.float32
            assert torch.allclose(p.grad, gradient, rtol=1e-2, atol=1e-3)
        with torch.no_grad():
            for p in layer.parameters():  # an optimizer's step
                p.add_(0.1)


def test_weights_that_were_not_used_get_no_gradient() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    weights = CastWeights(layers)
    with weights.used():
        layers[0](torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    weights.give_gradients()
    assert layers[0].weight.grad is not None
    assert layers[1].weight.grad is None


def test_batch_norms_that_do_not_count_are_otherwise_the_same() -> None:
    torch.manual_seed(0)
    plain, uncounted = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    count_no_batches(uncounted)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        assert torch.equal(plain(x), uncounted(x))
    assert plain.state_dict().keys() == uncounted.state_dict().keys()
    assert torch.equal(plain.running_var, uncounted.running_var)  # type: ignore[arg-type]
    assert int(uncounted.num_batches_tracked) == 0  # type: ignore[arg-type]
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(plain.eval()(x), uncounted.eval()(x))


def test_gradients_of_the_cosine_in_closed_form_are_those_of_torch() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(3, 7, 4, 4), torch.randn(3, 7, 4, 4, requires_grad=True)
    weight = torch.rand(3, 4, 4)
    expected = 1 - functional.cosine_similarity(teacher, student, dim=1)
    [gradient] = torch.autograd.grad((expected * weight).sum(), student)
    [found] = cosine_maps([teacher], [student])
    assert torch.allclose(found, expected, atol=1e-6)
    (found * weight).sum().backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, gradient, atol=1e-6)
    nothing = torch.zeros(1, 7, 1, 1, requires_grad=True)
    cosine_maps([teacher[:1, :, :1, :1]], [nothing])[0].sum().backward()
    assert nothing.grad is not None
    assert bool(nothing.grad.isfinite().all())


def test_the_heads_input_in_a_window_is_that_part_of_the_whole() -> None:
    torch.manual_seed(0)
    sizes = ((16, 5), (8, 6), (4, 7))
    teacher, student = ([torch.randn(3, c, n, n) for n, c in sizes] for _ in range(2))
    window, places = Window(8, 16), torch.tensor([[0, 0], [3, 5], [8, 8]])
    whole = head_input(teacher, student)
    assert whole.shape == (3, 18, 16, 16)
    assert torch.allclose(head_input(teacher, student, window, places), window.cut(whole, places), atol=1e-5)


def test_a_voxel_is_rotated_as_by_torchs_own_grid() -> None:
    torch.manual_seed(0)
    voxel, rotation = torch.randn(2, 3, 5, 6, 7), euler_to_matrix(torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.1, -0.4]]))
    affine = torch.cat([rotation, torch.zeros(2, 3, 1)], dim=2)
    grid = functional.affine_grid(affine, list(voxel.shape), align_corners=False)
    expected = functional.grid_sample(voxel, grid, align_corners=False)
    assert torch.allclose(rotate_voxel(voxel, rotation), expected, atol=1e-5)
    assert not torch.allclose(rotate_voxel(voxel, rotation.transpose(1, 2)), expected, atol=1e-2)


def test_rotations_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    angles = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.1, -0.4]])
    config = tiny()
    transformer = SpatialTransformer(angles, config.voxel, config.stn, 4, config.voxel.size)
    voxel = torch.randn(2, config.voxel.channels, *(config.voxel.size,) * 3)
    seen: list[torch.Tensor] = []
    transformer.depth_reduction.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        transformer(voxel)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            transformer(voxel)
    assert torch.allclose(seen[1], seen[0], atol=1e-5)


def test_numbers_arrive_as_they_were_drawn_and_those_of_the_host_stay() -> None:
    numbers = {"a": (torch.arange(3), None, 2), "b": HostTensor(torch.tensor([True]))}
    assert Carried(numbers, CPU).arrive() is numbers
    changed = mapped(numbers, lambda tensor: tensor + 1)
    assert changed["a"][0].tolist() == [1, 2, 3]
    assert changed["b"] is numbers["b"]
    assert moved([torch.tensor(3)], CPU)[0] == 3


def test_textures_are_kept_up_to_a_limit_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        pixels = np.full((64, 64, 3), 50 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    source, opened = FolderTextures(tmp_path), []
    original = Image.open
    monkeypatch.setattr(of_textures.Image, "open", lambda path: opened.append(path) or original(path))
    monkeypatch.setattr(of_textures, "_most_bytes", lambda: 2 * 3 * 40 * 40)
    plan = torch.arange(4), torch.zeros(4, 2)
    first = source.ready(plan, 32)
    assert len(opened) == 4
    [crops] = source.ready(plan, 32)
    assert len(opened) == 6, "two of four fit"
    assert torch.equal(crops, first[0])
    assert [int(crop.float().mean()) for crop in crops] == [0, 50, 100, 150]
    assert source.make((crops,), 32).dtype == torch.float32


def test_a_picture_that_cannot_be_read_stops_the_step_it_was_drawn_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"a\.png: not a readable image"):
        FolderTextures(tmp_path).ready((torch.zeros(1, dtype=torch.long), torch.zeros(1, 2)), 32)


def test_an_optimizer_leaves_weights_where_the_loss_is_not_finite() -> None:
    weights = nn.Parameter(torch.ones(2))
    optimizers = Optimizers([(torch.optim.SGD(groups([([weights], 0.1)])), constant)])
    assert float(optimizers.step((weights**2).sum(), 0)) == 2
    before = weights.detach().clone()
    assert torch.isnan(optimizers.step((weights * float("nan")).sum(), 1))
    assert torch.equal(weights, before)


def test_a_batch_keeps_on_the_host_what_decides_what_is_computed(workspace: Path) -> None:
    batch = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train").batch([0])
    there = batch.to(torch.device("meta"))
    assert {there.rgb.device.type, there.seen.device.type} == {"meta"}  # type: ignore[union-attr]
    assert {there.present.device.type, there.mask.device.type, there.label.device.type} == {"cpu"}


def test_samples_in_memory_of_another_device_are_those_of_the_shards(workspace: Path) -> None:
    """The processor stands in for the device: a copy there, and batches taken by their numbers."""
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    resident = data.in_memory(device=torch.device("cpu", 0))
    assert resident.stored_bytes == data.stored_bytes > 0
    one, two = data.batch([2, 0]), resident.batch([2, 0])
    assert one.keys == two.keys
    for name in ("rgb", "depth_code", "normal", "seen", "mask"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
