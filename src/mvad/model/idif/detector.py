"""Detector of IDIF and its ablations: training in two phases as in DeSTSeg, and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.devices import moved, seeded
from mvad.model.features import not_shown
from mvad.model.idif.augment import turned, turned_outlines
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.effects import held_out_losses
from mvad.model.idif.head import Heads
from mvad.model.idif.network import Network
from mvad.model.idif.optimizers import head_optimizers, student_optimizers
from mvad.model.idif.positions import PositionSums
from mvad.model.idif.teacher_cache import TeacherCache
from mvad.model.idif.timing import estimated_seconds
from mvad.model.idif.training_steps import StepNumbers, TrainingSteps
from mvad.model.idif.view_dropout import draw_present
from mvad.model.idif.window import Window, fitted
from mvad.model.images import ViewImages, background_fill, view_images
from mvad.model.input_spec import InputSpec
from mvad.model.presence import Presence
from mvad.model.scoring import counted, counted_scores, finish_maps, smooth
from mvad.model.synthesis.paste import Corrupted, corrupt_by_plan
from mvad.model.synthesis.textures import load_textures
from mvad.model.training.context import FitContext
from mvad.model.training.engine import Figures, TrainingPhase, generator_of, train_phases
from mvad.model.training.graphs import StepGraphs
from mvad.model.training.on_images import load_modules, module_state
from mvad.model.training.parallel import share_batch_norms
from mvad.model.training.weights import count_no_batches
from mvad.progress import Progress
from mvad.settings import check_multiple

_MEASURED = 500
"""Number of training samples, evenly spread, that the head's window is fitted to."""

_CALIBRATION_STREAM = 6

_LEAST_DEVIATION = 0.05
"""Lower bound of a deviation as a share of the mean, since the scores of a few samples can agree by chance."""


class Idif(Detector):
    """IDIF: student, segmentation heads and frozen teacher."""

    config: IdifConfig

    def __init__(self, config: IdifConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        check_multiple(config, "voxel.width", "fusion.heads")
        check_multiple(config, "voxel.size", "voxel.patch")
        inputs = spec.views * len(spec.modalities)
        with seeded(config.seed):
            self.network = Network(config, spec, teacher)
            self.heads = Heads(inputs, sum(teacher.channels), config.head)
        self.config, self.spec, self.teacher, self.device = config, spec, teacher, device
        for module in self.modules():
            module.to(device)
            count_no_batches(module)
        for part in (self.network.encoder, self.network.decoders, self.heads, teacher.backbone):
            # Two to three times as fast as planar memory on a processor, and the format of tensor cores.
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types devices only
        if config.train.compile:
            for module in (self.network, self.heads):
                module.compile()
        self.training_steps = TrainingSteps(config, spec, teacher, self.network, self.heads)
        self.baseline = _identity_baseline(spec).to(device)
        self.positions: Tensor | None = None

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config, steps = self.config.train, self.training_steps
        if self.config.pseudo.swap and (config.batch == 1 or not context.ranks.alone):
            raise BadInput(
                "pseudo.swap takes views of other samples of the batch: train in one process, with train.batch of 2 or more"
            )
        for view in np.flatnonzero(~train.present.any(axis=0)):
            raise not_shown(int(view), self.spec)
        steps.ranks = context.ranks
        if not context.ranks.alone:
            share_batch_norms(self.network)
            share_batch_norms(self.heads)
        steps.window = self._window(train)
        steps.graphs = StepGraphs(self._uses_graphs(context), self.device, context.progress.say)
        train_phases(train, self._phases(context), self.config, context, config.batch, self.device, self.state, self.load_state)
        steps.finish()
        self._learn_positions(train, context.progress)
        self._calibrate(train)

    def _phases(self, context: FitContext) -> list[TrainingPhase]:
        """Return the two phases: the student learns the teacher's features, then the head learns to segment anomalies."""
        config, steps = self.config.train, self.training_steps
        textures, cache = load_textures(self.config.pseudo.textures), TeacherCache(steps.clean_features, self.device)
        student = student_optimizers(self.network, self.config.optimizer, self.config.encoder.lr_scale, config.student_steps)
        head = head_optimizers(self.heads, self.config.optimizer, config.head_steps)

        def corrupted(views: ViewImages, numbers: StepNumbers) -> Corrupted:
            return corrupt_by_plan(views, numbers.plan, self.spec, textures, self.config.pseudo)

        def draw_student(samples: int, k: int, generator: torch.Generator) -> StepNumbers:
            return steps.draw_student(samples, k, textures, generator)

        def draw_head(samples: int, k: int, generator: torch.Generator) -> StepNumbers:
            return steps.draw(samples, k, textures, generator)

        def student_step(batch: Batch, numbers: StepNumbers, k: int) -> Figures:
            views, keys = self._augmented(batch, numbers)
            changed = corrupted(views, numbers)
            clean = cache(views.images.flatten(1, 2), keys)
            figures = steps.student_step(views, changed, clean, student, k, numbers)
            if k < config.student_steps - 1 or context.held_out is None or context.ranks.rank:
                return figures
            losses = self.held_out_losses(context.held_out)
            return {**figures, **{f"held_out_{name}": loss for name, loss in losses.items()}}

        def head_step(batch: Batch, numbers: StepNumbers, k: int) -> Figures:
            views, _ = self._augmented(batch, numbers)
            return steps.head_step(views, corrupted(views, numbers), head, k, numbers)

        def begin_head() -> None:
            cache.clear()
            steps.begin_head()

        return [
            TrainingPhase(
                "student", config.student_steps, 0, steps.begin_student, draw_student, student_step, student, ("network.",)
            ),
            TrainingPhase("head", config.head_steps, 1, begin_head, draw_head, head_step, head, ("heads.",)),
        ]

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        return self.score_views(self.images(batch))

    def score_views(self, views: ViewImages, scored: ViewImages | None = None) -> AnomalyMaps:
        """Score samples that are float images already.

        Parameters
        ----------
        views
            Input of the network.
        scored
            The same samples with the presence and outlines to be scored, where some of ``views`` are substitutes for missing ones.
        """
        return finish_maps(self.maps_of(views), views if scored is None else scored, self.config.score, scale=self.scale)

    def maps_of(self, views: ViewImages) -> Tensor:
        """Return the maps (B, V, M, S, S) of ``score.map``, before they are brought to one scale."""
        mean, deviation = self.baseline[..., None, None]
        cosine, head = ((maps - mean[k]) / deviation[k] for k, maps in enumerate(self._maps(views)))
        maps: Tensor = {"head": head, "cosine": cosine, "both": (cosine + head) / 2}[self.config.score.map]
        return maps

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        window = torch.tensor(self.training_steps.window.side)
        positions = {} if self.positions is None else {"positions": self.positions}
        return {**module_state(self._parts()), "baseline": self.baseline, "window": window, **positions}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``.

        Raises
        ------
        BadInput
            If it is of a network of other parts, as version 0.1 had.
        """
        if not module_state(self._parts()).keys() <= state.keys():
            raise BadInput(
                "this model is of an earlier version of mvad, whose network had other parts; train it again as a new run"
            )
        load_modules(self._parts(), state)
        self.baseline = state["baseline"].to(self.device)
        self.positions = state["positions"].to(self.device) if "positions" in state else None
        self.training_steps.window = replace(self.training_steps.window, side=int(state["window"]))

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: the second of two steps of each phase is timed on random pictures."""
        return estimated_seconds(Idif(self.config, self.spec, self.teacher, self.device))

    def held_out_losses(self, normals: ShardSet) -> Mapping[str, float]:
        """See ``Detector.held_out_losses``."""
        return held_out_losses(self, normals)

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.network, self.heads, self.teacher.backbone]

    def fits(self, seen: Tensor) -> Tensor | None:
        """See ``Detector.fits``: the head sees a window of fixed size."""
        window = self.training_steps.window
        if window.whole:
            return None
        return window.places(seen.flatten(0, 1))[1].view(seen.shape[:2]).all(dim=1)

    def images(self, batch: Batch) -> ViewImages:
        """Return a batch as float images on the device."""
        fill = background_fill(self.config.input, self.teacher)
        return view_images(batch.to(self.device), self.spec.modalities, self.config.input.size, fill, self.spec.depth_range)

    def _uses_graphs(self, context: FitContext) -> bool:
        """Return whether steps may be recorded (``train.graphs``); sums over processes cannot be."""
        config = self.config.train
        return config.graphs and not config.compile and context.ranks.alone and self.device.type == "cuda"

    def _augmented(self, batch: Batch, numbers: StepNumbers) -> tuple[ViewImages, Sequence[str]]:
        """Return a batch as images, turned where ``augment.*`` says so, and keys that tell the turned ones apart."""
        views = self.images(batch)
        if numbers.turns is None:
            return views, batch.keys
        degrees = numbers.turns.values
        fill = background_fill(self.config.input, self.teacher)
        keys = [f"{key} turned {angle:g}" for key, angle in zip(batch.keys, degrees.tolist(), strict=True)]
        return turned(views, self.spec.modalities, moved([degrees], self.device)[0], fill), keys

    def _parts(self) -> dict[str, nn.Module]:
        return {"network": self.network, "heads": self.heads}

    def _maps(self, views: ViewImages) -> tuple[Tensor, Tensor]:
        """Return smoothed cosine and head maps, (B, V, M, S, S) each; 0 at pixels that do not count."""
        b, v, m, _, size, _ = views.images.shape
        levels, logits, present = self._evaluated(views)
        if self.positions is None:
            head = torch.sigmoid(logits)
        else:
            mean, deviation = (present.take(part.expand(b, *part.shape)) for part in self.positions)
            head = (logits - mean) / deviation
        resized = [_resize(level, size) for level in levels]
        smoothed = []
        for maps in (resized[0] + resized[1] + resized[2], _resize(head, size)):
            full = present.spread(maps).view(b, v, m, size, size)
            smoothed.append(smooth(full, views.seen[:, :, None], self.config.score))
        return smoothed[0], smoothed[1]

    def _evaluated(self, views: ViewImages) -> tuple[list[Tensor], Tensor, Presence]:
        """Return the cosine maps and the head's logits of the inputs that are there, and which are (``present_logits``)."""
        self.network.eval()
        self.heads.eval()
        present = self.training_steps.inputs(views.present)
        return *self.training_steps.present_logits(views, present), present

    def _window(self, train: ShardSet) -> Window:
        """Return the head's window (``head.window``)."""
        cells = self.config.input.size // 4
        config = self.config
        if config.head.window == "image" or config.score.region == "image" or config.loss.region == "image":
            return Window(cells, cells)
        outlines = train.select([])
        chosen = np.linspace(0, len(train) - 1, min(len(train), _MEASURED)).round().astype(int)
        found = (outlines.batch([int(index)]).seen[0] for index in chosen)
        return fitted((seen for one in found for seen in turned_outlines(one, config.augment)), cells)

    def _training_views(self, train: ShardSet) -> Iterator[ViewImages]:
        """Yield the training samples as they were trained on: now and then a view of one is missing, but none of all samples."""
        present = torch.tensor(train.present)
        kept = torch.stack(
            [
                draw_present(one[None], self.config.dropout, generator_of(self.config.seed, _CALIBRATION_STREAM, index))[0]
                for index, one in enumerate(present)
            ]
        )
        lost = present.any(dim=0) & ~kept.any(dim=0)
        kept |= present & lost
        for index in range(len(train)):
            yield replace(self.images(train.batch([index])), present=kept[index : index + 1])

    def _learn_positions(self, train: ShardSet, progress: Progress) -> None:
        """Set mean and deviation of the head's logits at each position, over the training samples (``head.by_position``)."""
        self.positions = None
        if not self.config.head.by_position:
            return
        progress.start("what is normal at each position", len(train))
        inputs, cells = self.spec.views * len(self.spec.modalities), self.config.input.size // 4
        sums = PositionSums.of(inputs, (cells, cells), self.device)
        for views in self._training_views(train):
            _, logits, present = self._evaluated(views)
            inside = counted(views, self.config.score).repeat_interleave(len(self.spec.modalities), dim=1)
            sums.add(present.spread(logits), inside)
            progress.advance(1)
        self.positions = torch.stack(sums.mean_and_deviation())

    def _calibrate(self, train: ShardSet) -> None:
        """Set the baseline to mean and standard deviation of the training samples' scores (``score.calibrate``)."""
        config = self.config.score
        if not config.calibrate:
            return
        scores, counts = [], []
        for views in self._training_views(train):
            inside = counted(views, config)
            scores.append(torch.stack([counted_scores(maps, inside, config)[0] for maps in self._maps(views)]))
            counts.append(inside[0].flatten(1).any(dim=1))
        stacked = torch.stack(scores)
        present = torch.stack(counts)[:, None, :, None].to(stacked)
        count = present.sum(dim=0)
        mean = (stacked * present).sum(dim=0) / count.clamp(min=1)
        variance = ((stacked - mean) ** 2 * present).sum(dim=0) / (count - 1).clamp(min=1)
        deviation = variance.sqrt().maximum(_LEAST_DEVIATION * mean.abs() + 1e-6)
        self.baseline = torch.stack([mean, torch.where(count > 0, deviation, 1.0)])


def _identity_baseline(spec: InputSpec) -> Tensor:
    """Return (2, 2, V, M): means 0 and deviations 1, each of the scores of cosine maps and head maps."""
    shape = (2, spec.views, len(spec.modalities))
    return torch.stack([torch.zeros(shape), torch.ones(shape)])


def _resize(maps: Tensor, size: int) -> Tensor:
    return nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
