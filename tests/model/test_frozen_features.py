"""Features that a phase of the training does not change: computed once for teacher and student, and as each alone has them."""

from __future__ import annotations

import pytest
import torch
from test_idif import ALL, VIEWS, noise, pictures, spec, tiny
from torch import nn
from training import untrained_teacher

from mvad.model.backbones.protocol import Teacher
from mvad.model.idif.frozen_features import FrozenFeatures
from mvad.model.idif.network import Network
from mvad.model.presence import Presence

CPU = torch.device("cpu")
SOME = torch.tensor([[True, False, True], [False, True, True]])
CASES = {
    "one encoder": {"encoder.freeze_early": True},
    "an encoder per view": {"encoder.freeze_early": True, "encoder.share": "view"},
    "to stride 32": {"encoder.freeze_early": True, "encoder.level": 32},
    "trained early layers": {"encoder.freeze_early": False},
    "not the teacher's weights": {"encoder.freeze_early": True, "encoder.init": "scratch"},
}


def made(**changes: object) -> tuple[Teacher, Network, FrozenFeatures]:
    torch.manual_seed(0)
    teacher, config = untrained_teacher(), tiny(**changes)
    network = Network(config, spec(), teacher).train()
    network(pictures(), ALL, noise())  # moves the running statistics
    return teacher, network, FrozenFeatures(config, teacher, network, VIEWS)


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.allclose(one, two, atol=1e-4 * float(two.abs().max()))


@pytest.mark.thorough(3)
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("case", CASES)
def test_features_are_those_that_teacher_and_network_have_alone(case: str, present: torch.Tensor) -> None:
    teacher, network, frozen = made(**CASES[case])
    network.eval()
    there, images = Presence(present, CPU), pictures()
    with torch.no_grad():
        expected = network(images, present).levels
    for use in (frozen.use_themselves, frozen.use_copies, frozen.use_copy_of_teacher):
        use()
        of_teacher, of_student = frozen(images, there)
        assert all(close(a, b) for a, b in zip(of_teacher, teacher.features(images[present]), strict=True))
        assert all(close(a, b[present]) for a, b in zip(of_student, expected, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_the_student_is_the_same_with_the_teachers_features_at_stride_4(case: str) -> None:
    teacher, network, frozen = made(**CASES[case], **{"fusion.kind": "none"})  # whose rotations are float32
    network.double(), teacher.backbone.double()  # in which rounding turns no activation on or off
    images = pictures().double()
    first = frozen.first(images, Presence(SOME, CPU))
    assert (first is None) == ("teacher" in case or "trained" in case)
    gradients = []
    for given in (None, first):
        network.zero_grad()
        student = network(images, SOME, noise(), first=given)
        (sum(level.pow(2).mean() for level in student.levels) + student.bottleneck_loss).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(g.abs().max()) for g in gradients[0].values())
    assert all(torch.allclose(g, gradients[1][name], rtol=1e-6, atol=1e-9 * largest) for name, g in gradients[0].items())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images that each convolution at full size got, in order."""
    counted: list[int] = []
    plain = nn.Conv2d.forward

    def forward(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels == 3:
            counted.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    return counted


def test_layers_that_are_the_same_are_computed_once(ran: list[int]) -> None:
    for case, times in (("one encoder", 1), ("an encoder per view", 1), ("trained early layers", 2)):
        _, network, frozen = made(**CASES[case])
        network.eval()
        ran.clear()
        frozen(pictures(), Presence(SOME, CPU))
        assert ran == [int(SOME.sum())] * times, case
