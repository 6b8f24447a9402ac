"""Steps as CUDA graphs, with a device that stands in for CUDA: which stream records, and what follows where recording fails.

What a recorded step computes is tested on the emulated device (``test_emulated_gpu_steps.py``).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvad.model.training import graphs
from mvad.model.training.graphs import StepGraphs
from mvad.model.training.weights import CastWeights

SECOND = torch.device("cuda:1")


class Cuda:
    """What ``StepGraphs`` uses of ``torch.cuda``: work is computed while it is recorded, and again by no replay."""

    def __init__(self) -> None:
        self.recording = False
        self.streams: list[Any] = []
        self.current: list[Any] = []
        self.emptied = 0

    def graph(self, recorded: Any, pool: Any, stream: Any, capture_error_mode: str) -> contextlib.AbstractContextManager[None]:
        self.streams.append(stream)
        return self._recorded()

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        self.recording = True
        try:
            yield
        finally:
            self.recording = False

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.current.append(stream)
        yield
        self.current.append("left")

    def empty_cache(self) -> None:
        self.emptied += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    answers = {
        "graph": fake.graph, "stream": fake.stream, "empty_cache": fake.empty_cache, "graph_pool_handle": lambda: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None), "Stream": lambda device: SimpleNamespace(device=device),
        "current_stream": lambda device: ("current", device),
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(graphs, "synchronise", lambda device: None)
    return fake


def test_a_step_is_recorded_on_a_stream_of_its_own_device(cuda: Cuda) -> None:
    """Torch's own stream for recording is the current device's, on which a step of another device records nothing."""
    steps = StepGraphs(True, SECOND)
    for _ in range(5):
        steps.run("a", lambda given: (given["x"] * 2,), {"x": torch.ones(2)}, [])
    steps.run("b", lambda given: (given["x"] * 2,), {"x": torch.ones(2)}, [])
    assert [stream.device for stream in cuda.streams] == [SECOND], "the fourth step of a kind is recorded, once"
    assert cuda.current == [("current", SECOND), "left"]


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_that_cannot_be_recorded_is_computed_without_what_recording_left(cuda: Cuda, place: str) -> None:
    torch.manual_seed(0)
    layer, told, held = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), list[str](), list[weakref.ref[Tensor]]()
    weights = CastWeights(layer)

    def work(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        assert all(reference() is None for reference in held), "memory of the recording is held while the step is computed"
        with weights.used():
            loss = layer(given["x"]).float().square().sum()
        if cuda.recording:
            held.append(weakref.ref(loss))
            if place == "backward":
                loss.backward()
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        loss.backward()
        weights.give_gradients()
        return (loss.detach(),)

    steps, parameters = StepGraphs(True, SECOND, told.append), list(layer.parameters())
    x = {"x": torch.randn(4, 3, dtype=torch.bfloat16)}
    found = []
    for _ in range(6):
        for parameter in parameters:
            parameter.grad = None
        (loss,) = steps.run("a", work, x, parameters)
        found.append([loss, *(parameter.grad for parameter in parameters)])
    for later in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], later, strict=True) if one is not None)
    assert told == ["steps are not replayed as CUDA graphs (train.graphs): operation not permitted when stream is capturing"]
    assert len(held) == 1, "nothing is recorded after that"
    assert cuda.emptied == 1
