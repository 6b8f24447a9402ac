"""Scales inside IDIF: nothing grows without bound, nothing drowns what it is added to, and learning rates mean DeSTSeg's."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from training import untrained_teacher

from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.idif.bottleneck import ConsistencyBottleneck
from mvad.model.idif.config import BottleneckConfig, DecoderConfig, IdifConfig, SpatialTransformerConfig, VoxelConfig
from mvad.model.idif.decoder import Decoders, ViewDecoder
from mvad.model.idif.detector import Idif
from mvad.model.idif.network import VoxelRoute
from mvad.model.idif.optimizers import head_optimizers, student_optimizers
from mvad.model.idif.spatial_transformer import SpatialTransformer, euler_to_matrix
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.paper.tables import TABLES
from mvad.model.registry import configure, make_detector
from mvad.model.scoring import smooth
from mvad.model.synthesis.paste import Corrupted, corrupt, corrupt_by_plan
from mvad.model.synthesis.textures import ProceduralTextures
from mvad.model.training.optimizers import Optimizers, groups

VIEWS, BATCH, SIZE = 3, 2, 64
TINY: dict[str, Any] = {
    "input.size": SIZE, "encoder.channels": 16, "bottleneck.channels": 4, "voxel.channels": 4, "voxel.size": 4, "voxel.patch": 1,
    "voxel.width": 16, "fusion.blocks": 1, "fusion.heads": 2, "decoder.widths": (16, 12, 8), "head.width": 8,
    "train.precision": "float32", "pseudo.textures": "procedural",
}  # fmt: skip
ALL = torch.ones(BATCH, VIEWS, dtype=torch.bool)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return untrained_teacher()


def spec() -> InputSpec:
    return InputSpec(VIEWS, ("rgb",), torch.linspace(-0.4, 0.4, VIEWS * 3).view(VIEWS, 3), None)


def configured(preset: str = "small", **changes: Any) -> IdifConfig:
    config = configure(preset, "idif", [("test", TINY), ("change", changes)])[0]
    assert isinstance(config, IdifConfig)
    return config


def detector(teacher: Teacher, preset: str = "small", **changes: Any) -> Idif:
    return Idif(configured(preset, **changes), spec(), teacher, torch.device("cpu"))


def views(seed: int = 0, batch: int = BATCH) -> ViewImages:
    images = torch.rand(batch, VIEWS, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 255
    seen = torch.zeros(batch, VIEWS, SIZE, SIZE, dtype=torch.bool)
    seen[..., 8:56, 8:56] = True
    return ViewImages(images, seen, torch.ones(batch, VIEWS, dtype=torch.bool))


def rms(values: torch.Tensor) -> float:
    return float(values.detach().pow(2).mean().sqrt())


def scaled(module: torch.nn.Module, factor: float) -> None:
    """Multiply all weights of a module."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


def drawn(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [1.0, 50.0])
def test_the_encoders_features_have_deviation_one_whatever_the_scale_of_the_lift(teacher: Teacher, factor: float) -> None:
    network = detector(teacher).network.train()
    scaled(network.encoder.lifts, factor)
    assert rms(network.encoder(views().images.flatten(1, 2), ALL).deepest) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [1.0, 50.0])
def test_the_bottlenecks_noise_counts_whatever_the_scale_of_its_code(factor: float) -> None:
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(16, VIEWS, BottleneckConfig(channels=8))
    scaled(bottleneck.mean, factor)
    with torch.no_grad():
        bottleneck.log_variance.weight.zero_()
        assert bottleneck.log_variance.bias is not None
        bottleneck.log_variance.bias.fill_(-20)  # as little noise as training could ask for
    encoded = torch.randn(BATCH, VIEWS, 16, 4, 4)
    clean, noisy = (bottleneck(encoded, ALL, draw)[0] for draw in (None, drawn))
    assert 0.2 < rms(noisy - clean) / rms(clean) < 0.5


@pytest.mark.parametrize("channels", [2, 8])
def test_the_code_learns_whatever_its_number_of_channels(channels: int) -> None:
    """A layer norm over two channels would be a sign, which has no gradient."""
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(16, VIEWS, BottleneckConfig(channels=channels))
    bottleneck(torch.randn(BATCH, VIEWS, 16, 4, 4), ALL, drawn)[2].backward()
    assert bottleneck.mean.weight.grad is not None
    assert bottleneck.lift.weight.grad is not None
    assert rms(bottleneck.mean.weight.grad) > 0.05 * rms(bottleneck.lift.weight.grad)


@pytest.mark.thorough(6)
def test_learning_the_bottleneck_takes_what_views_have_in_common_out_of_the_specific_features() -> None:
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(8, VIEWS, BottleneckConfig(channels=6))
    encoded = torch.randn(4, 1, 8, 4, 4) + 0.3 * torch.randn(4, VIEWS, 8, 4, 4)
    present = torch.ones(4, VIEWS, dtype=torch.bool)
    optimizer = torch.optim.Adam(bottleneck.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        bottleneck(encoded, present, drawn)[2].backward()
        optimizer.step()
    specific = bottleneck.eval()(encoded, present, None)[1]
    assert rms(specific) ** 2 < 0.5 * rms(encoded) ** 2


@pytest.mark.parametrize("factor", [0.2, 1.0, 100.0])
def test_planes_have_the_scale_of_the_common_features_to_which_they_are_added(teacher: Teacher, factor: float) -> None:
    route = detector(teacher).network.fusion
    assert isinstance(route, VoxelRoute)
    scaled(route.spatial_transformer.depth_reduction, factor)
    planes = route(torch.randn(BATCH, VIEWS, 16, 4, 4), ALL)
    assert rms(planes) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("preset", ["paper", "small", "demo"])
def test_attention_is_local_at_the_start_in_every_preset(preset: str) -> None:
    assert configured(preset).fusion.position == "geometric"


def test_withheld_common_features_do_not_reach_the_decoders(teacher: Teacher) -> None:
    network = detector(teacher).network.eval()
    images = views().images.flatten(1, 2)
    assert network.bottleneck is not None

    def outputs(kept: list[bool]) -> torch.Tensor:
        return network(images, ALL, keeps_common=torch.tensor(kept)).levels[2]

    with_all, without_first = outputs([True, True]), outputs([False, True])
    assert not torch.allclose(with_all[0], without_first[0])
    assert torch.equal(with_all[1], without_first[1])
    scaled(network.bottleneck.lift, 0)
    with torch.no_grad():  # f_c = 0, and f_s = f_E in both
        assert torch.equal(outputs([True, True]), outputs([False, True]))


def test_common_features_are_withheld_in_the_first_half_of_the_steps_only(teacher: Teacher) -> None:
    steps = detector(teacher, **{"bottleneck.withhold": 0.8, "train.student_steps": 100}).training_steps
    textures = ProceduralTextures()
    drawn = (steps.draw_student(500, k, textures, torch.Generator().manual_seed(0)) for k in (0, 25, 50, 99))
    kept = [numbers.keeps_common for numbers in drawn]
    assert kept[0] is not None
    assert kept[1] is not None
    assert float((~kept[0]).float().mean()) == pytest.approx(0.8, abs=0.05)
    assert float((~kept[1]).float().mean()) == pytest.approx(0.4, abs=0.05)
    assert kept[2] is None
    assert kept[3] is None


def test_views_are_dropped_in_the_head_phase_too(teacher: Teacher) -> None:
    one = detector(teacher, **{"dropout.p": 0.9, "head.share": "view"})
    one.network.eval().requires_grad_(False)
    one.heads.train()
    batch = views()
    before = [rms(head.out.weight) for head in one.heads.per_input]  # type: ignore[union-attr,arg-type]
    mask = torch.zeros(BATCH, VIEWS, 1, SIZE, SIZE)
    mask[..., 16:32, 16:32] = 1
    optimizers = head_optimizers(one.heads, one.config.optimizer, 10)
    numbers = one.training_steps.draw(BATCH, 0, ProceduralTextures(), torch.Generator().manual_seed(0))
    one.training_steps.head_step(batch, Corrupted(batch.images, mask), optimizers, 0, numbers)
    after = [rms(head.out.weight) for head in one.heads.per_input]  # type: ignore[union-attr,arg-type]
    trained = [a != b for a, b in zip(before, after, strict=True)]
    assert any(trained)
    assert not all(trained), "with p = 0.9 most views are dropped, and the heads of dropped views do not learn"


def test_a_shared_decoder_can_tell_views_apart() -> None:
    torch.manual_seed(0)
    decoders = Decoders(VIEWS, 16, 16, (8, 12, 16), DecoderConfig(widths=(16, 12, 8), share="shared")).eval()
    plane = torch.randn(1, 1, 16, 4, 4).expand(1, VIEWS, 16, 4, 4)
    coarse = decoders(plane, (), range(VIEWS))[2]
    assert rms(coarse[:, 0] - coarse[:, 1]) > 0.2 * rms(coarse)


def test_a_plane_at_stride_8_is_decoded_at_its_own_stride() -> None:
    torch.manual_seed(0)
    decoder = ViewDecoder(16, 8, (8, 12, 16), DecoderConfig(widths=(16, 12, 8))).eval()
    plane = torch.randn(1, 16, 8, 8)
    checks = torch.ones(8, 8)
    checks[::2, ::2], checks[1::2, 1::2] = -1, -1  # what an average over 2 x 2 cells does not see
    first, second, third = (
        rms(a - b) for a, b in zip(decoder(plane, ()), decoder(plane + checks, ()), strict=True)
    )  # fmt: skip
    assert first > 1e-2
    assert second > 1e-2
    assert third < 1e-5


@pytest.mark.parametrize("size", [64, 128, 512])
def test_maps_are_averaged_over_the_same_part_of_a_view_at_every_size(size: int) -> None:
    def width(side: int) -> float:
        maps = torch.zeros(1, side, side)
        maps[0, side // 2, side // 2] = 1
        config = configured().score
        return float((smooth(maps, torch.ones(1, side, side, dtype=torch.bool), config) > 0).any(dim=1).sum()) / side

    assert width(size) == pytest.approx(width(256), abs=1.01 / size)


def test_a_step_of_the_decoders_is_that_of_a_sum_over_destsegs_batch(teacher: Teacher) -> None:
    def change(images: int) -> torch.Tensor:
        keys = {"optimizer.kind": "destseg", "optimizer.student_lr": 1e-3, "optimizer.clip_norm": 1e9, "dropout.p": 0.0}
        keys |= {"loss.images": images}
        one = detector(teacher, **keys)
        one.network.train()
        batch, weight = views(), one.network.decoders.per_input[0].stage16[0].conv1.weight  # type: ignore[union-attr,index]
        before = weight.detach().clone()
        clean = tuple(level.view(BATCH, VIEWS, *level.shape[1:]) for level in one.teacher.features(batch.images.flatten(0, 2)))
        optimizers = student_optimizers(one.network, one.config.optimizer, 1.0, 10)
        generator = torch.Generator().manual_seed(0)
        mask = torch.zeros(BATCH, VIEWS, 1, SIZE, SIZE)
        numbers = one.training_steps.draw_student(BATCH, 0, ProceduralTextures(), generator)
        one.training_steps.student_step(batch, Corrupted(batch.images, mask), clean, optimizers, 0, numbers)
        return weight.detach() - before  # type: ignore[no-any-return]

    ratio = change(32).norm() / change(1).norm()
    assert float(ratio) == pytest.approx(32, rel=0.05)


@pytest.mark.thorough(6)
def test_preset_paper_does_not_diverge_at_destsegs_learning_rates(teacher: Teacher) -> None:
    one = detector(teacher, "paper")
    assert one.config.optimizer.student_lr == 0.4
    optimizers = student_optimizers(one.network, one.config.optimizer, one.config.encoder.lr_scale, 30)
    scales, losses = [], []
    one.network.encoder.register_forward_hook(lambda module, inputs, out: scales.append(rms(out.deepest)))
    one.network.train()
    batch = views(batch=4)
    clean = tuple(level.view(4, VIEWS, *level.shape[1:]) for level in one.teacher.features(batch.images.flatten(0, 2)))
    for k in range(30):
        numbers = one.training_steps.draw_student(4, k, ProceduralTextures(), torch.Generator().manual_seed(k))
        changed = corrupt_by_plan(batch, numbers.plan, one.spec, ProceduralTextures(), one.config.pseudo)
        losses.append(float(one.training_steps.student_step(batch, changed, clean, optimizers, k, numbers)["loss"]))
    assert max(scales) < 3
    assert losses[-1] < 0.7 * losses[0]


def test_swapped_views_show_another_sample_and_are_marked_where_they_differ() -> None:
    config = replace(configured().pseudo, swap=1.0, probability=0.0)
    batch = views(batch=4)
    batch.images[:, :, :, :, :, : SIZE // 2] = 100  # the left half is the same in all samples
    changed = corrupt(batch, spec(), ProceduralTextures(), config, torch.Generator().manual_seed(0))
    for row in range(4):
        swapped = [view for view in range(VIEWS) if not torch.equal(changed.images[row, view], batch.images[row, view])]
        assert len(swapped) == 1
        shown = changed.images[row, swapped[0]]
        assert any(torch.equal(shown, batch.images[other, swapped[0]]) for other in range(4) if other != row)
        mask = changed.mask[row, :, 0]
        assert mask[swapped[0], :, SIZE // 2 + 3 :].mean() > 0.9
        assert not mask[swapped[0], :, : SIZE // 2 - 3].any()
        assert not mask[[view for view in range(VIEWS) if view not in swapped]].any()


@pytest.mark.parametrize("shared", [False, True])
def test_compact_masks_have_the_size_of_real_defects(shared: bool) -> None:
    config = replace(configured().pseudo, compact=1.0, views="consistent" if shared else "independent")
    column, row = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy")
    batch = views(batch=24)
    source = torch.where(batch.seen, (row * SIZE + column).expand_as(batch.seen), -1).int()
    batch = replace(batch, source=source)
    parts = replace(spec(), scan_width=SIZE)
    changed = corrupt(batch, parts, ProceduralTextures(), config, torch.Generator().manual_seed(0))
    mask = changed.mask[:, :, 0].bool()
    assert not (mask & ~batch.seen).any()
    share = mask.flatten(2).sum(dim=2) / batch.seen.flatten(2).sum(dim=2)
    assert 0.005 < float(share.median()) < 0.03
    assert float(share.max()) < 0.12
    if shared:
        assert torch.equal(mask[:, 0], mask[:, 1]), "these views show the same places of the scan"
    else:
        assert not torch.equal(mask[:, 0], mask[:, 1])
    counts = [ndimage.label(one.numpy(), np.ones((3, 3)))[1] for one in mask.flatten(0, 1)]
    assert float(np.median(counts)) <= 3
    assert float(np.mean([count <= 4 for count in counts])) > 0.9


def test_one_angle_turns_about_the_axis_of_the_first_rotation() -> None:
    """stn.transform = single: whatever the angle, what lies on the axis stays."""
    angles = torch.tensor([[0.5, 0.5, 0.2], [0.0, 0.0, 0.0], [0.0, 0.7, 0.0]])
    config = SpatialTransformerConfig(transform="single")
    made = SpatialTransformer(angles, VoxelConfig(channels=2, size=4), config, 3, 4)
    assert torch.allclose(made.matrices(), euler_to_matrix(angles), atol=1e-6), "it begins as the rig says"
    axes = made.turn_axes.clone()
    with torch.no_grad():
        made.angles += torch.tensor([[1.1], [0.4], [-0.3]])
        turned = made.matrices()
    assert torch.allclose((turned @ axes[:, :, None])[:, :, 0], axes, atol=1e-6)
    assert torch.allclose(turned @ turned.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-6)
    assert not torch.allclose(turned, euler_to_matrix(angles), atol=0.1)


@pytest.mark.parametrize("transform", ["euler", "single", "affine"])
def test_every_transform_knows_what_its_angles_were(transform: str) -> None:
    made = SpatialTransformer(
        torch.full((2, 3), 0.3),
        VoxelConfig(channels=2, size=4),
        SpatialTransformerConfig(transform=transform),
        3,
        4,  # type: ignore[arg-type]
    )
    assert torch.equal(made.initial, made.angles.detach())
    assert "initial" not in made.state_dict()


def test_missing_views_do_not_enter_the_statistics_of_decoders_of_one_view_each(teacher: Teacher) -> None:
    """One DeSTSeg per view, of which a sample lacks one: its decoder sees the others only."""
    keys = TINY | {"encoder.channels": 0, "decoder.project": False, "decoder.widths": ()}
    config, _ = configure("paper", "destseg", [("test", keys)])
    ours = Idif(config, InputSpec(VIEWS, ("rgb",), torch.zeros(VIEWS, 3), None), teacher, torch.device("cpu"))
    given = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    images = torch.rand(3, VIEWS, 3, SIZE, SIZE) * 255
    state = {name: tensor.clone() for name, tensor in ours.network.state_dict().items()}
    with torch.no_grad():
        levels = ours.network.train()(images, given).levels
    found = {
        name: tensor.clone() for name, tensor in ours.network.state_dict().items() if name.startswith("decoders.per_input.1")
    }
    assert not levels[0][1, 1].any()
    ours.network.load_state_dict(state)
    with torch.no_grad():
        whole = ours.network.train()(images[[0, 2]], given[[0, 2]]).levels
    for name, tensor in found.items():
        assert torch.allclose(tensor.float(), ours.network.state_dict()[name].float(), atol=1e-5), name
    assert torch.allclose(levels[0][[0, 2], 1], whole[0][:, 1], atol=1e-4)


@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(clip: float) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizers = Optimizers([(torch.optim.SGD(groups([([weight], 0.1)])), lambda k: 1.0)], clip)
    weight.grad = torch.tensor([1.0, math.inf])
    assert math.isnan(float(optimizers.apply(torch.tensor(1.0), 0))), "it is reported as a loss that is not finite"
    assert weight.tolist() == [1, 1]
    weight.grad = torch.tensor([1.0, 1.0])
    assert float(optimizers.apply(torch.tensor(1.0), 1)) == 1
    assert bool((weight < 1).all())


@pytest.mark.parametrize(
    ("model", "keys", "told"),
    [
        ("idif", {"decoder.widths": (64, 32)}, "decoder.widths = 64, 32 must be three: at strides 16, 8 and 4"),
        ("reconstruct", {"reconstruct.width": 30}, "reconstruct.width = 30 must be a multiple of 4"),
        ("retrieve", {"companion.kind": "padim"}, "companion.kind = padim: idif alone has a companion; leave it out"),
    ],
)
def test_keys_that_cannot_be_built_are_one_line(model: str, keys: dict[str, Any], told: str, teacher: Teacher) -> None:
    config, _ = configure("paper", model, [("test", TINY | keys)])
    with pytest.raises(BadInput, match=re.escape(told)):
        make_detector(config, InputSpec(VIEWS, ("rgb",), torch.zeros(VIEWS, 3), None), teacher, torch.device("cpu"))


def test_a_preset_makes_no_other_method_of_one() -> None:
    for model in ("idif", "ivc", "reconstruct"):
        with pytest.raises(BadInput, match=f"--preset destseg: makes destseg of {model}; take --model destseg"):
            configure("destseg", model, [])
    assert configure("destseg", "destseg", [])[0].model == "destseg"
    assert configure("destseg", "padim", [])[0].model == "padim"


def test_a_table_compares_methods_without_a_companion() -> None:
    """Preset best adds PaDiM's scores to IDIF's, and to those of no other method."""
    for table in TABLES.values():
        for model in table.models:
            config, _ = configure("best", model, [("table", table.keys)])
            assert getattr(getattr(config, "companion", None), "kind", "none") == "none"
