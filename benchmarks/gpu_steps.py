"""Stages of gpu.py on training steps: times, the loader's share, memory by batch, several cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_common import INPUTS, PAPER_BATCH, Asked, configured, fresh_peak, make_data, peak_gb, release
from gpu_engine import Plan, keys_of, measured

CASES = tuple(
    (inputs, batch, precision)
    for batch in (8, 16, 4)
    for precision in ("bfloat16", "float32")
    for inputs in INPUTS
)  # fmt: skip
"""Inputs V, batch and precision, the paper's first: what there is no time for is left out from the end."""


def data(asked: Asked) -> None:
    """Make the data of all other stages."""
    asked.attempt("data", lambda: make_data(asked))


def plan_of(asked: Asked, deep: bool) -> Plan:
    if asked.quick:
        return Plan(1, 2, 1, 1)
    return Plan(120, 60, 4, 2) if deep else Plan(80, 40)  # by then the commonest subsets of views have been met


def steps(asked: Asked) -> None:
    """Milliseconds of student and head steps in the engine, with launches, stops and memory for the paper's batch."""
    from mvad.model.registry import all_keys

    cases = [(5, 2, "float32")] if asked.quick else CASES
    for inputs, batch, precision in cases:
        plan = plan_of(asked, asked.quick or (batch <= PAPER_BATCH and precision == "bfloat16"))

        def row(
            inputs: int = inputs, batch: int = batch, precision: str = precision, plan: Plan = plan, **more: Any
        ) -> dict[str, Any]:  # fmt: skip
            split, ready, _ = configured(asked, inputs, **keys_of(plan, batch, precision), **more)
            found = measured(asked, split, ready.detector, plan)
            return {"inputs": inputs, "batch": batch, "precision": precision, "size": ready.config.input.size} | found

        asked.attempt(f"V = {inputs}, batch {batch}, {precision}", row, 0 if asked.quick else 8)
        release(asked.device)
        if (inputs, batch, precision) == CASES[0] and "train.graphs" in all_keys():
            asked.attempt(f"V = {inputs}, batch {batch}, {precision}, without graphs", lambda: row(train__graphs=False), 8)
            release(asked.device)


def loader(asked: Asked) -> None:
    """Share of a step in which the training waits for data and numbers; to be at most 0.05."""
    plan = Plan(1, 2) if asked.quick else Plan(80, 60)
    batch = 2 if asked.quick else PAPER_BATCH
    for where, resident in (("data in memory", True), ("data from disk", False)):

        def row(resident: bool = resident) -> dict[str, Any]:
            split, ready, _ = configured(asked, 5 if asked.quick else 10, **keys_of(plan, batch, "auto"))
            found = measured(asked, split, ready.detector, plan, resident)
            return {name: {k: part[k] for k in ("wait_share", "mean_ms")} for name, part in found.items() if name != "last_loss"}

        asked.attempt(where, row, 0 if asked.quick else 8)
        release(asked.device)


def memory(asked: Asked) -> None:
    """Peak memory of one step of each phase by inputs and batch, the head on the whole image; the largest batch that fits."""
    import torch

    def peak(inputs: int, batch: int) -> float | None:
        _, ready, _ = configured(asked, inputs, train__batch=batch, train__precision="auto")
        fresh_peak(asked.device)
        ready.detector.planned_seconds(batch)
        return peak_gb(asked.device)

    for inputs in (5,) if asked.quick else INPUTS:
        name, found, batch = f"V = {inputs}", {}, 1 if asked.quick else 4
        while asked.left > 5:
            try:
                found[str(batch)] = peak(inputs, batch)
            except torch.OutOfMemoryError:
                asked.note(f"{name}, does not fit", batch)
                break
            finally:
                release(asked.device)
            asked.note(f"{name}, peak GB by batch", dict(found))
            if not asked.on_card:
                break
            batch *= 2
        if asked.on_card:
            asked.attempt(f"{name}, largest batch by the line through the last two", lambda found=found: _largest(found))


def _largest(found: dict[str, Any]) -> dict[str, Any]:
    """Return the batch at which the line through the last two peaks reaches the card's memory."""
    import torch

    (low, at_low), (high, at_high) = [(int(batch), peak) for batch, peak in found.items()][-2:]
    slope = (at_high - at_low) / (high - low)
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    return {
        "gb_a_sample": round(slope, 3),
        "gb_at_no_sample": round(at_low - slope * low, 3),
        "batch": int(high + (total - at_high) / slope),
    }


def cards(asked: Asked) -> None:
    """Steps of 1, 2 and 4 processes, a card each: the same batch shared, and a batch of eight samples a card."""
    import torch

    count = torch.cuda.device_count() if asked.on_card else 0
    if count < 2 and not asked.quick:
        asked.note("cards", {"left_out": f"needs several cards; this machine has {count}"})
        return
    sizes = (2,) if asked.quick else tuple(n for n in (1, 2, 4, 8) if n <= count)
    for size in sizes:
        for name, batch in (("shared batch", 2 if asked.quick else 16), ("batch a card", 8 * size)):
            if asked.quick and name == "batch a card":
                continue
            asked.attempt(f"{size} processes, {name} ({batch})", lambda s=size, b=batch: _processes(asked, s, b), 5)


def _processes(asked: Asked, size: int, batch: int) -> Any:
    answer = asked.scratch / f"processes-{size}-{batch}.json"
    answer.unlink(missing_ok=True)
    given = {
        "scratch": str(asked.scratch), "seconds": asked.left, "quick": asked.quick, "device": asked.device,
        "real": str(asked.real) if asked.real else None, "batch": batch, "answer": str(answer),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), str(Path(__file__)),
        json.dumps(given),
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(asked.left - 1, 1), env=os.environ | threads)
    if done.returncode or not answer.exists():
        raise RuntimeError(f"exit {done.returncode}: {done.stderr[-600:]}")
    return json.loads(answer.read_text())


def one_process(given: dict[str, Any]) -> None:
    """Measure as one of several processes; rank 0 writes the answer."""
    import torch

    from mvad.model.training.parallel import join_process_group, leave_process_group

    if given["device"] == "cpu":
        torch.set_num_threads(1)
    ranks = join_process_group()
    part = Path(f"{given['answer']}.{ranks.rank}")
    asked = Asked(
        Path(given["scratch"]), part, given["seconds"], given["quick"], Path(given["real"]) if given["real"] else None,
        given["device"],
    )  # fmt: skip
    plan = Plan(1, 2) if asked.quick else Plan(12, 40)
    split, ready, _ = configured(asked, 5 if asked.quick else 10, **keys_of(plan, given["batch"], "auto"))
    found = measured(asked, split, ready.detector, plan, True, ranks)
    for name in ("student", "head"):
        found[name]["samples_per_s"] = round(1000 * given["batch"] / found[name]["mean_ms"], 1)
    if ranks.rank == 0:
        Path(given["answer"]).write_text(json.dumps(found))
    leave_process_group()


if __name__ == "__main__":
    one_process(json.loads(sys.argv[1]))
