"""Time and S-AUROC of the demo (``make demo``), from generated scans to a report. Usage: python benchmarks/demo.py [SEED].

Writes results/demo-quick.json: seconds, and S-AUROC in percent for each method, the mean of the demo's two categories.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mvad import files
from mvad.model.devices import resolve_device
from mvad.model.runs import machine

HERE = Path(__file__).parent
TARGET = HERE / "results" / "demo-quick.json"


def main() -> int:
    seed = sys.argv[1] if len(sys.argv) > 1 else "0"
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as scratch:
        began = time.perf_counter()
        environment = os.environ | {"MVAD": str(Path(sys.executable).with_name("mvad"))}
        done = subprocess.run(["bash", str(HERE.parent / "tools" / "demo.sh"), f"{scratch}/demo", seed], env=environment)
        if done.returncode:
            return done.returncode
        results = files.read_json(Path(scratch) / "demo" / "figures.json")
        seconds = round(time.perf_counter() - began, 1)
    models = sorted({result["model"] for result in results})
    scores = {model: [100 * r["figures"]["s_auroc"] for r in results if r["model"] == model] for model in models}
    found = {
        "machine": machine(resolve_device()),
        "seed": int(seed),
        "seconds": seconds,
        "s_auroc": {m: round(sum(v) / len(v), 1) for m, v in scores.items()},
    }
    files.write_json(TARGET, found)
    print(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
