"""PatchCore (Roth et al., CVPR 2022): one coreset of normal patches per view, nearest neighbour, reweighting.

Levels 2 and 3 (strides 8 and 16), 3x3 average neighbourhoods, concatenated at stride 8; greedy coreset of 10 %
after random projection to 128; smoothing with sigma 4. Backbone: the chosen teacher (paper: WideResNet-50).
One bank per view and modality; patches of the background are left out (``score.region``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.patchcore import PatchCoreConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import fetched, moved
from mvad.model.features import ViewFeatures, not_shown, smooth_upsample
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext

_COUNTED_FIRST = 2
"""Times ``max_patches`` of one input from which on patches are counted before they are gathered."""


class _Draw:
    """Draws at most ``most`` of the patches of one input, which are met one sample after another.

    Where their number is known before, only the drawn ones need to be kept; what is drawn is the same.
    """

    def __init__(self, generator: torch.Generator, most: int) -> None:
        self.generator, self._most = generator, most
        self._met = 0
        self._drawn: Tensor | None = None
        self._sorted: Tensor | None = None

    def know(self, total: int) -> None:
        """Draw among so many patches, before any is met."""
        if total > self._most:
            self._drawn = torch.randperm(total, generator=self.generator)[: self._most]
            self._sorted = self._drawn.sort().values

    def of_next(self, places: Tensor) -> Tensor:
        """Return those of the next patches, places (N,) of a sample, that have to be kept."""
        first, self._met = self._met, self._met + len(places)
        if self._sorted is None:
            return places
        low, high = torch.searchsorted(self._sorted, torch.tensor([first, self._met])).tolist()
        return places[self._sorted[low:high] - first]

    def order(self) -> Tensor | None:
        """Return the drawn ones among those that were kept, in the order of the draw; None: all of them."""
        if self._drawn is not None:
            return self._drawn.argsort().argsort()
        if self._met > self._most:
            return torch.randperm(self._met, generator=self.generator)[: self._most]
        return None


class PatchCore(Detector):
    """PatchCore with one memory bank of normal patches per view and modality."""

    config: PatchCoreConfig

    def __init__(self, config: PatchCoreConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        self.banks: dict[str, Tensor] = {}

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        inputs = self._inputs()
        context.progress.start(f"train {context.run.name}", len(train) + 10 * len(inputs))
        draws = {name: _Draw(self._generator(name), self.config.patchcore.max_patches) for name in inputs}
        if len(train) * (self.config.input.size // 8) ** 2 > _COUNTED_FIRST * self.config.patchcore.max_patches:
            self._count(train, draws)
        gathered: dict[str, list[Tensor]] = {name: [] for name in inputs}
        for views in self.features.each_sample(train):
            patches, counts = self.features.patches(views)
            places = fetched([counts[0].flatten(1)])[0]
            shown = [name for name, (v, _) in inputs.items() if views.present[0, v]]
            kept = moved([draws[name].of_next(places[inputs[name][0]].nonzero()[:, 0]) for name in shown], self.device)
            for name, indices in zip(shown, kept, strict=True):
                v, m = inputs[name]
                gathered[name].append(patches[0, v, m].flatten(0, 1).index_select(0, indices))
            context.progress.advance()
        for name, (v, _) in inputs.items():
            found = gathered.pop(name)
            if not any(len(patches) for patches in found):
                raise not_shown(v, self.spec)
            drawn = draws[name].order()
            every = torch.cat(found)
            found.clear()
            chosen = every if drawn is None else every[moved([drawn], every.device)[0]]
            self.banks[name] = self._coreset(chosen, draws[name].generator)
            context.progress.advance(10)

    def _count(self, train: ShardSet, draws: Mapping[str, _Draw]) -> None:
        """Tell each draw how many patches there are, so that only those that it draws are kept: a large split has a hundred times more.

        That takes the outlines of the objects alone, not the teacher.
        """
        totals, side = dict.fromkeys(draws, 0), 0
        for views in self.features.each_sample(train):
            side = side or int(self.features.patches(views)[0].shape[3])
            numbers = fetched([self.features.counts(views, side)[0].flatten(1).sum(dim=1)])[0].tolist()
            for name, (v, _) in self._inputs().items():
                totals[name] += numbers[v] if views.present[0, v] else 0
        for name, draw in draws.items():
            draw.know(totals[name])

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        patches, counts = self.features.patches(views)
        b, v, m = patches.shape[:3]
        size = self.config.input.size
        planes, scores = [], []
        for name, (view, modality) in self._inputs().items():
            plane, score = self._compare(patches[:, view, modality], counts[:, view], self.banks[name])
            planes.append(plane)
            scores.append(score)
        gathered = torch.stack(planes, dim=1)
        maps = smooth_upsample(gathered.flatten(0, 1), size, self.config.patchcore.sigma * size / 256)
        by_input = torch.stack(scores, dim=1).view(b, v, m)
        return finish_maps(maps.view(b, v, m, size, size), views, self.config.score, by_input, scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return dict(self.banks)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.banks = {name: state[name].to(self.device) for name in self._inputs()}

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: the greedy coreset is quadratic in the patches of a view."""
        patches = min(self.config.patchcore.max_patches, samples * (self.config.input.size // 8) ** 2 * 0.4)
        share = max(self.config.patchcore.coreset, min(1.0, self.config.patchcore.min_patches / max(patches, 1)))
        per_bank = patches * patches * share * self.config.patchcore.projection * 1.2e-10
        return len(self._inputs()) * per_bank + 2e-6 * samples * len(self._inputs()) * self.config.input.size**2

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.features.teacher.backbone]

    def _inputs(self) -> dict[str, tuple[int, int]]:
        spec = self.spec
        return {f"bank.{v}.{name}": (v, m) for v in range(spec.views) for m, name in enumerate(spec.modalities)}

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.config.seed} {name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))

    def _coreset(self, patches: Tensor, generator: torch.Generator) -> Tensor:
        """Return a coreset by greedy k-centre: each next patch is the one furthest from those already chosen."""
        config = self.config.patchcore
        count = min(len(patches), max(1, config.min_patches, round(config.coreset * len(patches))))
        projection = torch.randn(patches.shape[1], config.projection, generator=generator) / config.projection**0.5
        low = patches @ projection.to(patches)
        chosen = furthest_points(low, torch.randint(len(low), (1,), generator=generator), count)
        return patches.index_select(0, chosen)

    def _compare(self, patches: Tensor, counts: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance (B, s, s) of each patch to the bank, 0 where it does not count, and the reweighted scores (B,).

        The score of an image without patches is 0, the lowest. On a processor patches are selected before distances are computed, image
        by image; on a GPU and in an exported graph, where shapes must not depend on values, distances are masked afterwards.

        Parameters
        ----------
        patches
            (B, s, s, C).
        counts
            (B, s, s) bool, patches that count.
        bank
            (N, C).
        """
        if torch.onnx.is_in_onnx_export() or bank.device.type != "cpu":
            table = distances(patches.flatten(0, 2), bank).view(len(patches), -1, len(bank))
            inside = counts.flatten(1)
            distance, score = self._reweighted(table, inside, bank)
            return distance.view(counts.shape), torch.where(inside.any(dim=1), score, 0.0)
        planes, scores = patches.new_zeros(counts.shape), patches.new_zeros(len(patches))
        for row, inside in enumerate(counts):
            if inside.any():
                table = distances(patches[row][inside], bank)[None]
                distance, score = self._reweighted(table, torch.ones(table.shape[:2], dtype=torch.bool), bank)
                planes[row][inside], scores[row] = distance[0], score[0]
        return planes, scores

    def _reweighted(self, table: Tensor, inside: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances (B, P) to the nearest of the bank, 0 where not ``inside`` (B, P), and scores (B,) (eq. 6 and 7).

        ``table`` (B, P, N) has the distances to all of the bank (N, C).
        """
        distance, neighbour = table.min(dim=2)
        distance = torch.where(inside, distance, 0.0)
        worst = distance.argmax(dim=1, keepdim=True)
        nearest = bank.index_select(0, neighbour.gather(1, worst)[:, 0])
        around = distances(nearest, bank).topk(min(self.config.patchcore.neighbours, len(bank)), largest=False).indices
        far = table.gather(1, worst[:, :, None].expand(-1, -1, len(bank)))[:, 0].gather(1, around)
        furthest = distance.gather(1, worst)[:, 0]
        if around.shape[1] == 1:
            return distance, furthest
        # eq. 7, shifted by the largest exponent so that it cannot overflow
        return distance, (1 - torch.exp(furthest - torch.logsumexp(far, dim=1))) * furthest


def furthest_points(points: Tensor, first: Tensor, count: int) -> Tensor:
    """Return the numbers (count,) of points (N, D) by greedy k-centre: each next one is furthest from those chosen before.

    ``first`` (1,) is the number of the first one, on the host. The process never waits for the device.
    """
    squared = (points**2).sum(dim=1)
    chosen = torch.empty(count, dtype=torch.long, device=points.device)
    nearest = torch.full((len(points),), torch.inf, device=points.device)
    latest = moved([first], points.device)[0]
    for k in range(count):
        chosen[k : k + 1] = latest
        product = points @ points.index_select(0, latest)[0]
        nearest = torch.minimum(nearest, squared + squared.index_select(0, latest) - 2 * product)
        latest = nearest.argmax(dim=0, keepdim=True)
    return chosen


def distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distances (P, N) between (P, C) and (N, C) by a matrix product, which ONNX supports."""
    squared = (patches**2).sum(dim=1)[:, None] + (bank**2).sum(dim=1) - 2 * patches @ bank.T
    return squared.clamp(min=0).sqrt()
