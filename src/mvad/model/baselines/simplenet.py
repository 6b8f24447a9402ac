"""SimpleNet (Liu et al., CVPR 2023): noise on adapted features is what a discriminator learns to tell from normal ones.

Levels 2 and 3, 3x3 neighbourhoods, one linear adaptor, Gaussian noise of deviation 0.015, a two-layer discriminator,
truncated L1 at 0.5, Adam 1e-4 and 2e-4 with weight decay 1e-5; map: the negative answer, sigma 4; image: its maximum.
Backbone: the chosen teacher (paper: WideResNet-50). One network for all views and modalities; patches of the background
are left out (score.region).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, FitContext, InputSpec
from mvad.model.features import ViewFeatures, neighbourhoods, smooth_upsample
from mvad.model.training.on_images import present_images, samples_a_step, spread, train_on_images

_META_EPOCHS = 4
"""The authors' code goes over the discriminator's data four times an epoch."""


class SimpleNet:
    """Adaptor and discriminator."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher) -> None:
        self.config = config
        self.features = ViewFeatures(config, spec, teacher)
        channels = teacher.channels[1] + teacher.channels[2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.adaptor = nn.Linear(channels, channels)
            self.discriminator = nn.Sequential(
                nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.LeakyReLU(0.2), nn.Linear(channels, 1, bias=False)
            )
        for module in (self.adaptor, self.discriminator):
            module.to(self.features.device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config = self.config.simplenet
        optimizers = {
            "adaptor": torch.optim.Adam(self.adaptor.parameters(), config.adaptor_lr, weight_decay=1e-5),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), config.discriminator_lr, weight_decay=1e-5),
        }

        def learn(images: Tensor, counts: Tensor, generator: torch.Generator, k: int) -> Tensor:
            patches, chosen = self._patches(images, counts)
            normal = self.adaptor(patches[chosen])
            noise = torch.randn(normal.shape, generator=generator).to(normal) * config.noise
            answer = self.discriminator(torch.cat([normal, normal + noise]))[:, 0]
            real, fake = answer.chunk(2)
            loss: Tensor = (config.margin - real).clamp(min=0).mean() + (config.margin + fake).clamp(min=0).mean()
            return loss

        modules = {"adaptor": self.adaptor, "discriminator": self.discriminator}
        train_on_images(self.features, modules, optimizers, train, context, self._steps(len(train)), config.batch, learn)

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
        lowest = planes.amin(dim=(1, 2), keepdim=True)
        planes = torch.where(chosen, planes, lowest)
        scores = planes.amax(dim=(1, 2))
        maps = smooth_upsample(planes, size, self.config.simplenet.sigma * size / 256)
        return self.features.answer(views, spread(maps, views), spread(scores, views))

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        parts = {"adaptor": self.adaptor, "discriminator": self.discriminator}
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        for part, module in (("adaptor", self.adaptor), ("discriminator", self.discriminator)):
            module.load_state_dict({name: state[f"{part}.{name}"] for name in module.state_dict()})

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: from the number of pixels that go through the teacher."""
        return 1.5e-6 * self._steps(samples) * self.config.simplenet.batch * self.config.input.size**2

    def _steps(self, samples: int) -> int:
        config = self.config.simplenet
        return max(1, _META_EPOCHS * config.epochs * samples // samples_a_step(self.features, config.batch))

    def _patches(self, images: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (N, s, s, C) at stride 8, and which of them count (N, s, s)."""
        patches = neighbourhoods(self.features.of(images))
        share = functional.adaptive_avg_pool2d(counts.float(), patches.shape[1])
        chosen = share > 0.5 if self.config.score.region == "object" else torch.ones_like(share, dtype=torch.bool)
        return patches, chosen
