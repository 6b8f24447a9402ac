"""Ways to read the maps of a trained IDIF, compared without labels: head or cosine maps, their window and number of pixels.

    python benchmarks/score_maps.py RUN [--workspace W]

RUN was trained with ``--holdout`` (``mvad train --model idif --preset small --holdout 0.2``). Its maps of held-out normals, of the
same with compact pseudo anomalies, and of as many fitted normals are computed once; M3 and M5 of each way stand in
``results/score_maps.json`` (docs/training.md, "Choosing without labels"), by max / top2 / mean over views. The scale is that of the
validation normals. Of one modality; some ten minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet, normal_rows
from mvad.model.backbones.weights import WeightsSource
from mvad.model.config import ScoreConfig
from mvad.model.devices import resolve_device
from mvad.model.holdout import parts_of, spread
from mvad.model.idif.detector import Idif
from mvad.model.idif.positions import PositionSums
from mvad.model.label_free import DRAWS, areas_by_rule, rows_by_key, with_anomalies
from mvad.model.memory import kept_memory
from mvad.model.runs import RunFolder, config_hash, machine
from mvad.model.score_scale import scale_of
from mvad.model.scoring import counted_scores, smooth
from mvad.model.synthesis.compact import KINDS

RESULTS = Path(__file__).parent / "results" / "score_maps.json"
VALIDATION, HELD_OUT, FITTED = "validation", "held out", "fitted"
WAYS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "head": (("head",), 5, 100),
    "logits of the head": (("logit",), 5, 100),
    "cosine": (("cosine",), 5, 100),
    "head and cosine": (("head", "cosine"), 5, 100),
    "head, score.top_k = 30": (("head",), 5, 30),
    "head, score.top_k = 300": (("head",), 5, 300),
    "head, score.top_k = 1000": (("head",), 5, 1000),
    "head, score.pool_px = 1": (("head",), 1, 100),
    "head, score.pool_px = 11": (("head",), 11, 100),
    "head by position": (("position",), 5, 100),
    "head by position, score.top_k = 30": (("position",), 5, 30),
    "head by position, score.top_k = 300": (("position",), 5, 300),
    "head by position, score.pool_px = 11": (("position",), 11, 100),
    "head by position, and cosine": (("position", "cosine"), 5, 100),
    "head less the mean at its position": (("less mean",), 5, 100),
}
"""Kinds of maps, of which several are added on one scale; ``score.pool_px``; ``score.top_k``."""


@dataclass(frozen=True)
class Maps:
    """Maps of the V views of one sample at the network's strides: logits (V, h, w), cosine levels (V, h_l, w_l); outlines (V, S, S)."""

    logits: Tensor
    levels: list[Tensor]
    seen: Tensor

    def of_kind(self, kind: str, positions: tuple[Tensor, Tensor]) -> Tensor:
        """Return one map per view, (1, V, 1, S, S); ``positions``: mean and deviation of fitted normals (V, h, w)."""
        mean, deviation = positions
        found = {
            "head": lambda: self._full(torch.sigmoid(self.logits)),
            "logit": lambda: self._full(self.logits),
            "position": lambda: self._full((self.logits - mean) / deviation),
            "less mean": lambda: self._full(self.logits - mean),
            "cosine": lambda: torch.stack([self._full(level) for level in self.levels]).sum(dim=0),
        }[kind]()
        return found[None, :, None]

    def _full(self, maps: Tensor) -> Tensor:
        return interpolate(maps[:, None].float(), size=self.seen.shape[-1], mode="bilinear", align_corners=False)[:, 0]


def maps_of(detector: Idif, samples: Iterable[Batch | None]) -> list[Maps]:
    """Return the maps of samples; None: there is none."""
    found = []
    detector.network.eval(), detector.heads.eval()
    for batch in samples:
        if batch is not None:
            views = detector.images(batch)
            levels, logits = detector.training_steps.present_logits(views)
            found.append(Maps(logits.cpu(), [level.half().cpu() for level in levels], views.seen[0].cpu()))
    return found


def all_maps(detector: Idif, folder: Path, share: float) -> dict[str, list[Maps]]:
    """Return maps of validation, held-out and all fitted normals, and of held-out ones with each kind of pseudo anomaly."""
    parts, names = parts_of(ShardSet(folder, "train"), share), detector.spec.modalities
    assert parts.held_out is not None, "the run holds nothing out: train it with --holdout 0.2"
    validation = ShardSet(folder, "validation", fields=names)
    held_out, fitted = parts.held_out.select([*names, "source"]), parts.fitted.select(names)
    rows, others = rows_by_key(held_out), rows_by_key(fitted)
    drawn = [(row, draw) for row in rows for draw in range(DRAWS)]
    found = {
        VALIDATION: maps_of(detector, (validation.batch([row]) for row in normal_rows(validation))),
        HELD_OUT: maps_of(detector, (held_out.batch([row]) for row in rows)),
        FITTED: maps_of(detector, (fitted.batch([row]) for row in others)),
    }
    return found | {kind: maps_of(detector, (with_anomalies(held_out, kind, [one]) for one in drawn)) for kind in KINDS}


def positions_of(maps: list[Maps]) -> tuple[Tensor, Tensor]:
    """Return what the head says of normals at each position, as training learns it (``head.by_position``)."""
    views, *size = maps[0].logits.shape
    sums = PositionSums.of(views, (size[0], size[1]), torch.device("cpu"))
    for one in maps:
        sums.add(one.logits[None], one.seen[None])
    return sums.mean_and_deviation()


def figures_of(
    maps: dict[str, list[Maps]], way: tuple[tuple[str, ...], int, int], positions: tuple[Tensor, Tensor]
) -> dict[str, dict[str, float]]:
    """Return M3 and M5 in percent by rule."""
    kinds, pool, top = way
    config, views = ScoreConfig(pool_px=pool, top_k=top), dict.fromkeys(maps, torch.zeros(()))
    for kind in kinds:
        scores = {name: torch.stack([_scores(one, kind, config, positions) for one in group]) for name, group in maps.items()}
        scale = scale_of(scores[VALIDATION])
        views = {name: views[name] + scale.of_scores(values)[:, :, 0] / len(kinds) for name, values in scores.items()}

    pairs = {"M3": (HELD_OUT, FITTED)} | {f"M5 {kind}": (kind, HELD_OUT) for kind in KINDS}
    return {
        figure: {rule: round(100 * area, 1) for rule, area in areas_by_rule(*(views[name] for name in pair)).items()}
        for figure, pair in pairs.items()
    }


def _scores(one: Maps, kind: str, config: ScoreConfig, positions: tuple[Tensor, Tensor]) -> Tensor:
    """Return the scores of a sample's views, (V, 1)."""
    seen = one.seen[None]
    return counted_scores(smooth(one.of_kind(kind, positions), seen[:, :, None], config), seen, config)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workspace", type=Path, default=Path("mvad-data"))
    given = parser.parse_args()
    device, run = resolve_device(), RunFolder(given.run)
    detector = run.load(WeightsSource(None, given.workspace / "weights", offline=True), device)
    assert isinstance(detector, Idif), "its ways are those of IDIF"
    assert len(detector.spec.modalities) == 1, "weights of several modalities are not compared"
    with kept_memory(device):
        maps = all_maps(detector, run.category_folder(given.workspace / "shards"), detector.config.train.holdout)
        positions = positions_of(maps[FITTED])
        maps[FITTED] = [maps[FITTED][at] for at in spread(len(maps[FITTED]), len(maps[HELD_OUT]))]
        rows = {name: figures_of(maps, way, positions) for name, way in WAYS.items()}
    record = run.record
    files.write_json(
        RESULTS,
        {
            "machine": machine(device), "category": record.category, "input": list(detector.spec.modalities),
            "config": config_hash(record.config), "samples": {name: len(group) for name, group in maps.items()}, "rows": rows,
        },
    )  # fmt: skip
    for name, row in rows.items():
        print(f"{name:28}", "  ".join(f"{figure} " + " / ".join(map(str, by_rule.values())) for figure, by_rule in row.items()))


if __name__ == "__main__":
    main()
