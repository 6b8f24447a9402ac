"""Shapes and dtypes of every component's inputs and outputs, checked by jaxtyping while the component runs."""

from __future__ import annotations

import pytest
import torch
from beartype import beartype
from jaxtyping import Bool, Float, TypeCheckError, jaxtyped
from test_idif import noise, spec, tiny
from torch import Tensor
from training import untrained_teacher

from mvad.model.backbones.protocol import Teacher
from mvad.model.config import PseudoConfig
from mvad.model.idif.bottleneck import ConsistencyBottleneck
from mvad.model.idif.config import (
    BottleneckConfig,
    DecoderConfig,
    EncoderConfig,
    FusionConfig,
    HeadConfig,
    SpatialTransformerConfig,
    VoxelConfig,
)
from mvad.model.idif.conv3d_fusion import Conv3dFusion
from mvad.model.idif.decoder import Decoders
from mvad.model.idif.encoder import Encoder
from mvad.model.idif.head import Heads, head_input
from mvad.model.idif.losses import cosine_maps, distillation_loss, head_loss
from mvad.model.idif.network import Network, VoxelRoute
from mvad.model.idif.spatial_transformer import SpatialTransformer, euler_to_matrix
from mvad.model.idif.view_dropout import draw_present
from mvad.model.idif.voxel_fusion import VoxelFusion
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.presence import Presence
from mvad.model.synthesis.paste import corrupt
from mvad.model.synthesis.perlin import perlin_noise
from mvad.model.synthesis.textures import ProceduralTextures

checked = jaxtyped(typechecker=beartype)
Planes = Float[Tensor, "b k c h w"]
Present = Bool[Tensor, "b k"]
Levels = tuple[Float[Tensor, "b k c1 h1 w1"], Float[Tensor, "b k c2 h2 w2"], Float[Tensor, "b k c3 h3 w3"]]
B, K, C = 2, 3, 8


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return untrained_teacher()


@pytest.fixture
def present() -> Tensor:
    return torch.tensor([[True, True, False], [True, False, True]])


@checked
def run_encoder(module: Encoder, images: Float[Tensor, "b k 3 s s"], present: Present) -> Planes:
    return module(images, present).deepest


@checked
def run_bottleneck(
    module: ConsistencyBottleneck, encoded: Planes, present: Present
) -> tuple[Float[Tensor, "b c h w"], Planes, Float[Tensor, ""]]:
    return module(encoded, present, noise())


@checked
def run_fusion(module: VoxelFusion, specific: Planes, present: Present) -> Float[Tensor, "b v d d d"]:
    return module(specific, present)


@checked
def run_transformer(module: SpatialTransformer, voxel: Float[Tensor, "b v d d d"]) -> Planes:
    return module(voxel)


@checked
def run_route(module: VoxelRoute | Conv3dFusion, specific: Planes, present: Present) -> Planes:
    return module(specific, present)


@checked
def run_decoders(module: Decoders, planes: Planes) -> Levels:
    return module(planes, (torch.zeros(B, K, 1, 1, 1),) * 2, range(K))


@checked
def run_heads(module: Heads, products: Float[Tensor, "n c h w"], present: Presence) -> Float[Tensor, "n h w"]:
    return module(products, present)


@checked
def run_network(module: Network, images: Float[Tensor, "b k 3 s s"], present: Present) -> Levels:
    return module(images, present, noise()).levels


@checked
def run_head_input(teacher: list[Tensor], student: list[Tensor]) -> Float[Tensor, "n c h w"]:
    return head_input(teacher, student)


@checked
def run_losses(maps: list[Float[Tensor, "n _ _"]], weight: Float[Tensor, "n s s"]) -> Float[Tensor, ""]:
    return distillation_loss(maps, weight)


@checked
def run_head_loss(logits: Float[Tensor, "n h w"], mask: Float[Tensor, "n s s"]) -> Float[Tensor, ""]:
    return head_loss(logits, mask, torch.ones_like(mask), 4.0)


@checked
def run_corrupt(
    images: Float[Tensor, "b v m 3 s s"], given: InputSpec
) -> tuple[Float[Tensor, "b v m 3 s s"], Float[Tensor, "b v m s s"]]:
    b, v, _, _, s, _ = images.shape
    views = ViewImages(images, torch.ones(b, v, s, s, dtype=torch.bool), torch.ones(b, v, dtype=torch.bool))
    corrupted = corrupt(views, given, ProceduralTextures(), PseudoConfig(), torch.Generator().manual_seed(0))
    return corrupted.images, corrupted.mask


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same weights in any order of the tests: now and then a layer of others begins dead."""
    torch.manual_seed(0)


def learns(module: torch.nn.Module, out: Tensor) -> None:
    """Check that gradients of an output reach all parameters of the component."""
    out.pow(2).mean().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without, without


def test_encoder(teacher: Teacher, present: Tensor) -> None:
    module = Encoder(teacher, EncoderConfig(channels=C), K).train()
    out = run_encoder(module, torch.rand(B, K, 3, 64, 64) * 255, present)
    assert out.shape == (B, K, C, 4, 4)
    assert not out[~present].any()
    learns(module, out)


def test_bottleneck(present: Tensor) -> None:
    module = ConsistencyBottleneck(C, K, BottleneckConfig(channels=3)).train()
    common, specific, loss = run_bottleneck(module, torch.randn(B, K, C, 4, 4), present)
    learns(module, torch.cat([common.flatten(), specific.flatten(), loss[None]]))


@pytest.mark.parametrize("position", ["learned", "sine", "geometric"])
def test_voxel_fusion(position: str, present: Tensor) -> None:
    turns = euler_to_matrix(torch.linspace(0, 0.5, 3 * K).view(K, 3))
    module = VoxelFusion(C, 4, turns, VoxelConfig(4, 4, 2, 16), FusionConfig(blocks=2, heads=2, position=position))  # type: ignore[arg-type]
    out = run_fusion(module, torch.randn(B, K, C, 4, 4), present)
    assert out.shape == (B, 4, 4, 4, 4)
    learns(module, out)


def test_geometric_positions_of_a_views_cells_agree_with_the_voxels() -> None:
    """A cell on a view's plane has the encoding of the voxel cell that the spatial transformer projects there."""
    from mvad.model.idif.voxel_fusion import coordinate_encoding, lattice

    turn = euler_to_matrix(torch.tensor([[0.0, 0.0, torch.pi / 2]]))
    module = VoxelFusion(C, 4, turn, VoxelConfig(4, 4, 1, 48), FusionConfig(blocks=1, heads=2, position="geometric"))
    cells = lattice((4, 4))
    assert cells[0].tolist() == [-0.75, -0.75]
    assert cells[1].tolist() == [-0.25, -0.75], "x runs first"
    turned = torch.cat([-cells[:, 1:], cells[:, :1], torch.zeros(16, 1)], dim=1)
    assert torch.allclose(module.plane_position[0], coordinate_encoding(turned, 48), atol=1e-5)
    similar = module.plane_position[0] @ coordinate_encoding(lattice((4, 4, 4)), 48).T
    nearest = lattice((4, 4, 4))[similar.argmax(dim=1)]
    assert (nearest[:, :2] - turned[:, :2]).abs().max() < 1e-5


@pytest.mark.parametrize("depth_reduction", ["fold", "mean", "max", "composite"])
def test_spatial_transformer(depth_reduction: str) -> None:
    config = SpatialTransformerConfig(depth_reduction=depth_reduction)  # type: ignore[arg-type]
    module = SpatialTransformer(torch.linspace(0.1, 0.5, 3 * K).view(K, 3), VoxelConfig(4, 4, 1, 16), config, C, 4)
    learns(module, run_transformer(module, torch.randn(B, 4, 4, 4, 4)))


def test_routes(present: Tensor) -> None:
    route = VoxelRoute(C, 4, tiny(), torch.linspace(0.1, 0.5, 3 * K).view(K, 3))
    run_route(route, torch.randn(B, K, C, 4, 4), present)
    conv = Conv3dFusion(C).train()
    learns(conv, run_route(conv, torch.randn(B, K, C, 4, 4), present))


@pytest.mark.parametrize("level", [8, 16, 32])
def test_decoders(level: int) -> None:
    module = Decoders(K, C, level, (5, 6, 7), DecoderConfig(widths=(8, 6, 4))).train()
    levels = run_decoders(module, torch.randn(B, K, C, 64 // level, 64 // level))
    assert [tuple(x.shape[2:]) for x in levels] == [(5, 16, 16), (6, 8, 8), (7, 4, 4)]
    learns(module, torch.cat([x.flatten() for x in levels]))


@pytest.mark.parametrize(
    ("share", "separable", "kind"),
    [("shared", False, "destseg"), ("view", False, "destseg"), ("shared", True, "destseg"), ("shared", True, "light")],
)
def test_heads(share: str, separable: bool, kind: str) -> None:
    module = Heads(K, C, HeadConfig(width=6, share=share, separable=separable, kind=kind)).train()  # type: ignore[arg-type]
    learns(module, run_heads(module, torch.randn(6, C, 16, 16), Presence(torch.ones(2, K).bool(), torch.device("cpu"))))


def test_network_losses_and_pseudo_anomalies(teacher: Teacher) -> None:
    network = Network(tiny(), spec(), teacher).train()
    everything = torch.ones(B, K, dtype=torch.bool)
    levels = run_network(network, torch.rand(B, K, 3, 64, 64) * 255, everything)
    flat = [level.flatten(0, 1) for level in levels]
    run_losses(cosine_maps([torch.randn_like(x) for x in flat], flat), torch.ones(B * K, 64, 64))
    products = run_head_input([torch.randn_like(x) for x in flat], flat)
    assert products.shape[1] == sum(teacher.channels)
    run_head_loss(torch.randn(6, 16, 16), torch.zeros(6, 64, 64))
    run_corrupt(torch.rand(B, K, 2, 3, 32, 32) * 255, InputSpec(K, ("rgb", "depth"), torch.zeros(K, 3), (0.6, 0.03)))
    assert perlin_noise(2, 32, 4, torch.Generator().manual_seed(0)).shape == (2, 32, 32)
    from mvad.model.idif.training_config import DropoutConfig

    assert draw_present(everything, DropoutConfig(), torch.Generator().manual_seed(0)).shape == everything.shape


def test_the_checks_can_fail() -> None:
    module = ConsistencyBottleneck(C, K, BottleneckConfig(channels=3)).train()
    with pytest.raises(TypeCheckError):
        run_bottleneck(module, torch.randn(B, K, C, 4, 4), torch.ones(B, K + 1, dtype=torch.bool))
