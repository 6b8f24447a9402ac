"""Run stages of benchmarks/gpu.py on the emulated CUDA device; a process of its own (``cuda.py``).

python benchmark.py SCRATCH '["gpu_steps.steps", ...]'   prints the results of each stage as a line of JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from guard import load_guard

scratch = Path(sys.argv[1])
load_guard(scratch)

import cuda  # noqa: E402  # imports torch, which asks for the guard
import torch  # noqa: E402

cuda.install()
sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parents[1])]

import gpu  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    with cuda.EmulatedMode():
        for stage in json.loads(sys.argv[2]):
            part = scratch / "part.json"
            part.unlink(missing_ok=True)
            given = {"scratch": str(scratch), "part": str(part), "seconds": 600, "quick": True, "real": None, "device": "cuda"}
            gpu.run_stage({"stage": stage, **given})
            print(json.dumps({"stage": stage, **json.loads(part.read_text())}), flush=True)
