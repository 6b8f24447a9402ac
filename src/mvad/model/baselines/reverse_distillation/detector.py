"""Reverse distillation (Deng and Li, CVPR 2022): a decoder reconstructs the teacher's features from a narrow embedding.

Multi-scale fusion and one-class embedding to stride 32, a mirrored decoder, 1 - cosine over flattened maps, Adam 0.005
(0.5, 0.999); map: sum of the upsampled 1 - cos of three levels, sigma 4; image: its maximum. Layers and their first weights are those of
the authors' code (hq-deng/RD4AD, 6554076), in which the fused levels enter the embedding without the 1x1 convolution of the paper's
text. Ours: a 1x1 convolution after each stage where the teacher's features can be negative (EfficientNet-Lite0), which a ReLU cannot give.
Backbone: the chosen teacher (paper: WideResNet-50). One network for all views and modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.backbones.resnet18 import BasicBlock, kaiming_convolutions
from mvad.model.baselines.reverse_distillation import ReverseDistillationConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import seeded
from mvad.model.features import ViewFeatures, smooth_upsample
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import counted, finish_maps, highest
from mvad.model.training.context import FitContext
from mvad.model.training.on_images import present_images, samples_per_step, spread, train_on_images
from mvad.model.training.optimizers import Optimizers, constant, groups


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs))


class _UpBlock(nn.Module):
    """Residual block to twice the side: a transposed and a 3x3 convolution beside a transposed one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_up(inputs, outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = _up(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, 2 h, 2 w)."""
        return torch.relu(self.main(x) + self.shortcut(x))


class _Stage(nn.Module):
    """Residual block to twice the side and another one; ``project``: a 1x1 convolution gives features of either sign."""

    def __init__(self, inputs: int, outputs: int, project: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_UpBlock(inputs, outputs), BasicBlock(outputs, outputs))
        self.out = nn.Conv2d(outputs, outputs, 1) if project else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, h, w) to the input of the next stage and the reconstructed features, both (N, outputs, 2 h, 2 w)."""
        x = self.blocks(x)
        return x, self.out(x)


class Decoder(nn.Module):
    """One-class bottleneck embedding and mirrored decoder; ``project`` where the teacher's features can be negative."""

    def __init__(self, channels: tuple[int, int, int], project: bool) -> None:
        super().__init__()
        at4, at8, at16 = channels
        self.from4, self.from8 = nn.Sequential(_down(at4, at8), _down(at8, at16)), _down(at8, at16)
        self.embed = nn.Sequential(BasicBlock(3 * at16, 2 * at16, 2), BasicBlock(2 * at16, 2 * at16))
        widths = ((2 * at16, at16), (at16, at8), (at8, at4))
        self.stage16, self.stage8, self.stage4 = (_Stage(inputs, outputs, project) for inputs, outputs in widths)
        kaiming_convolutions(self)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher's levels (N, C_l, h_l, w_l) at strides 4, 8, 16 to their reconstructions of the same shapes."""
        fused = torch.cat([self.from4(levels[0]), self.from8(levels[1]), levels[2]], dim=1)
        x, third = self.stage16(self.embed(fused))
        x, second = self.stage8(x)
        _, first = self.stage4(x)
        return first, second, third


class ReverseDistillation(Detector):
    """Reverse distillation with one decoder for all views and modalities."""

    config: ReverseDistillationConfig

    def __init__(self, config: ReverseDistillationConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        with seeded(config.seed):
            self.decoder = Decoder(teacher.channels, teacher.backbone.signed).to(device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config = self.config.rd
        adam = torch.optim.Adam(groups([(self.decoder.parameters(), config.lr)]), config.lr, betas=(0.5, 0.999))

        def loss_of(images: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
            teacher = self.features.features(images)
            loss = images.new_zeros(())
            for t, s in zip(teacher, self.decoder(teacher), strict=True):
                loss = loss + (1 - functional.cosine_similarity(t.flatten(1), s.flatten(1))).mean()
            return loss

        steps = self._steps(len(train))
        optimizers = Optimizers([(adam, constant)])
        train_on_images(self.features, {"decoder": self.decoder}, optimizers, train, context, steps, config.batch, loss_of)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        images, _ = present_images(views)
        size = self.config.input.size
        self.decoder.eval()
        with torch.no_grad():
            teacher = self.features.features(images)
            planes = [1 - functional.cosine_similarity(t, s) for t, s in zip(teacher, self.decoder(teacher), strict=True)]
        resized = [functional.interpolate(p[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] for p in planes]
        flat = smooth_upsample(resized[0] + resized[1] + resized[2], size, self.config.rd.sigma * size / 256)
        maps = spread(flat, views)
        return finish_maps(maps, views, self.config.score, highest(maps, counted(views, self.config.score)), scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return dict(self.decoder.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.decoder.load_state_dict({name: state[name] for name in self.decoder.state_dict()})

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: proportional to the number of pixels processed by teacher and decoder."""
        images = self._steps(samples) * self.config.rd.batch
        return 2.5e-6 * images * self.config.input.size**2

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.decoder, self.features.teacher.backbone]

    def _steps(self, samples: int) -> int:
        return max(1, self.config.rd.epochs * samples // samples_per_step(self.features, self.config.rd.batch))
