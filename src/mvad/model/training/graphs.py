"""Steps as CUDA graphs: what a step launches is recorded once, and replayed by one launch.

A step of preset ``paper`` launches a thousand small kernels, which takes longer than the GPU needs for them. The shapes of a step
depend on which views are there, so there is one graph for each of the commonest subsets of views.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mvad.model.devices import synchronise

Work = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]
"""Computes figures from inputs, and leaves gradients in the parameters; what it does may depend on no number in the inputs."""

_EAGER_RUNS = 3
"""Runs of a kind of step before it is recorded: libraries choose their kernels and make their workspaces in the first ones."""

_MOST_GRAPHS = 8
"""All five views, subsets of four, and two more; each graph keeps gradients of its own."""

_GAIN = 0.98
"""A graph is kept where it takes at most this share of the time without it."""


@dataclass
class _Kind:
    """Steps of one kind: how often there was one, seconds of the last without a graph, and the graph."""

    runs: int = 0
    eager_s: float = 0.0
    graph: _Graph | None = None
    replays: int = 0
    pays: bool = True


@dataclass(frozen=True)
class _Graph:
    """A recorded step: its inputs, figures and gradients stay at their places in memory."""

    recorded: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    figures: tuple[Tensor, ...]
    gradients: Sequence[tuple[nn.Parameter, Tensor]]

    def replay(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute the figures and gradients of other inputs."""
        for name, place in self.inputs.items():
            place.copy_(inputs[name])
        self.recorded.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.figures


@dataclass
class StepGraphs:
    """Runs steps, as graphs where that is possible and pays.

    Attributes
    ----------
    enabled
        Whether to use graphs at all.
    device
        Where the steps are computed; it need not be the current one.
    say
        Is told why steps are not recorded any more.
    reason
        Why steps are not recorded any more; empty: they are.
    """

    enabled: bool
    device: torch.device
    say: Callable[[str], None] = lambda line: None
    reason: str = ""
    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)
    _pool: object = None
    _stream: torch.cuda.Stream | None = None

    def run(
        self, key: Hashable, work: Work, inputs: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return the figures of a step, with the gradients of its parameters, which have none before.

        Parameters
        ----------
        key
            Kind of the step: with the same key, ``work`` launches the same kernels on inputs of the same shapes.
        work
            See ``Work``.
        inputs
            Tensors on the device, by name.
        parameters
            What ``work`` computes gradients of.
        """
        if not self.enabled or self.reason:
            return work(inputs)
        kind = self._kinds.setdefault(key, _Kind())
        kind.runs += 1
        if kind.graph is not None:
            return self._replayed(kind, kind.graph, inputs)
        if kind.runs < _EAGER_RUNS or not kind.pays:
            return work(inputs)
        if kind.runs == _EAGER_RUNS:
            figures, kind.eager_s = self._timed(lambda: work(inputs))
            return figures
        if sum(other.graph is not None for other in self._kinds.values()) >= _MOST_GRAPHS:
            kind.pays = False
            return work(inputs)
        kind.graph = self._try_to_record(work, inputs, parameters)
        return work(inputs) if kind.graph is None else self._replayed(kind, kind.graph, inputs)

    def clear(self) -> None:
        """Free the memory of all graphs."""
        self._kinds.clear()
        self._pool = None

    def _try_to_record(self, work: Work, inputs: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> _Graph | None:
        """Return a recorded step; where that is not possible, free what all recorded ones hold, say why, and return None."""
        try:
            return self._recorded(work, inputs, parameters)
        except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
            self.reason = " ".join(str(error).split())[:160]
        # Only here, without the error, nothing refers to the tensors of the step that was not recorded.
        for parameter in parameters:
            parameter.grad = None
        self.clear()
        torch.cuda.empty_cache()
        self.say(f"steps are not replayed as CUDA graphs (train.graphs): {self.reason}")
        return None

    def _replayed(self, kind: _Kind, graph: _Graph, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Replay a graph; the second time it is timed, and dropped if it does not pay."""
        kind.replays += 1
        if kind.replays != 2:
            return graph.replay(inputs)
        figures, seconds = self._timed(lambda: graph.replay(inputs))
        if seconds > _GAIN * kind.eager_s:
            kind.graph, kind.pays = None, False  # this step's figures and gradients keep their memory as long as they are used
        return figures

    def _recorded(self, work: Work, inputs: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> _Graph:
        places = {name: tensor.clone() for name, tensor in inputs.items()}
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        recorded = torch.cuda.CUDAGraph()
        # torch's own stream for recording is one of the device that was current when it was first asked for, and records nothing of
        # others. Other threads copy checkpoints and draw numbers meanwhile: they may not end the recording.
        recording = torch.cuda.graph(recorded, self._pool, self._stream, capture_error_mode="thread_local")  # type: ignore[arg-type]
        # torch leaves its stream current where a recording fails; the outer context goes back in any case.
        with torch.cuda.stream(torch.cuda.current_stream(self.device)), recording:
            figures = work(places)
        gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        return _Graph(recorded, places, figures, gradients)

    def _timed(self, run: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], float]:
        synchronise(self.device)
        began = time.perf_counter()
        figures = run()
        synchronise(self.device)
        return figures, time.perf_counter() - began
