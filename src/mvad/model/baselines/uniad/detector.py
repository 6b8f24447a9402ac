"""UniAD (You et al., NeurIPS 2022): a transformer reconstructs normal features; masking keeps it from copying its input.

Features of all levels at stride 16, 4 + 4 layers of width 256, neighbour-masked attention (7 x 7), a learned query in each
decoder layer, feature jitter of scale 20, MSE, AdamW 1e-4, gradients clipped at 0.1; map: norm of the difference; image: maximum of the map
averaged over 16 x 16 pixels, of which only those on the object count. Positions, dropout and first weights are those of the authors' code
(zhiyuanyou/UniAD, a5b9d9d). Backbone: the chosen teacher at strides 4, 8 and 16 (paper: EfficientNet-B4 at 2 to 16). One network for all
views and modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.uniad import UniADConfig, UniADKeys
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import seeded
from mvad.model.features import ViewFeatures, concatenated
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext
from mvad.model.training.on_images import present_images, samples_per_step, spread, train_on_images
from mvad.model.training.optimizers import Optimizers, groups
from mvad.settings import check_multiple

_POOL = 16


def neighbour_mask(side: int, reach: int) -> Tensor:
    """Return (side^2, side^2) bool, true where a token may attend: outside of its ``reach`` x ``reach`` neighbourhood.

    A token whose neighbourhood covers the whole map may attend to all tokens but itself.
    """
    line = torch.arange(side)
    row, column = (x.flatten() for x in torch.meshgrid(line, line, indexing="ij"))
    near = ((row[:, None] - row).abs() <= reach // 2) & ((column[:, None] - column).abs() <= reach // 2)
    allowed = ~near
    fully_masked = ~allowed.any(dim=1)
    allowed[fully_masked] = ~torch.eye(side * side, dtype=torch.bool)[fully_masked]
    return allowed


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(query)), split(self.key(key)), split(self.value(value))
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


def _feed(config: UniADKeys) -> nn.Sequential:
    width = config.width
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(4 * width, width))


class _EncoderLayer(nn.Module):
    def __init__(self, config: UniADKeys) -> None:
        super().__init__()
        self.attention, self.feed = _Attention(config.width, config.heads, config.dropout), _feed(config)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, allowed: Tensor) -> Tensor:
        x = self.norms[0](x + self.drop(self.attention(x + position, x + position, x, allowed)))
        out: Tensor = self.norms[1](x + self.drop(self.feed(x)))
        return out


class _DecoderLayer(nn.Module):
    """Decoder layer: a learned query attends to the encoder's output, then to the previous layer's output."""

    def __init__(self, config: UniADKeys, tokens: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(tokens, config.width))
        self.first, self.second = (_Attention(config.width, config.heads, config.dropout) for _ in range(2))
        self.feed = _feed(config)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, allowed: Tensor) -> Tensor:
        query = self.query.expand(len(memory), -1, -1)
        query = self.norms[0](query + self.drop(self.first(query + position, memory + position, memory, allowed)))
        query = self.norms[1](query + self.drop(self.second(query + position, x + position, x, allowed)))
        out: Tensor = self.norms[2](query + self.drop(self.feed(query)))
        return out


class Reconstructor(nn.Module):
    """Transformer that reconstructs tokens (N, T, C)."""

    allowed: Tensor

    def __init__(self, channels: int, side: int, config: UniADKeys) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(channels, config.width), nn.Linear(config.width, channels)
        self.columns, self.rows = (nn.Parameter(torch.rand(side, config.width // 2)) for _ in range(2))
        self.encoder = nn.ModuleList(_EncoderLayer(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(_DecoderLayer(config, side * side) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("allowed", neighbour_mask(side, config.neighbours), persistent=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        for part in self.modules():
            if isinstance(part, _Attention):  # torch's attention draws the three as one matrix of three times the outputs
                for projection in (part.query, part.key, part.value):
                    nn.init.xavier_uniform_(projection.weight, gain=0.5**0.5)

    @property
    def position(self) -> Tensor:
        """Position of each token (T, width): the embedding of its column, then that of its row."""
        side = len(self.rows)
        columns, rows = self.columns[None].expand(side, -1, -1), self.rows[:, None].expand(-1, side, -1)
        return torch.cat([columns, rows], dim=2).flatten(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) to their reconstruction of the same shape."""
        x, position = self.enter(tokens), self.position
        for layer in self.encoder:
            x = layer(x, position, self.allowed)
        memory = x
        for layer in self.decoder:
            x = layer(x, memory, position, self.allowed)
        out: Tensor = self.leave(self.norm(x))
        return out


class UniAD(Detector):
    """UniAD with one transformer for all views and modalities."""

    config: UniADConfig

    def __init__(self, config: UniADConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        check_multiple(config, "uniad.width", "uniad.heads")
        if config.uniad.width % 2:
            raise BadInput(f"uniad.width = {config.uniad.width} must be even: half of it are columns, half rows")
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        self.side = config.input.size // 16
        with seeded(config.seed):
            self.network = Reconstructor(sum(teacher.channels), self.side, config.uniad).to(device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config = self.config.uniad
        steps = self._steps(len(train))
        adamw = torch.optim.AdamW(groups([(self.network.parameters(), config.lr)]), config.lr, weight_decay=1e-4)

        def loss_of(images: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
            tokens = self._tokens(images)
            jittered = tokens
            if config.jitter > 0:
                noise = torch.randn(tokens.shape, generator=generator).to(tokens)
                size = tokens.norm(dim=-1, keepdim=True) / tokens.shape[-1] * config.jitter
                hit = torch.rand(len(tokens), 1, 1, generator=generator).to(tokens) < config.jitter_probability
                jittered = tokens + noise * size * hit
            seed = int(torch.randint(2**62, (1,), generator=generator))
            with seeded(seed):  # dropout, the same where a training is continued
                return functional.mse_loss(self.network(jittered), tokens)

        optimizers = Optimizers([(adamw, lambda k: 0.1 if k >= 0.8 * steps else 1.0)], config.clip_norm)
        train_on_images(self.features, {"network": self.network}, optimizers, train, context, steps, config.batch, loss_of)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        images, seen = present_images(views)
        size = self.config.input.size
        self.network.eval()
        with torch.no_grad():
            tokens = self._tokens(images)
            distance = (self.network(tokens) - tokens).norm(dim=-1).view(-1, 1, self.side, self.side)
        maps = functional.interpolate(distance, size=size, mode="bilinear", align_corners=True)[:, 0]
        inside = (seen if self.config.score.region == "object" else torch.ones_like(seen)).to(maps)[:, None]
        pool = max(1, _POOL * size // 256)
        total, share = (functional.avg_pool2d(plane, pool, 1) for plane in (maps[:, None] * inside, inside))
        scores = (total / share.clamp(min=1 / pool**2)).amax(dim=(1, 2, 3))
        return finish_maps(spread(maps, views), views, self.config.score, spread(scores, views), scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return dict(self.network.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: proportional to the number of pixels processed by teacher and transformer."""
        return 3e-6 * self._steps(samples) * self.config.uniad.batch * self.config.input.size**2

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.network, self.features.teacher.backbone]

    def _steps(self, samples: int) -> int:
        return max(1, self.config.uniad.epochs * samples // samples_per_step(self.features, self.config.uniad.batch))

    def _tokens(self, images: Tensor) -> Tensor:
        """Return all levels at stride 16 as tokens (N, T, C)."""
        return concatenated(self.features.features(images), self.side).flatten(2).transpose(1, 2)
