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
from mvad.model.features import ViewFeatures, smooth_upsample
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext


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
        gathered: dict[str, list[Tensor]] = {name: [] for name in inputs}
        for index in range(len(train)):
            views = self.features.images(train.batch([index]))
            patches, counts = self.features.patches(views)
            for name, (v, m) in inputs.items():
                if views.present[0, v]:
                    gathered[name].append(patches[0, v, m][counts[0, v]])
            context.progress.advance()
        for name in inputs:
            self.banks[name] = self._coreset(torch.cat(gathered.pop(name)), name)
            context.progress.advance(10)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        patches, counts = self.features.patches(views)
        b, v, m, side = patches.shape[:4]
        size = self.config.input.size
        planes = patches.new_zeros(b, v, m, side, side)
        scores = patches.new_full((b, v, m), -torch.inf)
        for name, (view, modality) in self._inputs().items():
            for row in range(b):
                if not torch.onnx.is_in_onnx_export() and not counts[row, view].any():
                    continue  # the view is missing or shows no object; an exported graph cannot branch
                plane, score = self._compare(patches[row, view, modality], counts[row, view], self.banks[name])
                planes[row, view, modality] = plane
                scores[row, view, modality] = score
        maps = smooth_upsample(planes.flatten(0, 2), size, self.config.patchcore.sigma * size / 256)
        return finish_maps(maps.view(b, v, m, size, size), views, self.config.score, scores, scale=self.scale)

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

    def _coreset(self, patches: Tensor, name: str) -> Tensor:
        """Return a coreset by greedy k-centre: each next patch is the one furthest from those already chosen."""
        config = self.config.patchcore
        digest = hashlib.sha256(f"{self.config.seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))
        if len(patches) > config.max_patches:
            patches = patches[torch.randperm(len(patches), generator=generator)[: config.max_patches]]
        count = min(len(patches), max(1, config.min_patches, round(config.coreset * len(patches))))
        projection = torch.randn(patches.shape[1], config.projection, generator=generator) / config.projection**0.5
        low = patches @ projection.to(patches)
        squared = (low**2).sum(dim=1)
        chosen = torch.empty(count, dtype=torch.long)
        nearest = torch.full((len(low),), torch.inf, device=low.device)
        latest = int(torch.randint(len(low), (1,), generator=generator))
        for k in range(count):
            chosen[k] = latest
            nearest = torch.minimum(nearest, squared + squared[latest] - 2 * (low @ low[latest]))
            latest = int(nearest.argmax())
        return patches[chosen.to(patches.device)].contiguous()

    def _compare(self, patches: Tensor, counts: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance (s, s) of each patch to the bank, and the image's reweighted score (eq. 6 and 7).

        Parameters
        ----------
        patches
            (s, s, C).
        counts
            (s, s) bool, patches that count; the distance of the others is 0.
        bank
            (N, C).
        """
        # Patches are selected before distances are computed; an exported graph, whose shapes are fixed, masks them afterwards.
        fixed = torch.onnx.is_in_onnx_export()
        table = distances(patches.flatten(0, 1) if fixed else patches[counts], bank)
        distance, neighbour = table.min(dim=1)
        if fixed:
            distance = torch.where(counts.flatten(), distance, 0.0)
            plane = distance.view(counts.shape)
        else:
            plane = distance.new_zeros(counts.shape)
            plane[counts] = distance
        worst = distance.argmax()
        around = distances(bank[neighbour[worst]][None], bank)[0].topk(
            min(self.config.patchcore.neighbours, len(bank)), largest=False
        ).indices  # fmt: skip
        # eq. 7, shifted by the largest exponent so that it cannot overflow
        far = table[worst, around]
        weight = 1 - torch.exp(distance[worst] - torch.logsumexp(far, 0))
        return plane, weight * distance[worst]


def distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distances (P, N) between (P, C) and (N, C) by a matrix product, which ONNX supports."""
    squared = (patches**2).sum(dim=1)[:, None] + (bank**2).sum(dim=1) - 2 * patches @ bank.T
    return squared.clamp(min=0).sqrt()
