"""Add a method of your own: the brightest pixel of a view is its score. Every command and table then takes it by name.

python examples/own_method.py mvad-data/shards/mvtec3d/gear
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import mvad


class Brightness(mvad.Detector):
    """The mean training picture of each view, and the largest deviation from it."""

    def __init__(self, config: mvad.ModelConfig, spec: mvad.InputSpec, teacher: Any, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.mean = torch.zeros(0)

    def fit(self, train: mvad.ShardSet, context: Any) -> None:
        """Average the training pictures."""
        self.mean = torch.stack([train.batch([k]).rgb[0].float().mean(dim=-1) for k in range(len(train))]).mean(dim=0)

    def score(self, batch: mvad.Batch) -> mvad.AnomalyMaps:
        """Compare with the average."""
        maps = (batch.rgb.float().mean(dim=-1) - self.mean).abs()
        scores = maps.amax(dim=(2, 3)).masked_fill(~batch.present, -torch.inf)
        return mvad.AnomalyMaps(maps, scores, scores.amax(dim=1))

    def state(self) -> dict[str, Tensor]:
        """Return what is saved."""
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take it back."""
        self.mean = state["mean"]

    def planned_seconds(self, samples: int) -> float:
        """Return how long training takes."""
        return 0.01 * samples


mvad.register_method(
    mvad.Method(
        "brightness", "Brightness", "deviation from the mean picture", "none", "none", mvad.ModelConfig, Brightness, one_pass=True
    )
)
folder = sys.argv[1]
run = mvad.train(folder, "brightness", "runs/example-brightness", input__modalities=["rgb"])
print(f"{run}: S-AUROC {run.evaluate(folder).figures['s_auroc']}")
