"""Run all benchmarks, write the table of figures in benchmarks/README.md, and print which figures changed.

Usage: python benchmarks/everything.py [--full]. The quick form measures the main figures with few repetitions, and accuracy
with the demo, in about a quarter of an hour on two cores; MVAD_REAL_DATA adds real scans. The full form runs the same
benchmarks in full, then accuracy and real scans, for hours. Changes are relative to the last committed results.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
TOLERANCE = 0.25
"""A figure is reported if it changed by more than this share; smaller changes are noise of a shared machine."""

QUICK = (
    ("render.py", ["--quick", "--only", "views"]),
    ("shards.py", ["--quick", "--only", "formats"]),
    ("train.py", ["--quick", "--only", "pseudo"]),
    ("metrics.py", ["--quick"]),
    ("demo.py", []),
)
FULL = (
    ("render.py", []),
    ("shards.py", []),
    ("train.py", []),
    ("metrics.py", []),
    ("demo.py", []),
    ("accuracy.py", []),
    ("real_scans.py", []),
)


def main() -> int:
    full = "--full" in sys.argv
    real = "MVAD_REAL_DATA" in os.environ
    walls: dict[str, float] = {}
    failed = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as scratch:
        for script, arguments in FULL if full else QUICK:
            if script == "real_scans.py" and not real:
                continue
            print(f"== {script} {' '.join(arguments)}", flush=True)
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(HERE / script), *arguments], env=os.environ | {"MVAD_BENCHMARK_DIR": scratch}
            )
            walls[script] = round(time.perf_counter() - began, 1)
            if done.returncode:
                failed.append(script)
    rows = list(differences())
    README.write_text(with_table(README.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(f"\nwall times: {json.dumps(walls)}; in all {sum(walls.values()):.0f} s")
    changed = [row for row in rows if row[2] is not None and abs(row[3] - row[2]) > TOLERANCE * max(abs(row[2]), 1e-12)]
    for file, name, before, now in changed:
        print(f"changed: {file}: {name}: {before:.4g} -> {now:.4g}")
    print(f"{len(changed)} of {len(rows)} figures differ by more than {100 * TOLERANCE:.0f} % from the last committed results")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


def differences() -> Iterator[tuple[str, str, float | None, float]]:
    """Yield file, name, committed value (None: new) and current value of every number in the results."""
    for path in sorted(RESULTS.glob("*.json")):
        now = dict(numbers(json.loads(path.read_text(encoding="utf-8"))))
        committed = subprocess.run(
            ["git", "show", f"HEAD:benchmarks/results/{path.name}"], capture_output=True, text=True, cwd=HERE
        )
        before = dict(numbers(json.loads(committed.stdout))) if committed.returncode == 0 else {}
        for name, value in now.items():
            yield path.name, name, before.get(name), value


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of nested JSON with its path, without the description of the machine."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "machine" or name:
                yield from numbers(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from numbers(inner, f"{name}[{k}]")


WANTED = (
    (r"demo-quick", r"s_auroc\..*|seconds"),
    (r"metrics-.*", r"areas\.\w+\.(mvad|scikit-learn|ADEval)\.(s|error)|regions\.(mvad|ADEval|relabelling[^.]*)\.(s|error)"),
    (r"metrics-.*", r"verbs\.(\w+\.network_share|report\.(mb|loaded_ms)|onnx_ms\.\w+)"),
    (r"render-.*-quick", r"views\.gland\.(mvad|naive|tuned)[^.]*\.ms"),
    (r"shards-.*-quick", r"formats\.[^.]+\.1 process\.samples_per_s"),
    (r"train-.*-quick", r"pseudo\.[^.]*"),
)
"""Figures in the table: patterns of the file's name and of the figure's name."""


def with_table(text: str, rows: list[tuple[str, str, float | None, float]]) -> str:
    """Write the selected figures between the marks of the README."""
    lines = ["| file | figure | committed before | now |", "|---|---|---|---|"]
    for file, name, before, now in rows:
        if any(re.fullmatch(f"{stem}\\.json", file) and re.fullmatch(pattern, name) for stem, pattern in WANTED):
            lines.append(f"| {file.removesuffix('.json')} | {name} | {'-' if before is None else f'{before:.4g}'} | {now:.4g} |")
    return re.sub(
        r"(<!-- figures -->\n).*?(<!-- end of figures -->)", lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text, flags=re.S
    )


if __name__ == "__main__":
    sys.exit(main())
