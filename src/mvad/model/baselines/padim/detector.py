"""PaDiM (Defard et al., ICPR 2021): one Gaussian of features per position and view, Mahalanobis distance.

Levels 1 to 3 at level 1's size, random channels of them, 0.01 I added to each covariance, smoothing with sigma 4.
Backbone: the chosen teacher (paper: ResNet-18 with 100 channels, WideResNet-50 with 550). Positions at which no training
sample shows the object are left out (``score.region``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.padim import PaDiMConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import fetched, moved
from mvad.model.features import ViewFeatures, not_shown, smooth_upsample
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import counted, finish_maps, highest
from mvad.model.training.context import FitContext

_HELD_BYTES = 4 << 30
"""Bytes of features of a split that are held at the same time."""

_BLOCK_BYTES = 1 << 30
"""Bytes of float64 features whose covariances are taken together."""


_WHITENING = ".whitening"


def _whole(stored: Tensor) -> Tensor:
    """Return whitenings (P, C, C) from their lower halves (P, C (C + 1) / 2) row by row; earlier runs stored them whole."""
    if stored.dim() == 3:
        return stored
    side = int(((8 * stored.shape[1] + 1) ** 0.5 - 1) / 2)
    whole = stored.new_zeros(len(stored), side, side)
    rows, columns = torch.tril_indices(side, side)
    whole[:, rows, columns] = stored
    return whole


class PaDiM(Detector):
    """PaDiM with one Gaussian per view, modality and position."""

    config: PaDiMConfig

    def __init__(self, config: PaDiMConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        channels = sum(teacher.channels)
        generator = torch.Generator().manual_seed(config.seed)
        self.channels = torch.randperm(channels, generator=generator)[: min(config.padim.channels, channels)].to(device)
        self.tensors: dict[str, Tensor] = {}
        self._positions: dict[str, Tensor] = {}

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``: one pass over the samples, then means and covariances per view and modality.

        A large split takes several passes, each for some of the inputs, since all features of one pass are held.
        """
        inputs = self._inputs()
        side = self.config.input.size // 4
        each = len(train) * side**2 * len(self.channels) * 2
        together = max(1, min(len(inputs), _HELD_BYTES // max(each, 1)))
        passes = [list(inputs)[k : k + together] for k in range(0, len(inputs), together)]
        context.progress.start(f"train {context.run.name}", len(passes) * len(train) + len(inputs))
        for names in passes:
            chosen = [inputs[name] for name in names]
            gathered: list[list[Tensor]] = []
            counted_cells: list[Tensor] = []
            for views in self.features.each_sample(train):
                embedding = self._embedding(views)[0]
                gathered.append([embedding[v, m].flatten(0, 1).to(torch.float16) for v, m in chosen])
                counted_cells.append(self.features.counts(views, int(embedding.shape[-2]))[0])
                context.progress.advance()
            counts = fetched([torch.stack(counted_cells)])[0]
            for number, (name, (v, _)) in enumerate(zip(names, chosen, strict=True)):
                shown = [one[number] for one, places in zip(gathered, counts[:, v], strict=True) if places.any()]
                if not shown:
                    raise not_shown(v, self.spec)
                self._fit_input(name, shown, counts[:, v].any(dim=0))
                context.progress.advance()

    def _fit_input(self, name: str, shown: Sequence[Tensor], places: Tensor) -> None:
        """Estimate the Gaussians of one input from the features (s * s, C) of each sample that shows it, at ``places`` (s, s)."""
        positions, there = moved([places.flatten().nonzero()[:, 0], places], self.device)
        eye = torch.eye(len(self.channels), dtype=torch.float64, device=self.device)
        block = max(1, _BLOCK_BYTES // (len(shown) * len(self.channels) * 8))
        means, whitenings = [], []
        for some in torch.split(positions, block):
            points = torch.stack([features.index_select(0, some) for features in shown], dim=1).float()
            mean = points.mean(dim=1)
            offset = (points - mean[:, None]).double()  # float32 is not enough with as many dimensions as samples
            covariance = offset.transpose(1, 2) @ offset / max(len(shown) - 1, 1)
            factor = torch.linalg.cholesky(covariance + self.config.padim.regulariser * eye)
            whitenings.append(torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False).float())
            means.append(mean)
        self._positions[name] = positions
        self.tensors |= {f"{name}.places": there, f"{name}.mean": torch.cat(means), f"{name}.whitening": torch.cat(whitenings)}

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        maps = self.maps_of(views)
        return finish_maps(maps, views, self.config.score, highest(maps, counted(views, self.config.score)), scale=self.scale)

    def maps_of(self, views: ViewImages) -> Tensor:
        """Return the smoothed distances (B, V, M, S, S), before they are brought to one scale."""
        embedding = self._embedding(views)
        b, v, m, side = embedding.shape[:4]
        size, planes = self.config.input.size, []
        for name, (view, modality) in self._inputs().items():
            positions = self._positions[name]
            features = embedding[:, view, modality].flatten(1, 2).index_select(1, positions)
            offset = features - self.tensors[f"{name}.mean"]
            distance = torch.einsum("pij,bpj->bpi", self.tensors[f"{name}.whitening"], offset).norm(dim=-1)
            plane = embedding.new_zeros(b, side * side).scatter(1, positions.expand(b, -1), distance)
            planes.append(plane.view(b, side, side))
        gathered = torch.stack(planes, dim=1).view(b, v, m, side, side) * self.features.counts(views, side)[:, :, None]
        return smooth_upsample(gathered.flatten(0, 2), size, self.config.padim.sigma * size / 256).view(b, v, m, size, size)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``; of each whitening, a lower triangle, only that half is stored."""
        rows, columns = torch.tril_indices(len(self.channels), len(self.channels), device=self.channels.device)
        halves = {name: tensor[:, rows, columns] for name, tensor in self.tensors.items() if name.endswith(_WHITENING)}
        return {**self.tensors, **halves, "channels": self.channels}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.channels = state["channels"].to(self.device)
        names = [f"{name}.{part}" for name in self._inputs() for part in ("places", "mean", "whitening")]
        wholes = {name: _whole(state[name]) if name.endswith(_WHITENING) else state[name] for name in names}
        self.tensors = {name: tensor.to(self.device) for name, tensor in wholes.items()}
        found = {name: state[f"{name}.places"].flatten().nonzero()[:, 0] for name in self._inputs()}
        self._positions = {name: positions.to(self.device) for name, positions in found.items()}

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: one pass of the teacher, and one matrix inverse per position."""
        pixels = len(self._inputs()) * self.config.input.size**2
        return 2e-6 * samples * pixels + pixels / 16 * len(self.channels) ** 3 * 1e-10

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.features.teacher.backbone]

    def _inputs(self) -> dict[str, tuple[int, int]]:
        spec = self.spec
        return {f"{v}.{name}": (v, m) for v in range(spec.views) for m, name in enumerate(spec.modalities)}

    def _embedding(self, views: ViewImages) -> Tensor:
        """Return the chosen channels of all levels at stride 4, (B, V, M, s, s, channels)."""
        levels = [level.flatten(0, 2) for level in self.features.levels(views)]
        side = int(levels[0].shape[-1])
        resized = [functional.interpolate(level, size=side, mode="bilinear", align_corners=False) for level in levels]
        chosen = torch.cat(resized, dim=1)[:, self.channels]
        return chosen.permute(0, 2, 3, 1).reshape(*views.images.shape[:3], side, side, -1)
