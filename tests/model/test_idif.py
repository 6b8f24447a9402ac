"""Invariants of IDIF (method.md, section 7) and of each of its modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training import untrained_teacher

from mvad.model.backbones.protocol import Teacher
from mvad.model.idif.bottleneck import ConsistencyBottleneck, Noise
from mvad.model.idif.config import BottleneckConfig, FusionConfig, IdifConfig, VoxelConfig
from mvad.model.idif.head import SegmentationHead, head_input
from mvad.model.idif.losses import cosine_maps, distillation_loss, head_loss
from mvad.model.idif.network import Network
from mvad.model.idif.spatial_transformer import euler_to_matrix, rotate_voxel
from mvad.model.idif.training_config import DropoutConfig
from mvad.model.idif.view_dropout import draw_present
from mvad.model.idif.voxel_fusion import Attention, VoxelFusion
from mvad.model.input_spec import InputSpec
from mvad.model.registry import configure
from mvad.model.training.weights import UncountedBatchNorm2d, count_no_batches

VIEWS = 3
TINY: dict[str, Any] = {
    "input.size": 64, "encoder.channels": 16, "bottleneck.channels": 4, "voxel.channels": 4, "voxel.size": 4,
    "voxel.width": 16, "fusion.blocks": 1, "fusion.heads": 2, "decoder.widths": (16, 12, 8), "head.width": 8,
    "train.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return untrained_teacher()


def tiny(**changes: Any) -> IdifConfig:
    config = configure("demo", "idif", [("test", TINY), ("change", changes)])[0]
    assert isinstance(config, IdifConfig)
    return config


def spec(views: int = VIEWS) -> InputSpec:
    angles = torch.linspace(-0.4, 0.4, views * 3).view(views, 3)
    return InputSpec(views, ("rgb",), angles, None)


@pytest.fixture
def network(teacher: Teacher) -> Network:
    torch.manual_seed(0)
    return Network(tiny(), spec(), teacher)


def noise(seed: int = 0) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def pictures(batch: int = 2, views: int = VIEWS, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, views, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 255


ALL = torch.ones(2, VIEWS, dtype=torch.bool)


def test_specific_and_common_add_up_to_the_encoded_view() -> None:
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(8, VIEWS, BottleneckConfig(channels=3))
    encoded = torch.randn(2, VIEWS, 8, 4, 4)
    present = torch.tensor([[True, True, False], [True, False, True]])
    for drawn in (None, noise()):
        common, specific, _ = bottleneck(encoded, present, drawn)
        whole = specific + common[:, None]
        assert torch.allclose(whole[present], encoded[present], atol=1e-6)
        assert not specific[~present].any()


def test_common_features_do_not_depend_on_the_order_of_views() -> None:
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(8, VIEWS, BottleneckConfig(channels=3)).eval()
    encoded = torch.randn(2, VIEWS, 8, 4, 4)
    turned = [2, 0, 1]
    assert torch.allclose(bottleneck(encoded, ALL, None)[0], bottleneck(encoded[:, turned], ALL, None)[0], atol=1e-6)


def test_the_bottleneck_learns_to_reconstruct_the_views() -> None:
    torch.manual_seed(0)
    bottleneck = ConsistencyBottleneck(8, VIEWS, BottleneckConfig(channels=3))
    shared = torch.randn(4, 1, 8, 4, 4)
    encoded = shared + 0.1 * torch.randn(4, VIEWS, 8, 4, 4)
    present = torch.ones(4, VIEWS, dtype=torch.bool)
    optimizer = torch.optim.Adam(bottleneck.parameters(), 1e-2)
    losses = []
    for step in range(150):
        loss = bottleneck(encoded, present, noise(step))[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    bottleneck.eval()
    common = bottleneck(encoded, present, None)[0]
    some = present.clone()
    some[:, 0] = False
    subset = bottleneck(encoded, some, None)[0]
    within = (common - subset).norm(dim=1).mean()
    between = (common[:1] - common[1:2]).norm(dim=1).mean()
    assert between > 2 * within, "two samples differ more than one sample from two subsets of its views"


def test_a_dropped_view_has_exactly_no_influence(network: Network) -> None:
    present = ALL.clone()
    present[:, 1] = False
    for training in (False, True):
        network.train(training)
        outcomes = []
        for changed in (pictures(), pictures()):
            if outcomes:
                changed[:, 1] = torch.rand_like(changed[:, 1]) * 255
            state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            outcomes.append(network(changed, present, noise()))
            network.load_state_dict(state)
        for one, two in zip(outcomes[0].levels, outcomes[1].levels, strict=True):
            assert torch.equal(one[present], two[present])
        assert torch.equal(outcomes[0].bottleneck_loss, outcomes[1].bottleneck_loss)


def test_a_present_view_has_influence_on_the_others(network: Network) -> None:
    """Counterpart of the test above, which a network without any fusion would pass."""
    network.eval()
    one, two = pictures(), pictures()
    two[:, 1] = torch.rand_like(two[:, 1]) * 255
    assert (network(one, ALL).levels[2][:, 0] - network(two, ALL).levels[2][:, 0]).abs().max() > 1e-6


def test_a_dropped_view_gets_no_gradient(network: Network) -> None:
    network.train()
    present = ALL.clone()
    present[:, 1] = False
    images = pictures().requires_grad_()
    student = network(images, present, noise())
    sum(level[present].pow(2).mean() for level in student.levels).backward()  # type: ignore[union-attr]
    assert images.grad is not None
    assert not images.grad[:, 1].any()
    assert images.grad[:, 0].any()
    assert all(p.grad is None or not p.grad.any() for p in network.decoders.per_input[1].parameters())


def test_attention_to_a_missing_key_is_exactly_zero() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2)
    tokens, context = torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    is_key = torch.tensor([[True, True, False, True, False, True, True]])
    context.requires_grad_()
    attention(tokens, context, is_key).sum().backward()
    assert context.grad is not None
    assert not context.grad[0, ~is_key[0]].any()
    assert context.grad[0, is_key[0]].abs().sum() > 0


def test_all_views_present_is_the_same_as_no_mask() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2)
    tokens, context = torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    everything = torch.ones(1, 7, dtype=torch.bool)
    assert torch.allclose(attention(tokens, context, everything), attention(tokens, context), atol=1e-6)


def test_permuting_views_with_all_that_belongs_to_them_permutes_the_outputs(network: Network) -> None:
    network.eval()
    order = [2, 0, 1]
    before = network(pictures(), ALL).levels
    with torch.no_grad():
        network.bottleneck.view_offset.copy_(network.bottleneck.view_offset[order].clone())
        network.fusion.voxel_fusion.view_embedding.copy_(network.fusion.voxel_fusion.view_embedding[order].clone())
        network.fusion.voxel_fusion.plane_position.copy_(network.fusion.voxel_fusion.plane_position[order].clone())
        network.fusion.spatial_transformer.angles.copy_(network.fusion.spatial_transformer.angles[order].clone())
    network.decoders.per_input = torch.nn.ModuleList([network.decoders.per_input[k] for k in order])
    after = network(pictures()[:, order], ALL).levels
    for one, two in zip(before, after, strict=True):
        assert torch.allclose(one[:, order], two, atol=1e-5 * float(two.detach().abs().max()))


def test_a_rotation_and_its_inverse_return_the_voxel_inside_the_sphere() -> None:
    size = 24
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    voxel = (torch.sin(2 * x) + torch.cos(1.5 * y) + 0.5 * z)[None, None]
    rotation = euler_to_matrix(torch.tensor([[0.3, -0.2, 0.4]]))
    back = rotate_voxel(rotate_voxel(voxel, rotation), rotation.transpose(1, 2))
    sphere = (x**2 + y**2 + z**2) < 0.8
    assert (back - voxel)[0, 0][sphere].abs().max() < 0.05
    assert torch.allclose(rotate_voxel(voxel, torch.eye(3)[None]), voxel, atol=1e-5)


def test_euler_angles_agree_with_scipy() -> None:
    from scipy.spatial.transform import Rotation

    angles = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    assert np.allclose(euler_to_matrix(torch.from_numpy(angles)).numpy(), expected, atol=1e-6)


def test_gradients_reach_every_parameter_that_is_not_frozen(teacher: Teacher) -> None:
    torch.manual_seed(0)
    network = Network(tiny(**{"encoder.freeze_early": False}), spec(), teacher).train()
    student = network(pictures(), ALL, noise())
    (sum(level.pow(2).mean() for level in student.levels) + student.bottleneck_loss).backward()  # type: ignore[union-attr]
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without, without
    assert network.fusion.spatial_transformer.angles.grad is not None
    assert all(p.grad is None for p in teacher.backbone.parameters())


def test_freezing_keeps_weights_and_statistics(teacher: Teacher) -> None:
    network = Network(tiny(**{"encoder.freeze_early": True}), spec(), teacher).train()
    frozen = {name: t.clone() for module in network.encoder.backbones[0].early() for name, t in module.state_dict().items()}
    network(pictures(), ALL, noise()).levels[0].sum().backward()
    after = {name: t for module in network.encoder.backbones[0].early() for name, t in module.state_dict().items()}
    assert all(torch.equal(frozen[name], after[name]) for name in frozen)
    assert all(p.grad is None for module in network.encoder.backbones[0].early() for p in module.parameters())


@pytest.mark.thorough(4)
def test_the_network_can_overfit_one_batch(teacher: Teacher) -> None:
    torch.manual_seed(0)
    config = tiny(**{"decoder.widths": (48, 32, 32), "encoder.channels": 32, "voxel.size": 4})
    network = Network(config, spec(), teacher).train()
    images = pictures(1)
    present = torch.ones(1, VIEWS, dtype=torch.bool)
    target = [level.view(1, VIEWS, *level.shape[1:]) for level in teacher.features(images[0])]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(220):
        student = network(images, present, noise(step))
        maps = cosine_maps([t[0] for t in target], [s[0] for s in student.levels])
        loss = distillation_loss(maps, torch.ones(VIEWS, 64, 64))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1, f"{loss.item():.4f} over three levels"


def test_a_perfect_student_gives_a_constant_head_input() -> None:
    features = [torch.randn(2, c, s, s) for c, s in ((4, 16), (8, 8), (16, 4))]
    products = head_input(features, features)
    assert torch.allclose(products.sum(dim=1), torch.full((2, 16, 16), -3.0), atol=0.2)
    assert max(float(level.abs().max()) for level in cosine_maps(features, features)) < 1e-5
    assert SegmentationHead(28, 8).eval()(products).shape == (2, 16, 16)


def test_the_distillation_loss_is_the_mean_over_pixels_that_count() -> None:
    maps = [torch.tensor([[[0.2, 0.8], [0.0, 0.0]]])]
    weight = torch.zeros(1, 4, 4)
    weight[:, :2, 2:] = 1
    assert float(distillation_loss(maps, weight)) == pytest.approx(0.8)
    assert float(distillation_loss(maps, weight, views=3)) == pytest.approx(2.4), "eq. 1 adds the views"
    half = distillation_loss(maps, weight, total=lambda count: 2 * count)
    assert float(half) == pytest.approx(0.4), "a rank's share, where another rank has as many"


def test_the_head_loss_is_focal_plus_l1() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    p = torch.sigmoid(logits)
    of_truth = torch.where(mask > 0, p, 1 - p)
    expected = ((1 - of_truth) ** 4 * -torch.log(of_truth) + (p - mask).abs()).mean()
    assert float(head_loss(logits, mask, torch.ones(1, 2, 2), 4.0)) == pytest.approx(float(expected), rel=1e-5)


def test_a_cell_that_a_defect_half_covers_is_one_of_the_defect_in_destseg_alone() -> None:
    """A quarter of the size is the mean of the four pixels in the middle of a cell."""
    mask = torch.zeros(1, 8, 8)
    mask[:, :2] = 1  # half of the upper cells
    logits, everywhere = torch.full((1, 2, 2), 3.0), torch.ones(1, 8, 8)
    losses = [float(head_loss(logits, mask, everywhere, 4.0, half_counts=half)) for half in (True, False)]
    upper = torch.zeros(1, 2, 2)
    upper[:, 0] = 1
    p = torch.sigmoid(logits)
    of_truth = torch.where(upper > 0, p, 1 - p)
    expected = ((1 - of_truth) ** 4 * -torch.log(of_truth) + (p - upper).abs()).mean()
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    assert losses[1] > 1.5 * losses[0], "light: all four are normal"


def test_one_row_has_no_deviation_that_a_head_could_be_normalised_by() -> None:
    """The mean over a view is one value a channel: with one row it is normalised by running statistics, and they stay."""
    head = SegmentationHead(28, 8).train()
    count_no_batches(head)
    norm = head.aspp.pooled[2]
    assert isinstance(norm, UncountedBatchNorm2d)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert torch.isfinite(head(torch.randn(1, 28, 8, 8))).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())
    head(torch.randn(2, 28, 8, 8))
    assert not torch.equal(before["running_mean"], norm.running_mean)  # type: ignore[arg-type]


def test_view_dropout_draws_one_mask_per_batch_and_never_drops_all_views() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(4, 5, dtype=torch.bool)
    draws = torch.stack([draw_present(present, DropoutConfig(0.2), generator) for _ in range(2000)])
    assert bool((draws == draws[:, :1]).all()), "the same views for every sample"
    assert draws[:, 0].any(dim=1).all()
    assert abs(float((~draws[:, 0]).float().mean()) - 0.2) < 0.01
    four_missing = ((~draws[:, 0]).sum(dim=1) == 4).float().mean() * 1000
    assert 3 < float(four_missing) < 11, "5 combinations of 1.28 in 1,000 steps (method, section 2)"
    lonely = torch.tensor([[True, False, False]])
    assert draw_present(lonely, DropoutConfig(0.99), generator).tolist() == [[True, False, False]]


def test_fusion_depends_on_the_views() -> None:
    torch.manual_seed(0)
    fusion = VoxelFusion(
        8, 4, torch.eye(3).expand(VIEWS, 3, 3), VoxelConfig(4, 4, 1, 16), FusionConfig(blocks=2, self_layers=2, heads=2)
    ).eval()
    one, two = torch.randn(2, 1, VIEWS, 8, 4, 4)
    present = torch.ones(1, VIEWS, dtype=torch.bool)
    assert fusion(one, present).shape == (1, 4, 4, 4, 4)
    assert (fusion(one, present) - fusion(two, present)).abs().max() > 1e-4


def test_scratch_and_imagenet_encoders_differ(teacher: Teacher) -> None:
    same = Network(tiny(), spec(), teacher).encoder.backbones[0]
    other = Network(tiny(**{"encoder.init": "scratch"}), spec(), teacher).encoder.backbones[0]
    key = "layer3.0.conv1.weight"
    assert torch.equal(same.state_dict()[key], teacher.backbone.state_dict()[key])
    assert not torch.equal(other.state_dict()[key], teacher.backbone.state_dict()[key])
    assert replace(tiny(), seed=1).seed == 1
