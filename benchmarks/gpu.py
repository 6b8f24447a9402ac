"""A training on a CUDA card, measured for the first time or again: where its time goes, what is attainable, what fits, what agrees.

Usage: python benchmarks/gpu.py [--seconds 480] [--only STAGE,STAGE] [--scratch FOLDER] [--real FOLDER] [--out FILE] [--quick]

Needs a card and no network: data are generated, rendered and packed into the scratch folder, and found there again (--only data makes
them on another machine, and the folder is carried); --real or MVAD_REAL_DATA takes real cable_gland scans and DTD. Every stage runs in
a process of its own with a time limit: one that hangs or dies keeps what it had measured, and the others run. Results go to
results/gpu.json after every stage. --quick tries the code with tiny networks on any machine, also without a card; what needs one is
then named in the results.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
_GRACE_S = 5


@dataclass(frozen=True)
class Stage:
    """A stage: its name in the results, its function, and its share of the time in seconds of 480."""

    name: str
    function: str
    seconds: int


STAGES = (
    Stage("data", "gpu_steps.data", 60),
    Stage("doctor", "gpu_doctor.doctor", 40),
    Stage("steps", "gpu_steps.steps", 110),
    Stage("attainable student", "gpu_attainable.student", 50),
    Stage("attainable head", "gpu_attainable.head", 50),
    Stage("loader", "gpu_steps.loader", 35),
    Stage("peers", "gpu_others.peers", 45),
    Stage("render", "gpu_others.render", 35),
    Stage("cards", "gpu_steps.cards", 60),
    Stage("memory", "gpu_steps.memory", 40),
    Stage("methods", "gpu_methods.methods", 60),
    Stage("tests", "gpu_doctor.tests", 60),
    Stage("training", "gpu_others.training", 200),
)
"""In this order; a stage gets its share and no more than is left, the training what is left."""
_BUDGET = 480


def main() -> int:
    """Run the stages and write the results after each."""
    if sys.argv[1:2] == ["--child"]:
        return run_stage(json.loads(sys.argv[2]))
    options = _options()
    from mvad import files

    wanted = options.only.split(",") if options.only else [stage.name for stage in STAGES]
    if unknown := set(wanted) - {stage.name for stage in STAGES}:
        sys.exit(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(stage.name for stage in STAGES)}")
    target = options.out or HERE / "results" / f"gpu{'-quick' if options.quick else ''}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = files.read_json(target) if target.exists() and options.only else {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as temporary:
        scratch = options.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for stage in STAGES:
            if stage.name not in wanted and not (stage.name == "data" and set(wanted) - {"doctor", "tests"}):
                continue
            left = options.seconds - (time.monotonic() - began)
            run = _here if options.quick else _separately
            result[stage.name] = run(stage, options, scratch, left)
            result["machine"] = result.get("doctor", {}).get("machine", result.get("machine", {}))
            result["asked"] = {"seconds": options.seconds, "quick": options.quick, "real": options.real is not None}
            result["seconds"] = round(time.monotonic() - began, 1)
            files.write_json(target, result)
    _show(result)
    print(target)
    return 0


def _options() -> argparse.Namespace:
    real = os.environ.get("MVAD_REAL_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=_BUDGET, help="time limit of everything (480)")
    parser.add_argument("--only", default="", help="stages, with commas between")
    parser.add_argument("--scratch", type=Path, help="folder that keeps the data from one call to the next")
    parser.add_argument("--real", type=Path, default=Path(real) if real else None, help="folder of real scans")
    parser.add_argument("--out", type=Path, help="file of the results")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a few steps, on any machine")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


def _separately(stage: Stage, options: argparse.Namespace, scratch: Path, left: float) -> dict[str, Any]:
    """Run a stage in a process of its own, and return what it measured; it is ended at its time limit."""
    share = left - 2 * _GRACE_S if stage.name == "training" else stage.seconds * options.seconds / _BUDGET
    limit = min(share, left - _GRACE_S)
    if limit < 5:
        return {"left_out": f"{left:.0f} s were left"}
    part, log = scratch / f"{stage.name}.json", scratch / f"{stage.name}.log"
    part.unlink(missing_ok=True)
    given = _given(stage, options, scratch, part, limit)
    print(f"{stage.name}: at most {limit:.0f} s", flush=True)
    began = time.monotonic()
    with log.open("w") as written:
        command = [sys.executable, str(HERE / "gpu.py"), "--child", json.dumps(given)]
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, start_new_session=True)
        status = _wait(process, limit)
    found: dict[str, Any] = {}
    if part.exists():
        found = json.loads(part.read_text())
    found["seconds"] = round(time.monotonic() - began, 1)
    if status:
        found["ended"] = status
        found["last_lines"] = log.read_text(errors="replace").splitlines()[-6:]
    return found


def _here(stage: Stage, options: argparse.Namespace, scratch: Path, left: float) -> dict[str, Any]:
    """Run a stage in this process: a dry run would spend most of its time on starting others."""
    part = scratch / f"{stage.name}.json"
    part.unlink(missing_ok=True)
    began = time.monotonic()
    run_stage(_given(stage, options, scratch, part, left))
    seconds = round(time.monotonic() - began, 1)
    print(f"{stage.name}: {seconds} s", flush=True)
    return {**(json.loads(part.read_text()) if part.exists() else {}), "seconds": seconds}


def _given(stage: Stage, options: argparse.Namespace, scratch: Path, part: Path, limit: float) -> dict[str, Any]:
    return {
        "stage": stage.function, "scratch": str(scratch.resolve()), "part": str(part.resolve()), "seconds": limit,
        "quick": options.quick, "real": str(options.real.resolve()) if options.real else None, "device": options.device,
    }  # fmt: skip


def _wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """Wait for a process and end it, with all that it started, at the limit; return how it ended, or "" if well."""
    try:
        code = process.wait(limit)
        return f"exit {code}" if code else ""
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(_GRACE_S / 2)
                break
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        return f"ended after {limit:.0f} s"
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def run_stage(given: dict[str, Any]) -> int:
    """Run a stage in this process."""
    from gpu_common import Asked, failure

    part = Path(given["part"])
    try:
        import torch

        card = torch.cuda.is_available()
        device = given["device"] if given["device"] != "auto" else ("cuda" if card else "cpu")
        real = Path(given["real"]) if given["real"] else None
        asked = Asked(Path(given["scratch"]), part, given["seconds"], given["quick"], real, device)
        if device == "cpu" and not given["quick"] and given["stage"] not in ("gpu_steps.data", "gpu_doctor.doctor"):
            asked.note("left_out", "needs a CUDA device; --quick tries the code without one")
            return 0
        module, name = given["stage"].split(".")
        getattr(importlib.import_module(module), name)(asked)
    except Exception as error:  # of the imports, say: a stage tells why it could not begin
        part.write_text(json.dumps(failure(error)))
        raise
    return 0


def _show(result: dict[str, Any]) -> None:
    from gpu_table import table

    table(result)


if __name__ == "__main__":
    sys.exit(main())
