"""Steps of guarded optimizers on the emulated CUDA device, printed as JSON; a process of its own (``cuda.py``).

python guarded.py SCRATCH
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from guard import load_guard

load_guard(Path(sys.argv[1]))

import cuda  # noqa: E402  # imports torch, which asks for the guard
import torch  # noqa: E402

cuda.install()

from mvad.model.training.optimizers import Optimizers, constant, groups  # noqa: E402

CLIP = 0.5


def stepped(kind: str, device: torch.device, losses: list[str]) -> dict[str, Any]:
    """Return the weights and the loss after each step; ``losses`` are plain, nan, or steep: finite, of an infinite gradient."""
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(3).to(device))
    parts = groups([([weights], 0.1)])
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parts, momentum=0.9, weight_decay=1e-2)
    if kind == "adamw":
        optimizer = torch.optim.AdamW(parts, weight_decay=1e-2)
    optimizers, rows = Optimizers([(optimizer, constant)], CLIP), []
    for k, loss in enumerate(losses):
        value = (weights**2).sum()
        if loss == "nan":
            value = value * float("nan")
        elif loss == "steep":
            value = value + ((weights - weights.detach()) ** 2 + 0.0).sum().sqrt()  # 0 / 0 in its gradient
        cuda.COUNTS.taken()
        told = optimizers.step(value, k)
        stops = cuda.COUNTS.taken()["stops"]
        rows.append({"loss": float(told), "weights": weights.detach().cpu().tolist(), "stops": stops})
    return {"kind": kind, "device": device.type, "rows": rows}


if __name__ == "__main__":
    with cuda.EmulatedMode():
        found = [
            stepped(kind, device, losses)
            for kind in ("sgd", "adamw")
            for losses in (["plain"] * 3, ["plain", "nan", "plain"], ["steep"], ["plain", "steep"])
            for device in (cuda.CUDA, torch.device("cpu"))
        ]
    print(json.dumps(found))
