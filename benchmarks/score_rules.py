"""Which rule from views and modalities to a sample's score: simulated scores, and generated data without its labels (M5).

    python benchmarks/score_rules.py [--only simulated,real,generated] [--methods padim,patchcore] [--seeds 1,2] [--workspace W]

``simulated``: AUROC of each rule for scores of five views with known distributions, standardised by n normals in three ways.
``real``: M5 on real categories' training normals alone, of which every third is held out: neither fitted nor seen with a label.
``generated``: detectors on generated categories. M5 is the AUROC of normals that are neither fitted nor calibrated on against
the same with compact pseudo anomalies, in all views and in one; S-AUROC on the generated defects stands beside it, and is not
what rules are chosen by. ``results/score_rules.json`` is written after each category; what it holds is not computed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import mvad
from mvad import files
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.config import ScoreConfig
from mvad.model.devices import resolve_device
from mvad.model.evaluation.evaluate import at_pixels
from mvad.model.metrics.auroc import auroc
from mvad.model.metrics.pixels import PixelScores
from mvad.model.runs import machine
from mvad.model.score_scale import ScoreScale, scale_of
from mvad.model.scoring import over_modalities, over_views
from mvad.model.synthesis.compact import draw_compact

RESULTS = Path(__file__).parent / "results" / "score_rules.json"
GENERATED = ["--train", "30", "--validation", "16", "--good", "16", "--per-defect", "4", "--size", "224"]
SHAPES = ("gear", "plate", "dome")
INPUTS = ("rgb+depth", "rgb")
REAL = (
    "mvtec3d cable_gland padim rgb", "mvtec3d cable_gland padim normal", "mvtec3d cable_gland patchcore rgb",
    "eyecandies CandyCane padim rgb", "eyecandies CandyCane padim normal", "mvtec3d cable_gland padim rgb+normal",
)  # fmt: skip
SAMPLE_RULES = ("max", "top2", "mean")
DRAWS = 3
"""Pseudo anomalies per normal sample and kind."""

VIEWS, TESTED, REPEATS = 5, 800, 60
SPREAD = np.array([0.4, 0.6, 1.0, 1.6, 2.5])
Array = NDArray[np.float64]


def draw(kind: str, count: int, spread: Array, rng: np.random.Generator) -> Array:
    """Draw scores of normal samples (count, VIEWS), correlated over views; ``spread`` multiplies the deviation of each view."""
    together, alone = rng.standard_normal((count, 1)), rng.standard_normal((count, VIEWS))
    z = 0.55 * together + (1 - 0.55**2) ** 0.5 * alone
    if kind == "normal":
        return spread * z
    if kind == "lognormal":
        return spread * np.exp(z)
    if kind == "student":
        return spread * z * np.sqrt(3 / rng.chisquare(3, (count, VIEWS)))
    return 1 / (1 + np.exp(-(np.log(0.04 * spread) + 0.9 * z)))  # head: probabilities


def damage(kind: str, scores: Array, shown: str, rng: np.random.Generator) -> Array:
    """Return scores of samples with a defect in all views or in one; its strength is the same in all views, in the method's unit."""
    marked = np.ones(scores.shape, bool) if shown == "all" else np.eye(VIEWS, dtype=bool)[rng.integers(VIEWS, size=len(scores))]
    if kind == "head":
        lift = rng.gamma(2, 0.8 if shown == "all" else 1.6, scores.shape)
        return np.where(marked, 1 / (1 + np.exp(-(np.log(scores / (1 - scores)) + lift))), scores)
    size = {"normal": (1.2, 3.0), "student": (1.2, 3.5), "lognormal": (1.5, 5.0)}[kind][shown == "one"]
    return np.where(marked, scores + rng.gamma(4, size / 4, scores.shape), scores)


def simulated() -> list[dict[str, Any]]:
    """Return a row per distribution, spread, kind of defect and number of normals: AUROC by way to standardise, and rule."""
    rows = []
    for spread in ("same", "differ"):
        scale = np.ones(VIEWS) if spread == "same" else SPREAD
        for kind in ("normal", "student", "lognormal", "head"):
            for shown in ("all", "one"):
                for count in (4, 10, 23, 100):
                    row = _simulate(kind, shown, count, scale)
                    rows.append({"scores": kind, "spread_of_views": spread, "defect_in": shown, "normals": count, "auroc": row})
                    print(rows[-1], flush=True)
    return rows


def _simulate(kind: str, shown: str, count: int, spread: Array) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for repeat in range(REPEATS):
        rng = np.random.default_rng([repeat, count])
        normals, good = draw(kind, count, spread, rng), draw(kind, TESTED, spread, rng)
        bad = damage(kind, draw(kind, TESTED, spread, rng), shown, rng)
        robust = scale_of(torch.from_numpy(normals)[:, :, None])
        ways = {
            "raw": (np.zeros(VIEWS), np.ones(VIEWS)),
            "mean and deviation": (normals.mean(axis=0), normals.std(axis=0, ddof=1)),
            "held_out": (robust.location[:, 0].numpy(), robust.deviation[:, 0].numpy()),
        }
        for way, (location, deviation) in ways.items():
            views = [torch.from_numpy((scores - location) / deviation) for scores in (good, bad)]
            for rule in SAMPLE_RULES:
                area = area_of(*(over_views(scores, rule) for scores in views))
                found.setdefault(way, {}).setdefault(rule, []).append(area)
    return {way: {rule: round(100 * float(np.mean(v)), 1) for rule, v in by.items()} for way, by in found.items()}


def area_of(good: Tensor, bad: Tensor) -> float:
    """Return the AUROC of scores of good and bad samples."""
    labels = np.arange(len(good) + len(bad)) >= len(good)
    return auroc(torch.cat([good, bad]).double().numpy(), labels)


def prepare(workspace: Path, seed: int) -> None:
    """Generate, render and pack the shapes of a seed where they are not packed yet."""
    if all((workspace / "shards" / "mvtec3d" / shape / "manifest.json").exists() for shape in SHAPES):
        return
    for words in (
        ["synth", "mvtec3d", *GENERATED, "--seed", str(seed)], ["render", "mvtec3d", "--views", "5", "--size", "128"], ["pack"],
    ):  # fmt: skip
        command = [sys.executable, "-m", "mvad.cli", *words, "--workspace", str(workspace)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def generated(packed: Path, method: str, inputs: str, run: Path) -> dict[str, Any]:
    """Return M5 and S-AUROC in percent by scale, modalities and sample rule, for a method trained on a generated category."""
    names = inputs.split("+")
    found = mvad.train(
        packed, method, run, preset="small", device="cpu", input__modalities=names, input__size=128, **TEXTURES
    )  # fmt: skip
    detector = found.detector
    scale, detector.scale = detector.scale, None
    assert scale is not None
    data = ShardSet(packed, "test", fields=[*names, "source"])
    good, bad = (np.flatnonzero(data.labels == label) for label in (False, True))
    assert data.scan_sizes is not None
    width = int(data.scan_sizes[0, 1])
    scores: dict[str, list[Tensor]] = {"good": [], "defects": [], "all": [], "one": []}
    for row in good:
        batch = data.batch([int(row)])
        scores["good"].append(raw(detector, batch))
        for kind in ("all", "one"):
            for number in range(DRAWS):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{batch.keys[0]} {kind} {number}".encode()))
                changed = draw_compact(batch, generator, "all" if kind == "all" else "one", width)[0]
                scores[kind].append(raw(detector, changed))
    scores["defects"] = [raw(detector, data.batch([int(row)])) for row in bad]
    rows = {
        f"{way}, {modalities}": _areas({kind: torch.cat(values) for kind, values in scores.items()}, used, modalities)
        for way, used in (("none", None), ("held_out", scale))
        for modalities in (("max", "add") if len(names) > 1 else ("max",))
    }
    weights = dict(zip(names, scale.weights.tolist(), strict=True))
    return {
        "m5_and_s_auroc": rows, "weights": weights, "p_auroc": _pixels(detector, data, scale), "test": len(data),
        "views_of_a_point": views_of_a_point(packed),
    }  # fmt: skip


TEXTURES = {"pseudo__textures": "procedural"}


def raw(detector: mvad.Detector, batch: Batch) -> Tensor:
    """Return the raw image scores (1, V, M) of a sample."""
    scores = detector.score(batch).image_scores
    assert scores is not None
    return scores


def _areas(scores: dict[str, Tensor], scale: ScoreScale | None, modalities: str) -> dict[str, dict[str, float]]:
    config = ScoreConfig(modalities="add" if modalities == "add" else "max")
    views = {k: over_modalities(s if scale is None else scale.of_scores(s), config, scale) for k, s in scores.items()}
    return {
        kind: {
            rule: round(100 * area_of(over_views(views["good"], rule), over_views(views[kind], rule)), 1) for rule in SAMPLE_RULES
        }
        for kind in ("all", "one", "defects")
    }


def _pixels(detector: mvad.Detector, data: ShardSet, scale: ScoreScale) -> dict[str, float]:
    """Return P-AUROC and AUPRO@30 on the generated test split, with raw maps compared and with standardised maps added."""
    config, figures = detector.config, {}
    for name, used, modalities in (("none, max", None, "max"), ("held_out, add", scale, "add")):
        detector.scale = used
        holder = getattr(detector, "base", detector)
        holder.config = with_modalities(config, modalities)
        pixels = PixelScores()
        for row in range(len(data)):
            batch = data.batch([row])
            maps, masks = at_pixels(batch, detector.score(batch))
            pixels.add(batch.keys[0], maps, masks)
        found = pixels.figures()
        figures[f"{name}, P-AUROC"] = round(100 * found.auroc.value, 1)
        figures[f"{name}, AUPRO@30"] = round(100 * found.aupro[0.3], 1)
        holder.config = config
    return figures


def held_out(packed: Path, method: str, inputs: str, run: Path) -> dict[str, Any]:
    """Return M5 in percent on normals alone: the validation split, one half of which gives the scale for the other, and back."""
    names = inputs.split("+")
    detector = mvad.train(
        packed,
        method,
        run,
        preset="small",
        device="cpu",
        input__modalities=names,
        input__size=256,
        score__scale="none",
        **TEXTURES,
    ).detector
    data = ShardSet(packed, "validation", fields=[*names, "source"])
    assert data.scan_sizes is not None
    scores: dict[str, list[Tensor]] = {"good": [], "all": [], "one": []}
    for row in range(len(data)):
        batch = data.batch([row])
        scores["good"].append(raw(detector, batch))
        for kind in ("all", "one"):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{batch.keys[0]} {kind}".encode()))
            changed = draw_compact(batch, generator, "all" if kind == "all" else "one", int(data.scan_sizes[0, 1]))[0]
            scores[kind].append(raw(detector, changed))
    rows: dict[str, Any] = {}
    for way in ("none", "held_out"):
        for modalities in ("max", "add") if len(names) > 1 else ("max",):
            halves = []
            for first in (0, 1):
                judged = {kind: torch.cat(values[1 - first :: 2]) for kind, values in scores.items()}
                used = scale_of(torch.cat(scores["good"][first::2])) if way == "held_out" else None
                halves.append(_areas(judged | {"defects": judged["all"]}, used, modalities))
            rows[f"{way}, {modalities}"] = {
                kind: {rule: round((halves[0][kind][rule] + halves[1][kind][rule]) / 2, 1) for rule in SAMPLE_RULES}
                for kind in ("all", "one")
            }
    return {"m5_and_s_auroc": rows, "normals": len(data), "views_of_a_point": views_of_a_point(packed)}


def prepare_real(workspace: Path, dataset: str, category: str) -> Path:
    """Render and pack training scans of a real category, of which every third is held out as validation; return the folder."""
    real, raw_folder = Path(os.environ["MVAD_REAL_DATA"]), workspace / "raw" / dataset
    packed = workspace / "shards" / dataset / category
    if (packed / "manifest.json").exists():
        return packed
    found = [
        (part, ref) for part in (real, real / "more") if (part / dataset / category).is_dir()
        for ref in reader_for(dataset).refs(part / dataset, category, ReadOptions()) if ref.split == "train"
    ]  # fmt: skip
    for number, (part, ref) in enumerate(sorted(found, key=lambda item: item[1].key)):
        for path in ref.paths.values():
            inside = path.relative_to(part / dataset / category)
            if number % 3 == 0:
                inside = Path({"mvtec3d": "validation", "eyecandies": "val"}[dataset], *inside.parts[1:])
            for each in [path] if dataset == "mvtec3d" else sorted(path.parent.glob(f"{ref.id}_*")):
                link = raw_folder / category / inside.with_name(each.name)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(each.resolve())
    chosen = ["--category", category, "--workspace", str(workspace)]
    for words in (
        ["render", dataset, "--split", "train", "--split", "validation", *chosen],
        ["pack", "--dataset", dataset, *chosen],
    ):
        subprocess.run([sys.executable, "-m", "mvad.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return packed


def views_of_a_point(packed: Path) -> list[float]:
    """Return the shares of the training objects' points that one view shows, two views show, and so on."""
    data = ShardSet(packed, "train", fields=["source"])
    counts = np.zeros(len(data.views) + 1)
    for row in range(0, len(data), 3):
        source = data.batch([row]).source
        assert source is not None
        points = np.concatenate([np.unique(view[view >= 0]) for view in source[0].numpy()])
        counts += np.bincount(np.unique(points, return_counts=True)[1], minlength=len(counts))
    return [round(float(count), 3) for count in counts[1:] / counts[1:].sum()]


def with_modalities(config: Any, modalities: str) -> Any:
    """Return a configuration with another ``score.modalities``."""
    from dataclasses import replace

    return replace(config, score=replace(config.score, modalities=modalities))


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the means over categories by method and input.

    ``expected`` weighs the two kinds of pseudo anomalies by how many views show a point of a training object: the share of points
    that one view alone shows is that of anomalies in one view.
    """
    groups: dict[str, list[Any]] = {}
    for name, row in rows.items():
        method, inputs, *_ = name.split()
        groups.setdefault(f"{method} {inputs}", []).append(row)
    means: dict[str, Any] = {}
    for group, members in groups.items():
        alone = float(np.mean([row["views_of_a_point"][0] for row in members]))
        found = [row["m5_and_s_auroc"] for row in members]
        means[group] = {
            way: {
                kind: {rule: round(float(np.mean([m[way][kind][rule] for m in found])), 1) for rule in SAMPLE_RULES}
                for kind in found[0][way]
            }
            for way in found[0]
        }
        for way, kinds in means[group].items():
            expected = {rule: round((1 - alone) * kinds["all"][rule] + alone * kinds["one"][rule], 1) for rule in SAMPLE_RULES}
            means[group][way] = kinds | {"expected": expected}
        means[group]["points that one view alone shows, percent"] = round(100 * alone, 1)
    return means


def main(words: Sequence[str]) -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="simulated,real,generated")
    parser.add_argument("--methods", default="padim,patchcore")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--inputs", default=",".join(INPUTS))
    parser.add_argument("--workspace", type=Path, default=Path("mvad-score-rules"))
    chosen = parser.parse_args(words)
    result: dict[str, Any] = files.read_json(RESULTS) if RESULTS.exists() else {}
    result["machine"] = machine(resolve_device("cpu"))
    if "simulated" in chosen.only:
        result["simulated"] = simulated()
        files.write_json(RESULTS, result)
    for name in REAL if "real" in chosen.only and "MVAD_REAL_DATA" in os.environ else ():
        dataset, category, method, inputs = name.split()
        if name in result.get("held_out_normals", {}):
            continue
        packed = prepare_real(chosen.workspace / "real", dataset, category)
        row = held_out(packed, method, inputs, chosen.workspace / "real" / "runs" / name.replace(" ", "-"))
        result.setdefault("held_out_normals", {})[name] = row
        files.write_json(RESULTS, result)
        print(name, row, flush=True)
    for seed in chosen.seeds.split(",") if "generated" in chosen.only else ():
        workspace = chosen.workspace / f"seed{seed}"
        prepare(workspace, int(seed))
        for method in chosen.methods.split(","):
            for shape in chosen.shapes.split(","):
                for inputs in chosen.inputs.split(","):
                    name = f"{method} {inputs} {shape} seed{seed}"
                    if name in result.get("generated", {}):
                        continue
                    packed = workspace / "shards" / "mvtec3d" / shape
                    row = generated(packed, method, inputs, workspace / "runs" / name.replace(" ", "-"))
                    result.setdefault("generated", {})[name] = row
                    result["means"] = summary(result["generated"])
                    files.write_json(RESULTS, result)
                    print(name, row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
