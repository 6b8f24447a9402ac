"""Reconstruct: a small U-Net generates a missing view from those that are present (paper, Figure 4).

Each present view is encoded, levels are averaged over the views, and a view embedding selects the view to generate. Trained
with L1 and the cosine distance of teacher features, on normal samples, from random subsets of their views.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.datasets.shards.batches import Batches
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.devices import constant, moved, seeded
from mvad.model.features import ViewFeatures
from mvad.model.idif.losses import cosine_maps
from mvad.model.images import ViewImages, background_fill
from mvad.model.input_spec import InputSpec
from mvad.model.missing.filler import completed
from mvad.model.missing.methods import ReconstructConfig
from mvad.model.training.context import FitContext

_LEVELS = 4


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.GELU())


class ViewPainter(nn.Module):
    """U-Net from the mean features of present views to the image and outline of one view."""

    def __init__(self, channels: int, views: int, width: int) -> None:
        super().__init__()
        if width % 4:
            raise BadInput(f"reconstruct.width = {width} must be a multiple of 4")
        widths = [width * 2 ** min(level, 3) for level in range(_LEVELS)]
        self.down = nn.ModuleList(
            _block(channels if k == 0 else widths[k - 1], w, 1 if k == 0 else 2) for k, w in enumerate(widths)
        )
        self.view_embedding = nn.Parameter(torch.randn(views, widths[-1]) * 0.02)
        self.up = nn.ModuleList(_block(widths[k] + widths[k - 1], widths[k - 1]) for k in range(_LEVELS - 1, 0, -1))
        self.out = nn.Conv2d(widths[0], channels + 1, 1)

    def forward(self, images: Tensor, present: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Generate one view per sample.

        Parameters
        ----------
        images
            (B, V, C, S, S) float32 in -1..1.
        present
            (B, V) bool, views that are used; at least one per sample.
        view
            (B,) int64, the view to generate.

        Returns
        -------
        tuple
            Image (B, C, S, S), logits of the outline (B, S, S).
        """
        b, v = present.shape
        weight = present.float() / present.sum(dim=1, keepdim=True)
        x, levels = images.flatten(0, 1), []
        for layer in self.down:
            x = layer(x)
            levels.append((x.view(b, v, *x.shape[1:]) * weight[:, :, None, None, None]).sum(dim=1))
        x = levels.pop() + self.view_embedding[view][:, :, None, None]
        for layer in self.up:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, levels.pop()], dim=1))
        out = self.out(x)
        return out[:, :-1], out[:, -1]


class Reconstruct:
    """Filler that generates missing views by a U-Net."""

    def __init__(self, config: ReconstructConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec = config, spec
        self.features = ViewFeatures(config, spec, teacher, device)
        with seeded(config.seed):
            channels = 3 * len(spec.modalities)
            self.painter = ViewPainter(channels, spec.views, config.reconstruct.width).to(device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Filler.fit``. There are no checkpoints: after an interruption the training, which takes minutes, starts again."""
        config = self.config.reconstruct
        adam = torch.optim.Adam(self.painter.parameters(), config.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, config.lr, total_steps=max(config.steps, 2))
        self.painter.train()
        context.progress.start(f"learn to draw views {context.run.name}", config.steps)
        for k, batch in enumerate(Batches(train, self.config.seed, 2).steps(0, config.steps)):
            views = self.features.images(batch)
            random = np.random.default_rng([self.config.seed, 3, k])
            target = torch.from_numpy(random.integers(self.spec.views, size=len(views.images)))
            present = views.present.clone()
            kept = torch.from_numpy(random.random(present.shape[1]) < 0.6)
            samples = torch.arange(len(target))
            has_target = present[samples, target]
            present &= kept
            present[samples, target] = False
            usable = present.any(dim=1) & has_target
            if bool(usable.any()):
                loss = self._loss(views, present, target, usable)
                adam.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                adam.step()
            schedule.step()
            context.progress.advance()
        self.painter.eval()

    def fill(self, views: ViewImages) -> ViewImages:
        """See ``Filler.fill``."""
        self.painter.eval()
        images, seen = views.images.clone(), views.seen.clone()
        fill = constant(background_fill(self.config.input, self.features.teacher), images.device).view(3, 1, 1)
        with torch.no_grad():
            for view in range(self.spec.views):
                missing = (~views.present[:, view]).nonzero()[:, 0]
                if len(missing):
                    rows, present = moved([missing, views.present[missing]], images.device)
                    number = torch.full((len(missing),), view, device=images.device)
                    picture, outline = self.painter(_coded(views.images[rows]), present, number)
                    inside = outline > 0
                    picture = ((picture + 1) * 127.5).clamp(0, 255).unflatten(1, (-1, 3))
                    images[rows, view] = torch.where(inside[:, None, None], picture, fill)
                    seen[rows, view] = inside
        return completed(views, images, seen)

    def state(self) -> dict[str, Tensor]:
        """See ``Filler.state``."""
        return dict(self.painter.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Filler.load_state``."""
        self.painter.load_state_dict({name: state[name] for name in self.painter.state_dict()})

    def _loss(self, views: ViewImages, present: Tensor, target: Tensor, usable: Tensor) -> Tensor:
        """Return the loss of drawing each usable sample's target view from its present ones; the last three on the host."""
        chosen = usable.nonzero()[:, 0]
        rows, kept, view = moved([chosen, present[chosen], target[chosen]], views.images.device)
        picture, outline = self.painter(_coded(views.images[rows]), kept, view)
        original, seen = views.images[rows, view], views.seen[rows, view].float()
        weight = seen[:, None]
        coded = original.flatten(1, 2) / 127.5 - 1
        difference = ((picture - coded).abs() * weight).sum() / (weight.sum() * coded.shape[1]).clamp(min=1)
        edge = functional.binary_cross_entropy_with_logits(outline, seen)
        painted = ((picture + 1) * 127.5).unflatten(1, (-1, 3)) * weight[:, None] + original * (1 - weight[:, None])
        teacher = self.features.teacher.backbone
        with torch.no_grad():
            target_features = teacher(original.flatten(0, 1))
        maps = cosine_maps(target_features, teacher(painted.flatten(0, 1)))
        cosine: Tensor = torch.stack([level.mean() for level in maps]).sum()
        loss: Tensor = difference + edge + 0.5 * cosine
        return loss


def _coded(images: Tensor) -> Tensor:
    """Return images (B, V, M, 3, S, S) in 0..255 as (B, V, M * 3, S, S) in -1..1."""
    return images.flatten(2, 3) / 127.5 - 1
