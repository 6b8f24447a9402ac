"""PaDiM (Defard et al., ICPR 2021): a Gaussian of features at each position of each view, Mahalanobis distance.

Levels 1 to 3 at level 1's size, random channels of them, 0.01 I added to each covariance, Gaussian sigma 4.
Backbone: the chosen teacher (paper: ResNet-18 with 100 channels, WideResNet-50 with 550). Positions at which no training
sample shows the object are left out (score.region).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, FitContext, InputSpec
from mvad.model.features import ViewFeatures, smooth_upsample
from mvad.model.images import ViewImages


class PaDiM:
    """Gaussians by view, modality and position."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher) -> None:
        self.config, self.spec = config, spec
        self.features = ViewFeatures(config, spec, teacher)
        every = sum(teacher.channels)
        generator = torch.Generator().manual_seed(config.seed)
        self.channels = torch.randperm(every, generator=generator)[: min(config.padim.channels, every)]
        self.tensors: dict[str, Tensor] = {}

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``: two passes, means and then covariances."""
        inputs = self._inputs()
        context.progress.start(f"train {context.run.name}", len(train) + len(inputs))
        gathered: list[Tensor] = []
        counted: list[Tensor] = []
        for index in range(len(train)):
            views = self.features.images(train.batch([index]))
            gathered.append(self._embedding(views)[0].to(torch.float16))
            counted.append(self.features.counts(views, gathered[-1].shape[-2])[0])
            context.progress.advance()
        there = torch.stack(counted)
        for name, (v, m) in inputs.items():
            places = there[:, v].any(dim=0)
            rows = [number for number in range(len(gathered)) if there[number, v].any()]
            points = torch.stack([gathered[number][v, m][places] for number in rows], dim=1).float()
            mean = points.mean(dim=1)
            offset = (points - mean[:, None]).double()  # as many dimensions as samples: float32 is not enough
            covariance = offset.transpose(1, 2) @ offset / max(len(rows) - 1, 1)
            eye = torch.eye(len(self.channels), dtype=torch.float64, device=covariance.device)
            factor = torch.linalg.cholesky(covariance + self.config.padim.regulariser * eye)
            whitening = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
            self.tensors |= {f"{name}.places": places, f"{name}.mean": mean, f"{name}.whitening": whitening.float()}
            context.progress.advance()

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        embedding = self._embedding(views)
        b, v, m, side = embedding.shape[:4]
        size, planes = self.config.input.size, embedding.new_zeros(b, v, m, side, side)
        for name, (view, modality) in self._inputs().items():
            places = self.tensors[f"{name}.places"]
            offset = embedding[:, view, modality][:, places] - self.tensors[f"{name}.mean"]
            distance = torch.einsum("pij,bpj->bpi", self.tensors[f"{name}.whitening"], offset).norm(dim=-1)
            planes[:, view, modality, places] = distance
        planes = planes * self.features.counts(views, side)[:, :, None]
        maps = smooth_upsample(planes.flatten(0, 2), size, self.config.padim.sigma * size / 256).view(b, v, m, size, size)
        return self.features.answer(views, maps, (maps * views.seen[:, :, None]).amax(dim=(-2, -1)))

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return {**self.tensors, "channels": self.channels}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.channels = state["channels"]
        names = [f"{name}.{part}" for name in self._inputs() for part in ("places", "mean", "whitening")]
        self.tensors = {name: state[name].to(self.features.device) for name in names}

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: one pass of the teacher, an inverse a position."""
        pixels = len(self._inputs()) * self.config.input.size**2
        return 2e-6 * samples * pixels + pixels / 16 * len(self.channels) ** 3 * 1e-10

    def _inputs(self) -> dict[str, tuple[int, int]]:
        spec = self.spec
        return {f"{v}.{name}": (v, m) for v in range(spec.views) for m, name in enumerate(spec.modalities)}

    def _embedding(self, views: ViewImages) -> Tensor:
        """Return (B, V, M, s, s, channels) at stride 4."""
        levels = [level.flatten(0, 2) for level in self.features.levels(views)]
        side = int(levels[0].shape[-1])
        grown = [functional.interpolate(level, size=side, mode="bilinear", align_corners=False) for level in levels]
        chosen = torch.cat(grown, dim=1)[:, self.channels.to(grown[0].device)]
        return chosen.permute(0, 2, 3, 1).reshape(*views.images.shape[:3], side, side, -1)
