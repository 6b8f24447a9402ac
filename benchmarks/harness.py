"""Shared by the benchmarks: measurements in separate processes, alternating rounds, results saved section by section."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
THREADS = os.cpu_count() or 1
QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 3
CHILDREN: dict[str, Callable[..., Any]] = {}

Section = Callable[[Path | None, Path], Any]
"""Measures something, given the folder of real scans or None, and a scratch folder."""


def child(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function that ``run`` executes in a separate process."""
    CHILDREN[function.__name__] = function
    return function


def run(child_name: str, environment: dict[str, str] | None = None, /, **arguments: Any) -> Any:
    """Run a registered function in a separate process and return its result."""
    command = [sys.executable, sys.argv[0], "--child", child_name, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}))
    if done.returncode:
        raise SystemExit(f"{child_name} {arguments}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turn(measure: Callable[[str], Any], names: tuple[str, ...], rounds: int) -> dict[str, list[Any]]:
    """Measure every name once per round, so that other load on the machine affects all of them alike."""
    taken: dict[str, list[Any]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            taken[name].append(measure(name))
            print(f"round {turn + 1}/{rounds}: {name}: {taken[name][-1]}", flush=True)
    return taken


def rss_mb() -> float:
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def peak_mb() -> float:
    """Peak resident memory of this process (not ``ru_maxrss``, which a child inherits from its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3, 1)


def versions(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


def drive(
    title: str, sections: Mapping[str, Section], about: Callable[[], dict[str, Any]], plot: Callable[[dict[str, Any], Path], None]
) -> int:
    """Run a child, or the requested sections, and write ``results/<title>-<machine>.json`` and its plot."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(CHILDREN[sys.argv[2]](**json.loads(sys.argv[3]))))
        return 0
    from mvad import files
    from mvad.model.devices import resolve_device
    from mvad.model.runs import machine

    real = Path(os.environ["MVAD_REAL_DATA"]) if "MVAD_REAL_DATA" in os.environ else None
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "cpu")
    label = "-".join("".join(c if c.isalnum() else " " for c in f"{model} {THREADS} cores").lower().split())
    target = HERE / "results" / f"{title}-{label}{'-quick' if QUICK else ''}.json"
    only = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else list(sections)
    result: dict[str, Any] = files.read_json(target) if target.exists() else {}
    facts = about()
    result["machine"] = machine(resolve_device()) | {"cores": THREADS, "processor": model} | facts.pop("versions")
    result |= {"rounds": ROUNDS} | facts
    for name in only:
        with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as scratch:
            result[name] = sections[name](real, Path(scratch))
        print(name, json.dumps(result[name], indent=1), flush=True)
        files.write_json(target, result)
    if set(sections) <= result.keys():
        plot(result, target.with_suffix(".svg"))
    print(target)
    return 0
