"""Watches a training in the real engine: time of a step, waits for data and numbers, launches, host stops, peak memory."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_common import Asked, failure, fresh_peak, peak_gb


@dataclass(frozen=True)
class Plan:
    """Steps of a phase by what is done in them, in this order.

    Attributes
    ----------
    warm
        Not measured: libraries choose algorithms, memory is taken, the teacher's features are kept.
    timed
        Between two synchronisations, without any in between.
    profiled
        Under torch.profiler.
    stops
        Counted by torch's own report of operations that wait for the device.
    """

    warm: int
    timed: int
    profiled: int = 0
    stops: int = 0

    @property
    def steps(self) -> int:
        """All steps of a phase."""
        return self.warm + self.timed + self.profiled + self.stops + 1


@dataclass
class Row:
    """Measurements of a phase."""

    starts: list[float] = field(default_factory=list)
    waited: float = 0.0
    began: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)


class Watch:
    """Takes the place of ``loop.perform`` and of the iterators of the engine."""

    def __init__(self, plan: Plan, asked: Asked) -> None:
        self.plan, self.asked, self.device = plan, asked, asked.torch_device()
        self.rows: dict[str, Row] = {}
        self._timing: Row | None = None
        self._profiler: Any = None
        self._caught: Any = None
        self._counts_stops = False
        self._warnings: list[Any] = []

    def before(self, name: str, k: int) -> None:
        """Begin and end measurements before step k of a phase."""
        plan, row = self.plan, self.rows.setdefault(name, Row())
        end = plan.warm + plan.timed
        if k == 0:
            fresh_peak(self.asked.device)
        if k == plan.warm:
            self._wait()
            row.began, self._timing = time.perf_counter(), row
        if plan.warm <= k <= end:
            row.starts.append(time.perf_counter())
        if k == end:
            self._timing = None
            self._wait()
            self._times(row, time.perf_counter() - row.began)
            if plan.profiled and _can_profile(self.asked):
                self._begin_profile()
        if self._profiler is not None and k == end + plan.profiled:
            self._end_profile(row)
        if plan.stops and k == end + plan.profiled:
            self._begin_stops()

    def after(self, name: str, k: int) -> None:
        """End what the last step of a phase ends."""
        if k == self.plan.steps - 1:
            if self._caught is not None:
                self._end_stops(self.rows[name])
            self.rows[name].found["peak_gb"] = peak_gb(self.asked.device)

    def waiting(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items, and count the time until each comes."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            if self._timing is not None:
                self._timing.waited += time.perf_counter() - began
            yield item

    def _wait(self) -> None:
        from mvad.model.devices import synchronise

        synchronise(self.device)

    def _times(self, row: Row, seconds: float) -> None:
        gaps = sorted(1000 * (b - a) for a, b in zip(row.starts, row.starts[1:], strict=False))
        row.found |= {
            "mean_ms": round(1000 * seconds / self.plan.timed, 3), "median_ms": round(statistics.median(gaps), 3),
            "p90_ms": round(p90(gaps), 3), "wait_share": round(row.waited / seconds, 4),
            "steps": self.plan.timed,
        }  # fmt: skip

    def _begin_profile(self) -> None:
        import torch

        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.asked.on_card:
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=kinds)
        self._profiler.__enter__()
        self._profile_began = time.perf_counter()

    def _end_profile(self, row: Row) -> None:
        seconds = time.perf_counter() - self._profile_began
        self._wait()
        with contextlib.ExitStack() as stack:
            stack.push(self._profiler.__exit__)
        try:
            row.found["profile"] = profile_of(self._profiler, self.plan.profiled, seconds)
        except Exception as error:  # the profiler differs between versions: its failure is a result
            row.found["profile"] = failure(error)
        self._profiler = None

    def _begin_stops(self) -> None:
        import torch

        self._caught = warnings.catch_warnings(record=True)
        self._warnings = self._caught.__enter__()
        warnings.simplefilter("always")
        with contextlib.suppress(AttributeError, RuntimeError):  # an emulated card has no such report
            if self.asked.on_card:
                torch.cuda.set_sync_debug_mode("warn")
                self._counts_stops = True

    def _end_stops(self, row: Row) -> None:
        import torch

        with contextlib.suppress(AttributeError, RuntimeError):
            if self.asked.on_card:
                torch.cuda.set_sync_debug_mode("default")
        places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in self._warnings if "synchroniz" in str(w.message).lower())
        self._caught.__exit__(None, None, None)
        self._caught = None
        steps = self.plan.stops + 1
        if self._counts_stops:
            row.found["stops_a_step"] = round(sum(places.values()) / steps, 2)
            row.found["stops_by_line"] = {place: round(n / steps, 2) for place, n in places.most_common(12)}


def _can_profile(asked: Asked) -> bool:
    """Return whether torch's profiler knows the device: it does not know an emulated card."""
    import torch

    return not asked.on_card or torch.version.cuda is not None


def p90(values: list[float]) -> float:
    """Return the value that nine tenths of sorted values do not exceed."""
    return values[math.ceil(0.9 * len(values)) - 1]


def profile_of(profiler: Any, steps: int, seconds: float) -> dict[str, Any]:
    """Return kernels, time that the card was busy, and waits of a step, from a profile."""
    kernels = [e for e in profiler.events() if str(e.device_type).endswith("CUDA")]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    busy, reached = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    by_name: Counter[str] = Counter()
    for e in kernels:
        by_name[e.name[:80]] += round(e.time_range.end - e.time_range.start, 3)
    span_us = max((reached - spans[0][0]) if spans else 0.0, 1e6 * seconds)
    calls = {e.key: round(e.count / steps, 2) for e in profiler.key_averages() if e.key in _HOST_CALLS}
    return {
        "kernels_a_step": round(len(kernels) / steps, 1), "busy_ms_a_step": round(busy / 1000 / steps, 3),
        "busy_share": round(busy / span_us, 3), "ms_a_step_profiled": round(1000 * seconds / steps, 3),
        "host_calls_a_step": calls, "longest_ms_a_step": {n: round(us / 1000 / steps, 3) for n, us in by_name.most_common(10)},
    }  # fmt: skip


_HOST_CALLS = {
    "cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaStreamSynchronize",
    "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaGraphLaunch", "aten::item", "aten::nonzero", "aten::_to_copy",
}  # fmt: skip


class NoCheckpoints:
    """Takes the place of the writer of checkpoints, so that their time is no part of a step's."""

    def __init__(self, *ignored: Any, **also_ignored: Any) -> None:
        pass

    def due(self, step: int) -> bool:
        return False

    def save(self, step: int) -> None:
        pass

    def newest(self) -> int:
        return 0

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextlib.contextmanager
def watched(watch: Watch, resident: bool) -> Iterator[None]:
    """Have the engine tell the watch what it does; ``resident``: whether the split may lie on the device."""
    from mvad.model.training import engine, loop

    saved = loop.perform, engine.Batches, engine._numbers, engine._resident, engine.CheckpointWriter
    perform, batches, numbers, _, _ = saved

    def performed(phase: Any, k: int) -> Any:
        watch.before(phase.name, k)
        pending = perform(phase, k)
        watch.after(phase.name, k)
        return pending

    class Watched(batches):  # type: ignore[misc, valid-type]
        def steps(self, *given: Any, **named: Any) -> Iterator[Any]:
            return watch.waiting(super().steps(*given, **named))

    loop.perform, engine.Batches, engine.CheckpointWriter = performed, Watched, NoCheckpoints
    engine._numbers = lambda *given: watch.waiting(numbers(*given))
    if not resident:
        engine._resident = lambda train, device: train
    try:
        yield
    finally:
        loop.perform, engine.Batches, engine._numbers, engine._resident, engine.CheckpointWriter = saved


def measured(asked: Asked, data: Any, detector: Any, plan: Plan, resident: bool = True, ranks: Any = None) -> dict[str, Any]:
    """Train in the engine with ``plan.steps`` steps a phase (the detector's keys say so), and return the rows by phase."""
    from mvad.model.training.context import FitContext
    from mvad.progress import Silent

    watch = Watch(plan, asked)
    if not asked.on_card and resident:
        data = data.in_memory()
    losses: list[float] = []
    named = {} if ranks is None else {"ranks": ranks}
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder, watched(watch, resident):
        context = FitContext(Path(folder), Silent(), lambda figures: losses.append(figures["loss"]), **named)
        detector.fit(data, context)
    return {name: row.found for name, row in watch.rows.items()} | {"last_loss": round(losses[-1], 4)}


def keys_of(plan: Plan, batch: int, precision: str) -> dict[str, Any]:
    """Return the keys of a training that ``plan`` measures; small rates, since untrained teachers would let it diverge."""
    return {
        "train__student_steps": plan.steps, "train__head_steps": plan.steps, "train__batch": batch,
        "train__precision": precision, "optimizer__student_lr": 1e-3,
    }  # fmt: skip
