"""SimpleNet (Liu et al., CVPR 2023): a discriminator learns to separate normal adapted features from noisy ones.

Levels 2 and 3, 3x3 neighbourhoods, one linear adaptor, Gaussian noise of deviation 0.015, a two-layer discriminator,
truncated L1 at 0.5, Adam 1e-4 and 2e-4 with weight decay 1e-5 (the paper's; its code has AdamW with 0.01 for the adaptor); first weights
and the share of hidden units are those of the authors' code (DonaldRR/SimpleNet, 351a2b8), which pools patches to 1,536 channels; here
they keep the teacher's. Map: the negative output, sigma 4; image: its maximum.
Backbone: the chosen teacher (paper: WideResNet-50). One network for all views and modalities; patches of the background
are left out (``score.region``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.simplenet import SimpleNetConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import seeded
from mvad.model.features import ViewFeatures, counted_cells, neighbourhoods, smooth_upsample
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext
from mvad.model.training.on_images import load_modules, module_state, present_images, samples_per_step, spread, train_on_images
from mvad.model.training.optimizers import Optimizers, constant, groups

_META_EPOCHS = 4
"""Passes over the training split per epoch in the authors' code."""


class SimpleNet(Detector):
    """SimpleNet with one adaptor and discriminator for all views and modalities."""

    config: SimpleNetConfig

    def __init__(self, config: SimpleNetConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        channels = teacher.channels[1] + teacher.channels[2]
        with seeded(config.seed):
            self.adaptor, hidden = nn.Linear(channels, channels), int(channels // 1.5)
            self.discriminator = nn.Sequential(
                nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1, bias=False)
            )
            for part in (self.adaptor, *self.discriminator):
                if isinstance(part, nn.Linear):
                    nn.init.xavier_normal_(part.weight)
        for module in self._parts().values():
            module.to(device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config = self.config.simplenet
        rates = ((self.adaptor, config.adaptor_lr), (self.discriminator, config.discriminator_lr))
        adams = [torch.optim.Adam(groups([(module.parameters(), lr)]), lr, weight_decay=1e-5) for module, lr in rates]
        optimizers = Optimizers([(adam, constant) for adam in adams])

        def loss_of(images: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
            patches, chosen = self._patches(images, seen)
            normal = self.adaptor(patches[chosen])
            noise = torch.randn(normal.shape, generator=generator).to(normal) * config.noise
            logits = self.discriminator(torch.cat([normal, normal + noise]))[:, 0]
            real, fake = logits.chunk(2)
            loss: Tensor = (config.margin - real).clamp(min=0).mean() + (config.margin + fake).clamp(min=0).mean()
            return loss

        steps = self._steps(len(train))
        train_on_images(self.features, self._parts(), optimizers, train, context, steps, config.batch, loss_of)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        images, counts = present_images(views)
        size = self.config.input.size
        self.adaptor.eval()
        self.discriminator.eval()
        with torch.no_grad():
            patches, chosen = self._patches(images, counts)
            planes = -self.discriminator(self.adaptor(patches.flatten(0, 2)))[:, 0].view(patches.shape[:3])
        lowest = planes.masked_fill(~chosen, torch.inf).amin(dim=(1, 2), keepdim=True)
        planes = torch.where(chosen, planes, torch.where(torch.isinf(lowest), planes.amin(dim=(1, 2), keepdim=True), lowest))
        scores = planes.amax(dim=(1, 2))
        maps = smooth_upsample(planes, size, self.config.simplenet.sigma * size / 256)
        return finish_maps(spread(maps, views), views, self.config.score, spread(scores, views), scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return module_state(self._parts())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        load_modules(self._parts(), state)

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: proportional to the number of pixels processed by the teacher."""
        return 1.5e-6 * self._steps(samples) * self.config.simplenet.batch * self.config.input.size**2

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [*self._parts().values(), self.features.teacher.backbone]

    def _parts(self) -> dict[str, nn.Module]:
        return {"adaptor": self.adaptor, "discriminator": self.discriminator}

    def _steps(self, samples: int) -> int:
        config = self.config.simplenet
        return max(1, _META_EPOCHS * config.epochs * samples // samples_per_step(self.features, config.batch))

    def _patches(self, images: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (N, s, s, C) at stride 8, and which of them count (N, s, s) bool."""
        patches = neighbourhoods(self.features.features(images))
        return patches, counted_cells(counts[:, None], patches.shape[1], self.config.score)[:, 0]
