"""Add a method: the deviation of each view from the mean training view.

Train and evaluate it on a packed category:
    python examples/own_method.py mvad-data/shards/mvtec3d/gear
The commands take it by name, too:
    PYTHONPATH=examples MVAD_PLUGINS=own_method mvad train --model mean_view --modalities rgb
    PYTHONPATH=examples MVAD_PLUGINS=own_method mvad evaluate
"""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

import mvad


class MeanView(mvad.Detector):
    """The mean training image of each view and modality; a pixel's score is its distance from it, in 0..255."""

    def __init__(
        self, config: mvad.ModelConfig, spec: mvad.InputSpec, teacher: mvad.Teacher, device: torch.device
    ) -> None:  # fmt: skip
        self.config, self.spec, self.device = config, spec, device
        size = config.input.size
        self.mean = torch.zeros(spec.views, len(spec.modalities), 3, size, size, device=device)

    def images(self, batch: mvad.Batch) -> mvad.ViewImages:
        """Return the views at the size of ``input.size``, black off the object."""
        return mvad.view_images(
            batch.to(self.device), self.spec.modalities, self.config.input.size, (0, 0, 0), self.spec.depth_range
        )

    def fit(self, train: mvad.ShardSet, context: mvad.FitContext) -> None:
        """Average each view over the samples that have it."""
        context.progress.start("mean view", len(train))
        total, count = torch.zeros_like(self.mean), torch.zeros(self.spec.views, device=self.device)
        for index in range(len(train)):
            views = self.images(train.batch([index]))
            total += views.images[0] * views.present[0][:, None, None, None, None]
            count += views.present[0]
            context.progress.advance()
        self.mean = total / count.clamp(min=1)[:, None, None, None, None]

    def score(self, batch: mvad.Batch) -> mvad.AnomalyMaps:
        """Return the distances as maps; ``finish_maps`` makes the scores by ``score.*`` and leaves out what does not count."""
        views = self.images(batch)
        return mvad.finish_maps((views.images - self.mean).norm(dim=3), views, self.config.score, scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """Return what is saved."""
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        self.mean = state["mean"].to(self.device)


mvad.register_method(
    mvad.Method(
        "mean_view",
        "Mean view",
        "distance from the mean training view",
        "none",
        "none",
        mvad.ModelConfig,
        MeanView,
        one_pass=True,
    )
)

if __name__ == "__main__":
    folder = sys.argv[1]
    run = mvad.train(folder, "mean_view", "runs/example-mean-view", input__modalities=["rgb"], input__size=64)
    print(f"{run}: S-AUROC {run.evaluate(folder).figures['s_auroc']}")
