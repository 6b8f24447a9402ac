"""Stages of gpu.py besides steps: rendering, a whole training, DeSTSeg as published and other libraries."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_common import (
    PAPER_BATCH,
    Asked,
    batch_views,
    configured,
    data_root,
    fresh_peak,
    many_milliseconds,
    milliseconds,
    nowhere,
    peak_gb,
    release,
    shards,
    textures,
)
from gpu_engine import p90

# -------------------------------------------------------------------------------------------------------- rendering


def render(asked: Asked) -> None:
    """Views of scans by EGL against the cpu backend: milliseconds a scan, and what differs."""
    asked.attempt("scans", lambda: _rendered(asked))


def _rendered(asked: Asked) -> dict[str, Any]:
    from mvad.cores import usable_cores
    from mvad.datasets.registry import reader_for
    from mvad.datasets.scan import ReadOptions
    from mvad.render.backends.choose import rasteriser
    from mvad.render.clean import clean
    from mvad.render.fit_rig import extent_of, fit_rig
    from mvad.render.options import CleanOptions, RigOptions, SurfaceOptions
    from mvad.render.render_views import render_views
    from mvad.render.surface import build_surface

    backends: dict[str, Any] = {}
    why: dict[str, str] = {}
    for name in ("egl", "cpu"):  # EGL first: it must be there before open3d
        try:
            backends[name] = rasteriser(name, usable_cores())
        except Exception as error:
            why[name] = " ".join(str(error).split())[:300]
    raw = asked.real / "mvtec3d" if asked.real else data_root(asked) / "raw"
    reader = reader_for("mvtec3d")
    refs = [ref for ref in reader.refs(raw, shards(asked).name, ReadOptions()) if ref.split == "test"]
    scans = [reader.load(ref) for ref in refs[: 2 if asked.quick else 8]]
    cleaned = [clean(scan, CleanOptions()) for scan in scans]
    rig = fit_rig([extent_of(one) for one in cleaned], RigOptions(size=64 if asked.quick else 256))
    surfaces = [build_surface(scan, one, SurfaceOptions()) for scan, one in zip(scans, cleaned, strict=True)]
    found: dict[str, Any] = {"scans": len(scans), "triangles": int(statistics.median(len(s.faces) for s in surfaces))} | why
    drawn: dict[str, list[Any]] = {}
    for name, backend in backends.items():

        def all_views(backend: Any = backend) -> list[Any]:
            return [render_views(s, scan.gt, rig, backend) for s, scan in zip(surfaces, scans, strict=True)]

        drawn[name] = all_views()
        began = time.perf_counter()
        rounds = 1 if asked.quick else 3
        for _ in range(rounds):
            all_views()
        taken = 1000 * (time.perf_counter() - began) / rounds / len(scans)
        device = getattr(backend, "device", name)
        found[name] = {"ms_a_scan": round(taken, 2), "device": str(device)}
    if len(drawn) == 2:
        found["agreement"] = _agreement(drawn["cpu"], drawn["egl"])
    return found


def _agreement(ours: list[Any], theirs: list[Any]) -> dict[str, float]:
    """Return what differs between two renderings of the same scans."""
    sources, depths, colours = [], [], []
    for one, other in zip(ours, theirs, strict=True):
        a, b = np.asarray(one.source), np.asarray(other.source)
        sources.append(float((a != b).mean()))
        both = (np.asarray(one.depth) > 0) & (np.asarray(other.depth) > 0)
        depths.append(float(np.abs(np.asarray(one.depth) - np.asarray(other.depth))[both].max(initial=0)))
        colours.append(float(np.abs(np.asarray(one.rgb, np.float32) - np.asarray(other.rgb, np.float32)).mean()))
    return {
        "pixels_of_another_source": float(f"{max(sources):.3g}"), "depth_difference_um_max": float(f"{1e6 * max(depths):.3g}"),
        "colour_difference_mean_of_255": float(f"{max(colours):.3g}"),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- a whole training


def training(asked: Asked) -> None:
    """Train preset paper as far as the time goes, evaluate the test split, and say which share of the steps it was."""
    asked.attempt("training", lambda: _trained(asked))


def _trained(asked: Asked) -> dict[str, Any]:
    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.evaluation.evaluate import evaluate_detector
    from mvad.model.fitting import fit_run
    from mvad.model.runs import RunFolder
    from mvad.progress import Silent

    inputs, wanted = (5, (3, 3)) if asked.quick else (10, (1000, 4000))
    teacher = {} if asked.quick else {"teacher": _teacher()}
    found: dict[str, Any] = {"wanted_steps": wanted, "inputs": inputs} | teacher
    asked.note("so far", found)
    _, ready, _ = configured(asked, inputs, train__student_steps=100, train__head_steps=400, train__precision="auto", **teacher)
    planned = 10 * ready.detector.planned_seconds(0)
    share = 1.0 if asked.quick else min(1.0, 0.8 * asked.left / planned)
    counts = [max(2, round(share * n)) for n in wanted]
    found |= {"planned_s": round(planned, 1), "share_of_steps": round(share, 3), "steps": counts}
    asked.note("so far", found)
    release(asked.device)
    fresh_peak(asked.device)
    keys = {"train__student_steps": counts[0], "train__head_steps": counts[1], "train__precision": "auto", **teacher}
    split, ready, origins = configured(asked, inputs, **keys)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        run = Path(folder) / "run"
        began = time.perf_counter()
        fit_run(run, split, ready, origins, Silent())
        found["seconds"] = round(time.perf_counter() - began, 1)
        found["samples_per_s"] = round(sum(counts) * ready.config.train.batch / found["seconds"], 1)
        found["peak_gb"] = peak_gb(asked.device)
        found["steps_of_phases"] = _curve(run / "metrics.jsonl")
        asked.note("so far", found)
        began = time.perf_counter()
        results = evaluate_detector(RunFolder(run), ready.detector, ShardSet(shards(asked), "test"), Silent())
    figures = results.to_json()["figures"]
    found["evaluation_s"] = round(time.perf_counter() - began, 1)
    return (
        found
        | {name: figures[name] for name in ("s_auroc", "p_auroc", "samples")}
        | {"interval": figures["intervals"]["s_auroc"]}
    )


def _teacher() -> str:
    """Return the first teacher whose weights are here."""
    from mvad.errors import MissingComponent
    from mvad.model.backbones.choose import choose_teacher

    with contextlib.suppress(MissingComponent):
        return choose_teacher("auto", nowhere(), 0)[0].name
    return "random"


def _curve(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {}
    for number, name in enumerate(("student", "head")):
        taken = [row for row in rows if row["phase"] == number]
        ms = sorted(1000 * row["seconds"] for row in taken)
        found[name] = {
            "median_ms": round(statistics.median(ms), 2), "p90_ms": round(p90(ms), 2),
            "slowest_ms": round(ms[-1], 1), "first_loss": round(taken[0]["loss"], 4), "last_loss": round(taken[-1]["loss"], 4),
        }  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ peers


def peers(asked: Asked) -> None:
    """Five DeSTSeg models as published against IDIF on the same corrupted images, then other libraries where they import."""
    arithmetics = ("float32",) if asked.quick else ("bfloat16", "float32")
    ours = {p: asked.attempt(f"idif, {p}", lambda p=p: _ours(asked, p)) for p in arithmetics}
    for precision, row in ours.items():
        theirs = asked.attempt(f"five DeSTSeg, {precision}", lambda p=precision: _destseg(asked, p))
        if row and theirs:
            ratios = {name: round(row[name] / theirs[name], 3) for name in ("student_ms", "head_ms", "score_ms")}
            asked.note(f"idif of five DeSTSeg, {precision}", ratios)
        release(asked.device)
    asked.attempt("anomalib", lambda: _anomalib(asked))


def _batch(asked: Asked, precision: str) -> tuple[Any, Any, Any, Any]:
    """Return a detector, a batch of its images, the same corrupted, and the textures."""
    import torch

    from mvad.model.synthesis.paste import corrupt
    from mvad.model.synthesis.textures import load_textures

    keys = {"train__batch": 2 if asked.quick else PAPER_BATCH, "train__precision": precision, "optimizer__student_lr": 1e-3}
    split, ready, _ = configured(asked, 5, **keys)
    detector, source = ready.detector, load_textures(textures(asked))
    detector.training_steps.window = detector._window(split)
    views = batch_views(split, detector, ready.config.train.batch)
    changed = corrupt(views, detector.spec, source, detector.config.pseudo, torch.Generator().manual_seed(0))
    return detector, views, changed, source


def _ours(asked: Asked, precision: str) -> dict[str, float]:
    """Milliseconds of our steps with given corrupted images; the student's with the teacher's features, as in a first epoch."""
    import torch

    from mvad.model.idif.optimizers import head_optimizers, student_optimizers
    from mvad.model.training.numbers import Carried

    detector, views, changed, source = _batch(asked, precision)
    steps, config, times = detector.training_steps, detector.config, 1 if asked.quick else 20
    student = student_optimizers(detector.network, config.optimizer, config.encoder.lr_scale, 10)
    head = head_optimizers(detector.heads, config.optimizer, 10)
    size, generator = len(views.images), torch.Generator().manual_seed(0)
    drawn = Carried(steps.draw_student(size, 0, source, generator), detector.device).arrive()
    plain = Carried(steps.draw(size, 0, source, generator), detector.device).arrive()

    def student_step() -> None:
        flat = views.images.flatten(1, 2)
        clean = steps.clean_features(flat.flatten(0, 1))
        steps.student_step(views, changed, tuple(t.unflatten(0, flat.shape[:2]) for t in clean), student, 0, drawn)

    fresh_peak(asked.device)
    steps.begin_student()
    found = {"student_ms": many_milliseconds(student_step, detector.device, times, min(times, 3))}
    steps.begin_head()
    found["head_ms"] = many_milliseconds(
        lambda: steps.head_step(views, changed, head, 0, plain), detector.device, times, min(times, 3)
    )
    steps.finish()
    detector.heads.eval()
    present = steps.inputs(views.present)
    found["score_ms"] = many_milliseconds(lambda: steps.present_maps(views, present), detector.device, times, min(times, 3))
    return found | {"peak_gb": peak_gb(asked.device)}


def _destseg(asked: Asked, precision: str) -> dict[str, float]:
    """Milliseconds of the steps of five published models, each on the images of its view."""
    import destseg_twin as twin
    import torch

    from mvad.model.devices import autocast

    detector, views, changed, _ = _batch(asked, precision)
    device, times = detector.device, 1 if asked.quick else 20
    models = [twin.DeSTSeg().to(device) for _ in range(1 if asked.quick else views.images.shape[1])]
    inputs = [(changed.images[:, v, 0], views.images[:, v, 0], changed.mask[:, v, 0][:, None]) for v in range(len(models))]
    student = [twin.student_optimizer(model, 1e-3) for model in models]
    head = [twin.head_optimizer(model, 1e-3, 1e-3) for model in models]

    def all_models(step: Any, optimizers: list[Any]) -> None:
        with autocast(device, precision):
            for model, optimizer, (wrong, clean, mask) in zip(models, optimizers, inputs, strict=True):
                step(model, optimizer, wrong, clean, mask)

    def score() -> None:
        with torch.no_grad(), autocast(device, precision):
            for model, (wrong, _, _) in zip(models, inputs, strict=True):
                model(wrong, wrong)

    fresh_peak(asked.device)
    found = {"student_ms": many_milliseconds(lambda: all_models(twin.student_step, student), device, times, min(times, 3))}
    found["head_ms"] = many_milliseconds(lambda: all_models(twin.head_step, head), device, times, min(times, 3))
    for model in models:
        model.eval()
    return found | {"score_ms": many_milliseconds(score, device, times, min(times, 3)), "peak_gb": peak_gb(asked.device)}


def _anomalib(asked: Asked) -> dict[str, Any]:
    """Milliseconds of inference of anomalib's students on the images of a batch, with untrained weights."""
    try:
        import anomalib  # noqa: F401
        import timm
    except ImportError as error:
        return {"left_out": f"needs anomalib ({error})"}
    import functools

    import torch

    found: dict[str, Any] = {}
    timm.create_model = functools.partial(_untrained, timm.create_model)  # weights do not change the time
    device, side = asked.torch_device(), 64 if asked.quick else 256
    images = torch.rand(10 if asked.quick else 5 * PAPER_BATCH, 3, side, side, device=device)
    for name, make in {"stfpm": _stfpm, "reverse_distillation": _reverse}.items():
        try:
            model = make(side).to(device).eval()
            with torch.no_grad():
                found[name] = {"score_ms": milliseconds(lambda m=model: m(images), device, 2 if asked.quick else 10)}
        except Exception as error:  # its classes differ between versions
            found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return found


def _untrained(create: Any, *given: Any, **named: Any) -> Any:
    return create(*given, **{**named, "pretrained": False})


def _stfpm(side: int) -> Any:
    from anomalib.models.image.stfpm.torch_model import STFPMModel

    return STFPMModel(layers=["layer1", "layer2", "layer3"], backbone="resnet18")


def _reverse(side: int) -> Any:
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

    layers = ["layer1", "layer2", "layer3"]
    return ReverseDistillationModel("wide_resnet50_2", (side, side), layers, AnomalyMapGenerationMode.ADD, pre_trained=False)
