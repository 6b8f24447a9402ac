"""Metrics compared with other packages, a stream of a thousand million pixels, and the commands that use a trained run.

Usage: python benchmarks/metrics.py [--quick] [--only SECTION,SECTION]. Sections that are not run keep their last results.

Peers are scikit-learn (exact, sorts), ADEval (1,000 linear bins), torchmetrics (1,000 thresholds), and a loop that labels
the regions again at every threshold, as most published code for AUPRO does. The commands are evaluate (on views and on
scans), predict, export and report. Every measurement runs in a separate process; peers alternate over several rounds. Writes
results/metrics-MACHINE.json and .svg.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from harness import QUICK, ROUNDS, THREADS, child, drive, in_turn, peak_mb, run, versions  # noqa: E402

PIXELS = 10_000_000 if QUICK else 100_000_000
SLOW = 10_000_000 if QUICK else PIXELS
STREAMED = 100_000_000 if QUICK else 1_000_000_000
MAPS = 40 if QUICK else 200
KINDS = ("distance", "sigmoid", "offset", "log-likelihood", "saturated")
"""Distances, sigmoids, and three of small relative spread: 1000 + s / 50, 400,000 + 3 s, and sigmoids of 12 + 2 s."""
_PIECE = 250_000


# ------------------------------------------------------------------------------------------------- pixels


def pixels(kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (count,) float32 and labels, one in a hundred anomalous; made in pieces, so that no other array is large."""
    scores, labels = np.empty(count, np.float32), np.empty(count, np.bool_)
    for first in range(0, count, _PIECE):
        random = np.random.default_rng(first)
        last = min(first + _PIECE, count)
        labels[first:last] = random.random(last - first, dtype=np.float32) < 0.01
        raw = random.standard_normal(last - first, dtype=np.float32)
        raw += np.float32(1.5) * labels[first:last]
        if kind == "distance":
            raw *= np.float32(0.5)
            raw += np.float32(3)
        elif kind == "offset":
            raw /= np.float32(50)
            raw += np.float32(1000)
        elif kind == "log-likelihood":
            raw *= np.float32(3)
            raw += np.float32(4e5)
        else:
            slope, shift = (-3, 8) if kind == "sigmoid" else (-2, -12)
            raw *= np.float32(slope)
            raw += np.float32(shift)
            np.exp(raw, out=raw)
            raw += np.float32(1)
            np.reciprocal(raw, out=raw)
        scores[first:last] = raw
    return scores, labels


def mapped_mb() -> float:
    """Resident memory of this process that is mapped from files, which are libraries."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1e3, 1)


@child
def p_auroc(name: str, kind: str, count: int) -> dict[str, float]:
    """Seconds, the area, and the peak memory of the process including the data."""
    if name == "mvad":
        from mvad.model.metrics.histogram import ScoreHistogram

        warm = ScoreHistogram()
        warm.add(np.ones(2, np.float32), np.array([True, False]))  # loads the compiled code
        warm.curve()
        scores, labels = pixels(kind, count)
        began = time.perf_counter()
        histogram = ScoreHistogram()
        histogram.add(scores, labels)
        area = histogram.curve().area()
        took, memory = time.perf_counter() - began, peak_mb()
        return {"s": took, "area": area, "mb": memory, "libraries_mb": mapped_mb(), "bound": histogram.bounds((0.3,)).auroc}
    scores, labels = pixels(kind, count)
    began = time.perf_counter()
    if name == "scikit-learn":
        from sklearn.metrics import roc_auc_score

        began = time.perf_counter()
        area = roc_auc_score(labels, scores)
    elif name == "ADEval":
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # it was written for numpy 1
        from adeval import auroc

        began = time.perf_counter()
        area = auroc(scores.reshape(-1, 1000, 1000), labels.reshape(-1, 1000, 1000).astype(np.uint8))
    else:
        import torch
        from torchmetrics.functional.classification import binary_auroc

        truth = torch.from_numpy(labels.astype(np.int64))
        began = time.perf_counter()
        area = float(binary_auroc(torch.from_numpy(scores), truth, thresholds=1000))
    return {"s": time.perf_counter() - began, "area": float(area), "mb": peak_mb()}


def areas(real: Path | None, scratch: Path) -> Any:
    result: dict[str, Any] = {"pixels": PIXELS, "pixels_of_slow_peers": SLOW}
    for kind in KINDS:
        counts = {"mvad": PIXELS, "scikit-learn": SLOW, "ADEval": SLOW, "torchmetrics, 1,000 thresholds": SLOW // 10}
        names = tuple(counts)[: 4 if kind == KINDS[0] else 3]  # torchmetrics takes 2 minutes
        taken = in_turn(lambda name, kind=kind, counts=counts: run("p_auroc", name=name, kind=kind, count=counts[name]), names, 1)
        exact = taken["scikit-learn"][0]["area"]
        ours = taken["mvad"] + [run("p_auroc", name="mvad", kind=kind, count=PIXELS) for _ in range(ROUNDS - 1)]
        if PIXELS != SLOW:
            exact = run("p_auroc", name="scikit-learn", kind=kind, count=PIXELS)["area"]
        seconds = statistics.median(each["s"] for each in ours)
        rows: dict[str, Any] = {}
        for name in names:
            first = taken[name][0]
            took = seconds if name == "mvad" else first["s"]
            per = took / counts[name] * PIXELS
            area = exact if counts[name] == PIXELS else None
            rows[name] = {
                "s": round(took, 3), "pixels": counts[name], "times_of_mvad": round(per / seconds, 1), "mb": first["mb"],
                "error": None if area is None else abs(first["area"] - area),
            }  # fmt: skip
        rows["mvad"] |= {name: ours[0][name] for name in ("bound", "libraries_mb")}
        result[kind] = rows
    return result


# ------------------------------------------------------------------------------------------------- regions


def maps_and_masks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth maps (count, 256, 256) float32; every other one has one to three anomalous boxes."""
    from scipy import ndimage

    random = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(random.standard_normal((count, 256, 256)), (0, 4, 4)).astype(np.float32)
    maps /= maps.std()
    masks = np.zeros(maps.shape, bool)
    for k in range(0, count, 2):
        for _ in range(random.integers(1, 4)):
            y, x = random.integers(0, 220, 2)
            h, w = random.integers(4, 36, 2)
            masks[k, y : y + h, x : x + w] = True
    maps[masks] += 1
    return np.asarray(3 + maps * np.float32(0.5), np.float32), masks


@child
def aupro(name: str, count: int) -> dict[str, float]:
    maps, masks = maps_and_masks(count)
    if name == "mvad":
        from mvad.model.metrics.pixels import PixelScores

        warm = PixelScores()
        warm.add("warm", maps[:2], masks[:2])
        warm.figures()
        began = time.perf_counter()
        pixel = PixelScores()
        for k in range(0, count, 5):
            pixel.add(str(k), maps[k : k + 5], masks[k : k + 5])
        figures = pixel.figures()
        return {"s": time.perf_counter() - began, "aupro": figures.aupro[0.3], "p_auroc": figures.auroc.value}
    if name == "exact sort":
        from mvad.model.metrics.curve import exact_curve
        from mvad.model.metrics.pixels import regions_of

        weights = np.zeros(maps.shape)
        for k, mask in enumerate(masks):
            regions, share = regions_of(mask)
            weights[k] = 0 if regions is None else share[regions]
        began = time.perf_counter()
        curve = exact_curve(maps.ravel(), masks.ravel(), weights.ravel())
        return {"s": time.perf_counter() - began, "aupro": curve.area(0.3)}
    if name == "ADEval":
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
        from adeval import auroc_aupr_aupro

        auroc_aupr_aupro(maps[:2], masks[:2].astype(np.uint8))
        began = time.perf_counter()
        found = auroc_aupr_aupro(maps, masks.astype(np.uint8))[2]
        return {"s": time.perf_counter() - began, "aupro": float(found)}
    began = time.perf_counter()
    found = relabelling(maps, masks)
    return {"s": time.perf_counter() - began, "aupro": found}


def relabelling(maps: np.ndarray, masks: np.ndarray, thresholds: int = 200) -> float:
    """AUPRO@0.3 as most published code computes it: at each of 200 thresholds every mask is labelled again."""
    from scipy import ndimage

    touching = np.ones((3, 3))
    low, high = float(maps.min()), float(maps.max())
    xs, ys = [], []
    for threshold in np.linspace(low, high, thresholds):
        shares = []
        for one, mask in zip(maps, masks, strict=True):
            regions, count = ndimage.label(mask, structure=touching)
            found = one > threshold
            shares += [found[regions == number].mean() for number in range(1, count + 1)]
        ys.append(np.mean(shares))
        xs.append((maps[~masks] > threshold).mean())
    x, y = np.array(xs)[::-1], np.array(ys)[::-1]
    kept = x < 0.3
    return float(np.trapezoid(np.append(y[kept], np.interp(0.3, x, y)), np.append(x[kept], 0.3)) / 0.3)


def regions(real: Path | None, scratch: Path) -> Any:
    taken = in_turn(lambda name: run("aupro", name=name, count=MAPS), ("mvad", "ADEval"), max(ROUNDS, 3))
    loop, exact = (run("aupro", name=name, count=MAPS) for name in ("relabelling loop", "exact sort"))
    ours = statistics.median(each["s"] for each in taken["mvad"])
    rows = {
        "mvad": taken["mvad"][0] | {"s": ours},
        "ADEval": taken["ADEval"][0] | {"s": statistics.median(e["s"] for e in taken["ADEval"])},
    }
    rows |= {"relabelling loop, 200 thresholds": loop, "exact sort": exact}
    return {
        "maps": MAPS,
        **{
            name: {
                "s": round(row["s"], 4),
                "times_of_mvad": round(row["s"] / ours, 1),
                "error": abs(row["aupro"] - exact["aupro"]),
            }
            for name, row in rows.items()
        },
    }


@child
def stream(count: int) -> dict[str, float]:
    from mvad.model.metrics.pixels import PixelScores

    random = np.random.default_rng(0)
    maps = 1 / (1 + np.exp(-random.standard_normal((5, 1024, 1024), dtype=np.float32)))
    masks = np.zeros(maps.shape, bool)
    masks[0, 100:200, 100:300] = True
    pixel, done = PixelScores(), 0
    began = time.perf_counter()
    while done < count:
        pixel.add(str(done), maps, masks)
        done += maps.size
    figures = pixel.figures()
    return {"pixels": done, "s": round(time.perf_counter() - began, 2), "mb": peak_mb(), "regions": figures.regions}


def streaming(real: Path | None, scratch: Path) -> Any:
    return run("stream", count=STREAMED)


# ------------------------------------------------------------------------------------------------- commands


def workspace(real: Path | None, scratch: Path) -> tuple[Path, str, list[str]]:
    """Pack real glands or generated gears, and train a PatchCore at 256 px and an IDIF of the small preset for few steps."""
    dataset, category = "mvtec3d", "cable_gland" if real else "gear"
    raw = ["--raw", str(real / dataset)] if real else []
    if not real:
        generated = ["--train", "12", "--good", "10", "--per-defect", "5", "--size", "400"]
        mvad(scratch, "synth", dataset, "--category", category, *generated)
    mvad(scratch, "render", dataset, "--category", category, *raw)
    mvad(scratch, "pack", "--dataset", dataset)
    common = ["train", "--category", category, "--preset", "small", "--textures", "procedural", "--modalities", "rgb"]
    mvad(scratch, *common, "--model", "patchcore", "--set", "input.size=256", "--name", "patchcore")
    mvad(
        scratch,
        *common,
        "--set",
        "input.size=128",
        "--set",
        "train.student_steps=20",
        "--set",
        "train.head_steps=10",
        "--name",
        "idif",
    )
    return scratch, category, raw


def mvad(place: Path, *arguments: str, threads: int = THREADS) -> tuple[float, str]:
    """Run a command; returns its wall time in seconds and what it printed."""
    environment = os.environ | {"MVAD_WORKSPACE": str(place), "OMP_NUM_THREADS": str(threads), "MVAD_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "mvad.cli", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mvad {' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return round(time.perf_counter() - began, 2), done.stdout


def verbs(real: Path | None, scratch: Path) -> Any:
    """Time evaluate on views and on scans, predict, export and report, and load the report in a browser."""
    from mvad.model.evaluation.results import Results

    place, category, raw = workspace(real, scratch)
    result: dict[str, Any] = {"category": category, "data": "real" if real else "generated"}
    scans = str(real / "mvtec3d" / category / "test") if real else str(place / "raw" / "mvtec3d" / category / "test")
    for name in ("patchcore", "idif"):
        folder = place / "runs" / name
        mvad(place, "evaluate", str(folder))
        wall, _ = mvad(place, "evaluate", str(folder))
        found = Results.read(folder / "results.json")
        row: dict[str, Any] = {
            "samples": found.figures.samples, "evaluate_wall_s": wall, **found.seconds,
            "network_share": round(found.seconds["network"] / found.seconds["all"], 3),
        }  # fmt: skip
        rules = [word for rule in ("mean", "max", "visibility") for word in ("--fuse", rule)]
        mvad(place, "evaluate", str(folder), "--project-to-scan", *raw)
        row["projected_all_s"] = Results.read(folder / "results.json").seconds["all"]
        mvad(place, "evaluate", str(folder), "--project-to-scan", *raw, *rules)
        found = Results.read(folder / "results.json")
        assert found.scan is not None
        row["on_the_scan"] = {
            rule: {key: round(100 * on_scan[key], 1) for key in ("i_auroc", "p_auroc", "aupro_30", "aupro_01")}
            for rule, on_scan in found.scan.figures.items()
        }
        figures = found.figures
        row["on_views"] = {key: round(100 * figures[key], 1) for key in ("s_auroc", "p_auroc", "aupro_30", "aupro_01")}
        _, printed = mvad(place, "predict", str(folder), scans)
        row["predict"] = next(line for line in printed.splitlines() if "median per sample" in line)
        result[name] = row
    _, printed = mvad(place, "export", str(place / "runs" / "idif"), "--format", "onnx")
    result["onnx"] = next(line for line in printed.splitlines() if line.startswith("written")).split("; ")[1]
    result["onnx_ms"] = run("onnx_ms", folder=str(place / "runs" / "idif"), shards=str(place / "shards" / "mvtec3d" / category))
    wall, _ = mvad(place, "report", "--out", str(place / "report.html"))
    result["report"] = {"s": wall, "mb": round((place / "report.html").stat().st_size / 1e6, 2), **browser(place / "report.html")}
    return result


@child
def onnx_ms(folder: str, shards: str) -> dict[str, float]:
    """Milliseconds per sample of torch and of onnxruntime."""
    import onnxruntime

    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.model.runs import RunFolder

    detector = RunFolder(Path(folder)).load(WeightsSource(None, Path(folder), offline=True), resolve_device())
    batch = ShardSet(Path(shards), "test", detector.spec.modalities).batch([0])
    session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"])
    assert batch.rgb is not None
    given = {"rgb": batch.rgb.numpy(), "seen": batch.seen.numpy()}
    taken = {}
    for name, answer in {"torch": lambda: detector.score(batch), "onnxruntime": lambda: session.run(None, given)}.items():
        answer()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            answer()
            times.append(time.perf_counter() - began)
        taken[name] = round(1000 * statistics.median(times), 1)
    return taken


def browser(page: Path) -> dict[str, Any]:
    """Milliseconds until the page is loaded in headless Chromium, and what it writes to the console."""
    import shutil

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        return {"opened": "not measured: no Chromium"}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chosen = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times, console = [], []
        for _ in range(3):
            tab = chosen.new_page()
            tab.on("console", lambda message: console.append(message.text))
            tab.on("pageerror", lambda error: console.append(str(error)))
            tab.goto(f"file://{page}")
            times.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            tab.close()
        release = chosen.version
        chosen.close()
    return {"loaded_ms": round(statistics.median(times)), "console": console, "chromium": release}


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for axis, rows, title in (
        (axes[0], result["areas"]["sigmoid"], "P-AUROC, time per pixel relative to mvad's"),
        (
            axes[1],
            {k: v for k, v in result["regions"].items() if isinstance(v, dict)},
            f"AUPRO@0.3 of {result['regions']['maps']} maps",
        ),
    ):
        names = list(rows)
        axis.barh(names, [rows[name]["times_of_mvad"] for name in names], color="#2f81d6")
        axis.set_xscale("log")
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path)


def about() -> dict[str, Any]:
    return {"versions": versions("scikit-learn", "ADEval", "torchmetrics", "scipy", "numba")}


SECTIONS = {"areas": areas, "regions": regions, "streaming": streaming, "verbs": verbs}

if __name__ == "__main__":
    sys.exit(drive("metrics", SECTIONS, about, plot))
