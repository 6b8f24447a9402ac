"""Training and inference compared with five DeSTSeg models as published: steps, latency, memory, operations, growth.

Usage: python benchmarks/train.py [--quick] [--only SECTION,SECTION]. Sections that are not run keep their last results.

The batch is 8 samples (4 with --quick) of five RGB views at 256 px, from the real cable_gland scans of MVAD_REAL_DATA, else
from generated scans; all detectors get the same corrupted images. The peer is DeSTSeg as published, implemented independently
for the tests: it computes what the published steps compute. Weights are random (ResNet-18), which does not change the number
of operations. Every measurement runs in a separate process; the detectors alternate over several rounds. On a machine with a
GPU the same command measures the GPU.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(1, str(HERE.parent / "tests"))
from harness import QUICK, ROUNDS, THREADS, child, drive, in_turn, peak_mb, run, versions  # noqa: E402

BATCH, SIZE, VIEWS = (4 if QUICK else 8), 256, 5
GIVEN_BACK = "idif small, freed memory given back"
HALF = "idif paper, light head half as wide"
LIGHT = "idif paper, light head"
OURS = ("idif paper", LIGHT, HALF, "idif paper, head on the whole image", "idif small", GIVEN_BACK)
PEER = "five DeSTSeg, as published"


# ------------------------------------------------------------------------------------------------------- the batch


def samples(real: Path | None, scratch: Path) -> dict[str, str]:
    """Render and pack the training samples of a category; returns the arguments by which children find them."""
    from mvad.datasets.shards.pack import PackOptions, pack_renders
    from mvad.datasets.synth.generate import SynthOptions, generate
    from mvad.progress import Silent
    from mvad.render.engine import Workers
    from mvad.render.job import render_category
    from mvad.render.options import RenderOptions

    category, raw = "cable_gland", real / "mvtec3d" if real else scratch / "raw"
    if not real:
        category = "gear"
        generate(
            "mvtec3d", raw, [category], SynthOptions(seed=1, train=12, validation=1, good=1, per_defect=1, size=300), Silent()
        )
    render_category("mvtec3d", category, raw, scratch / "renders", RenderOptions(), ("train",), Workers(), False, Silent())
    pack_renders(scratch / "renders", "mvtec3d", category, scratch / "shards", PackOptions(), Silent())
    textures = str(real / "dtd" / "images") if real else "procedural"
    return {"shards": str(scratch / "shards" / "mvtec3d" / category), "textures": textures}


def ours(name: str, shards: str, textures: str, modalities: str = "rgb", **keys: Any) -> Any:
    """Return an unfitted IDIF, its training split, images and corrupted images."""
    import torch

    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.model.fitting import prepare
    from mvad.model.registry import configure
    from mvad.model.synthesis.paste import corrupt
    from mvad.model.synthesis.textures import load_textures

    data = ShardSet(Path(shards), "train")
    preset = "small" if "small" in name else "paper"
    teacher = "efficientnet_lite0" if preset == "small" else "random"
    named = {"input.modalities": modalities, "teacher": teacher, "pseudo.textures": textures, "train.batch": BATCH}
    if "whole image" in name:
        named["head.window"] = "image"
    if name == LIGHT:
        named["head.kind"] = "light"
    if name == HALF:
        named |= {"head.kind": "light", "head.width": 128}
    config, _ = configure(preset, "idif", [("benchmark", named | keys)])
    weights = WeightsSource(None, Path("nowhere"), offline=True)
    detector: Any = prepare(data, config, Path("nowhere"), weights, resolve_device()).detector
    detector.training_steps.window = detector._window(data)
    views = detector.images(data.batch(range(BATCH)))
    corrupted = corrupt(views, detector.spec, load_textures(textures), detector.config.pseudo, torch.Generator().manual_seed(0))
    return detector, data, views, corrupted


def seconds(work: Callable[[], Any], least: int = 2) -> float:
    """Return the median seconds of a call, after a first call that warms up."""
    from mvad.model.devices import resolve_device, synchronise

    device = resolve_device()
    work()
    taken = []
    for _ in range(1 if QUICK else least):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


# ------------------------------------------------------------------------------------------------------------ steps


@child
def our_steps(name: str, shards: str, textures: str, modalities: str = "rgb", **keys: Any) -> dict[str, float]:
    """Seconds of a student step and a head step (with their pseudo anomalies), and of computing the batch's maps."""
    from mvad.model.devices import resolve_device
    from mvad.model.memory import kept_memory

    with contextlib.nullcontext() if name == GIVEN_BACK else kept_memory(resolve_device()):
        return _our_steps(name, shards, textures, modalities, **keys)


def _our_steps(name: str, shards: str, textures: str, modalities: str, **keys: Any) -> dict[str, float]:
    import torch

    from mvad.model.idif.optimizers import head_optimizers, student_optimizers
    from mvad.model.idif.teacher_cache import TeacherCache
    from mvad.model.synthesis.paste import corrupt_by_plan
    from mvad.model.synthesis.textures import load_textures
    from mvad.model.training.numbers import Carried

    detector, data, views, _ = ours(name, shards, textures, modalities, **keys)
    config, training_steps, images = detector.config, detector.training_steps, load_textures(textures)
    student = student_optimizers(detector.network, config.optimizer, config.encoder.lr_scale, 10)
    head = head_optimizers(detector.heads, config.optimizer, 10)
    generator = torch.Generator().manual_seed(0)

    def numbers(draw: Callable[..., Any]) -> Any:
        return Carried(draw(BATCH, 0, images, generator), detector.device).arrive()

    def corrupted(drawn: Any) -> Any:
        return corrupt_by_plan(views, drawn.plan, detector.spec, images, config.pseudo)

    def student_step() -> None:
        clean = TeacherCache(training_steps.clean_features, detector.device)(views.images.flatten(1, 2), None)  # a first epoch
        drawn = numbers(training_steps.draw_student)
        training_steps.student_step(views, corrupted(drawn), clean, student, 0, drawn)

    def head_step() -> None:
        drawn = numbers(training_steps.draw)
        training_steps.head_step(views, corrupted(drawn), head, 0, drawn)

    training_steps.begin_student()
    result = {"pseudo_s": seconds(lambda: corrupted(numbers(training_steps.draw)), 4), "student_step_s": seconds(student_step)}
    training_steps.begin_head()
    result["head_step_s"] = seconds(head_step)
    training_steps.finish()
    detector.heads.eval()
    result["judge_s"] = seconds(lambda: training_steps.present_maps(views, training_steps.inputs(views.present)))
    result["load_s"] = seconds(lambda: detector.images(data.batch(range(BATCH))), 4)
    return {k: round(v, 4) for k, v in result.items()} | {"peak_mb": _peak(), "window": training_steps.window.side}


@child
def peer_steps(shards: str, textures: str, models: int) -> dict[str, float]:
    """Seconds of the published steps and of inference: the time of one model on the images of one view, times ``models``."""
    import destseg_twin as twin
    import torch

    from mvad.model.devices import resolve_device

    _, _, views, corrupted = ours("idif paper", shards, textures)
    model = twin.DeSTSeg().to(resolve_device())
    clean, wrong, mask = views.images[:, 0, 0], corrupted.images[:, 0, 0], corrupted.mask[:, 0, 0][:, None]
    student, head = twin.student_optimizer(model, 1e-3), twin.head_optimizer(model, 1e-3, 1e-3)
    result = {
        "student_step_s": seconds(lambda: twin.student_step(model, student, wrong, clean, mask)),
        "head_step_s": seconds(lambda: twin.head_step(model, head, wrong, clean, mask)),
    }
    model.eval()

    def score_maps() -> None:
        with torch.no_grad():
            model(wrong, wrong)  # the published forward pass, which runs the teacher twice in evaluation, too

    result["judge_s"] = seconds(score_maps)
    return {name: round(models * value, 4) for name, value in result.items()} | {"peak_mb": _peak()}


def _peak() -> float:
    import torch

    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if torch.cuda.is_available() else peak_mb()


def steps(real: Path | None, scratch: Path) -> Any:
    """One step of each phase and inference: five RGB inputs, and ten with depth, compared with as many DeSTSeg models."""
    where = samples(real, scratch)

    def measure(name: str) -> Any:
        if name == PEER:
            return run("peer_steps", **where, models=VIEWS)
        return run("our_steps", name=name, **where)

    names = tuple(name for name in OURS if not (QUICK and "whole image" in name))
    taken = in_turn(measure, (*names, PEER), ROUNDS)
    rows = {name: _median(values) for name, values in taken.items()}
    for name in names:
        rows[name]["of_peer"] = _ratios(rows[name], rows[PEER])
    if not QUICK:
        two = run("our_steps", name="idif paper", **where, modalities="rgb,depth")
        rows["idif paper, RGB + depth (V = 10)"] = two | {"of_peer": _ratios(two, {k: 2 * v for k, v in rows[PEER].items()})}
    return {"batch": BATCH, "size": SIZE, "views": VIEWS, "rows": rows}


def _ratios(row: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    return {name: round(row[name] / peer[name], 3) for name in ("student_step_s", "head_step_s", "judge_s")}


def _median(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: round(statistics.median(value[name] for value in values), 4) for name in values[0]}


# ------------------------------------------------------------------------------------------------------- operations


@child
def operations(name: str, shards: str, textures: str) -> dict[str, float]:
    """GFLOP of a forward pass per sample, by module (a multiplication and an addition count as two operations)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mvad.model.idif.frozen_features import FrozenFeatures
    from mvad.model.idif.head import head_input

    detector, _, views, corrupted = ours(name, shards, textures)
    network, training_steps = detector.network.eval().requires_grad_(False), detector.training_steps
    detector.heads.eval().requires_grad_(False)  # the counter's hooks fail on parameters with gradients
    images, present = corrupted.images[:1].flatten(1, 2), training_steps.inputs(views.present[:1])
    counted: dict[str, float] = {}

    def count(part: str, work: Callable[[], Any]) -> Any:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            result = work()
        counted[part] = round(counter.get_total_flops() / 1e9, 2)
        return result

    count("teacher", lambda: detector.teacher.features(present.take(images)))
    first = FrozenFeatures(detector.config, detector.teacher, network, images.shape[1]).first(images, present)
    encoded = count("encoder", lambda: network.encoder(images, present, first=first))
    common, specific, _ = count("bottleneck", lambda: network.bottleneck(encoded.deepest, present, None))
    voxel = count("voxel fusion", lambda: network.fusion.voxel_fusion(specific, present))
    planes = count("spatial transformer", lambda: network.fusion.spatial_transformer(voxel))
    count("decoders", lambda: network.decoders(planes + common[:, None], encoded.fine, range(images.shape[1])))
    teacher, student = training_steps.features(corrupted.images[:1], present)
    seen, window = views.seen[0].repeat_interleave(len(detector.spec.modalities), dim=0), training_steps.window
    cut = head_input(teacher, student, None if window.whole else window, window.places(seen)[0])
    count("head", lambda: detector.heads(cut, present))
    return counted | {"all": round(sum(counted.values()), 2)}


@child
def peer_operations(shards: str, textures: str) -> dict[str, float]:
    """GFLOP of the five published models per sample."""
    import destseg_twin as twin
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, image = twin.DeSTSeg().eval().requires_grad_(False), torch.rand(1, 3, SIZE, SIZE) * 255
    counted = {}
    for part, work in {
        "teacher": lambda: model.teacher(image), "student": lambda: model.student(image),
        "head": lambda: model.head(torch.zeros(1, 448, SIZE // 4, SIZE // 4)),
    }.items():  # fmt: skip
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            work()
        counted[part] = round(VIEWS * counter.get_total_flops() / 1e9, 2)
    return counted | {"all": round(sum(counted.values()), 2)}


@child
def matmul_peak() -> float:
    """GFLOP/s that float32 matrix products reach on this machine: the peak that evaluation is compared with."""
    import torch

    from mvad.model.devices import resolve_device

    device = resolve_device()
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(n, n, device=device) for _ in range(2))
    return round(2 * n**3 / seconds(lambda: a @ b, 5) / 1e9, 1)


def flops(real: Path | None, scratch: Path) -> Any:
    """GFLOP by module, and the speed of evaluation as a share of the peak of matrix products."""
    where = samples(real, scratch)
    rows = {name: run("operations", name=name, **where) for name in OURS} | {PEER: run("peer_operations", **where)}
    peak = run("matmul_peak")
    evaluation_s = run("our_steps", name="idif paper", **where)["judge_s"]
    share = BATCH * rows["idif paper"]["all"] / evaluation_s / peak
    return {"gflop_a_sample": rows, "matmul_gflops": peak, "judge_share_of_peak": round(share, 3)}


# ----------------------------------------------------------------------------------------------------------- growth


@child
def forward_backward(shards: str, textures: str, views: int, size: int, voxel: int) -> dict[str, float]:
    """Seconds of a student's forward and backward pass on two samples of random images."""
    import torch

    from mvad.model.backbones.choose import choose_teacher
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.model.idif.network import Network
    from mvad.model.input_spec import InputSpec
    from mvad.model.registry import configure

    keys = {"input.size": size, "voxel.size": voxel, "voxel.patch": max(1, voxel // 8)}
    config, _ = configure("paper", "idif", [("benchmark", keys)])
    teacher, _ = choose_teacher("random", WeightsSource(None, Path("nowhere"), offline=True), 0)
    spec = InputSpec(views, ("rgb",), torch.linspace(0, 1, 3 * views).view(views, 3), None)
    device = resolve_device()
    network = Network(config, spec, teacher).to(device).train()
    for part in (network.encoder, network.decoders):
        part.to(memory_format=torch.channels_last)
    images = torch.rand(2, views, 3, size, size, device=device) * 255
    present = torch.ones(2, views, dtype=torch.bool)

    def work() -> None:
        student = network(images, present, lambda shape: torch.zeros(shape))
        sum(level.mean() for level in student.levels).backward()  # type: ignore[union-attr]

    return {"s_a_sample": round(seconds(work) / 2, 4)}


def growth(real: Path | None, scratch: Path) -> Any:
    """How the student's time grows with views, size and voxels, with all other keys of the preset paper."""
    base = {"views": VIEWS, "size": SIZE, "voxel": 16}
    axes = {"views": (1, 2, 5, 10), "size": (128, 256), "voxel": (8, 16, 32)}
    rows = []
    for axis, values in axes.items():
        for value in values:
            rows.append({axis: value} | run("forward_backward", shards="", textures="", **(base | {axis: value})))
    return rows


# --------------------------------------------------------------------------------------------------- pseudo anomalies


@child
def our_pseudo(shards: str, textures: str) -> float:
    import torch

    from mvad.model.synthesis.paste import corrupt
    from mvad.model.synthesis.textures import load_textures

    torch.set_num_threads(1)
    detector, _, views, _ = ours("idif paper", shards, textures)
    images, generator = load_textures(textures), torch.Generator().manual_seed(0)
    taken = seconds(lambda: corrupt(views, detector.spec, images, detector.config.pseudo, generator), 10)
    return round(BATCH * VIEWS / taken, 1)


@child
def peer_pseudo(shards: str, textures: str) -> float:
    """DeSTSeg's procedure, one image at a time: Perlin noise in numpy, rotation, threshold, blend with a texture from a file."""
    from PIL import Image

    files = sorted(Path(textures).rglob("*.jpg")) if textures != "procedural" else []
    rng = np.random.default_rng(0)
    image = rng.random((SIZE, SIZE, 3)).astype(np.float32)

    def one() -> np.ndarray:
        across, down = 2 ** rng.integers(0, 6, 2)
        angles = 2 * np.pi * rng.random((down + 1, across + 1))
        gradients = np.stack([np.cos(angles), np.sin(angles)], -1)
        step = (down / SIZE, across / SIZE)
        grid = np.mgrid[0 : down : step[0], 0 : across : step[1]].transpose(1, 2, 0) % 1
        repeat = (SIZE // down, SIZE // across)

        def corner(dy: int, dx: int) -> np.ndarray:
            g = gradients[dy : down + dy, dx : across + dx].repeat(repeat[0], 0).repeat(repeat[1], 1)
            return ((grid - [dy, dx]) * g).sum(-1)

        fade = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
        top = corner(0, 0) + fade[..., 1] * (corner(0, 1) - corner(0, 0))
        bottom = corner(1, 0) + fade[..., 1] * (corner(1, 1) - corner(1, 0))
        noise = np.sqrt(2) * (top + fade[..., 0] * (bottom - top))
        turned = np.asarray(
            Image.fromarray(noise.astype(np.float32)).rotate(float(rng.uniform(-90, 90)), Image.Resampling.BILINEAR)
        )
        mask = (turned > 0.5).astype(np.float32)[..., None]
        if files:
            with Image.open(files[int(rng.integers(len(files)))]) as picture:
                texture = np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), np.float32) / 255
        else:
            texture = rng.random((SIZE, SIZE, 3)).astype(np.float32)
        beta = rng.uniform(0, 0.8)
        return image * (1 - mask) + (1 - beta) * texture * mask + beta * image * mask

    taken = seconds(lambda: [one() for _ in range(20)], 5)
    return round(20 / taken, 1)


def pseudo(real: Path | None, scratch: Path) -> Any:
    """Images per second on one thread."""
    where = samples(real, scratch)
    taken = in_turn(lambda name: run(f"{name}_pseudo", {"OMP_NUM_THREADS": "1"}, **where), ("our", "peer"), ROUNDS)
    ours_a_second, theirs = (statistics.median(taken[name]) for name in ("our", "peer"))
    return {"images_per_s": ours_a_second, "one_by_one_images_per_s": theirs, "ratio": round(ours_a_second / theirs, 1)}


# ------------------------------------------------------------------------------------------------------- arithmetic


@child
def arithmetic(shards: str, textures: str) -> dict[str, Any]:
    """How bfloat16 changes the scores of the same weights, and how bfloat16 and torch.compile change evaluation's time."""
    import torch

    result: dict[str, Any] = {}
    scores, maps = {}, {}
    for precision in ("float32", "bfloat16"):
        detector, _, views, _ = ours("idif small", shards, textures, **{"train.precision": precision})
        answer = detector.score_views(views)
        scores[precision], maps[precision] = answer.view_scores, answer.maps
        result[f"judge_{precision}_s"] = round(seconds(lambda d=detector, v=views: d.training_steps.present_maps(v)), 3)
    spread = float(scores["float32"].std())
    result["bfloat16_score_error_of_spread"] = round(float((scores["bfloat16"] - scores["float32"]).abs().max()) / spread, 4)
    ranks = [s.flatten().argsort().argsort().float() for s in scores.values()]
    result["bfloat16_rank_correlation"] = round(float(torch.corrcoef(torch.stack(ranks))[0, 1]), 5)
    try:
        detector, _, views, _ = ours("idif small", shards, textures, **{"train.compile": True, "train.precision": "float32"})
        result["judge_compiled_s"] = round(seconds(lambda: detector.training_steps.present_maps(views)), 3)
    except Exception as error:  # without a compiler, for example: the failure is the result
        result["judge_compiled_s"] = f"failed: {type(error).__name__}"
    return result


def precision(real: Path | None, scratch: Path) -> Any:
    """bfloat16 and torch.compile on this machine."""
    import torch

    from mvad.model.devices import has_native_bfloat16

    return run("arithmetic", **samples(real, scratch)) | {"native_bfloat16": has_native_bfloat16(torch.device("cpu"))}


# ---------------------------------------------------------------------------------------------------- plot and sections


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw step times against the peer, and operations by module."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(15, 5), layout="constrained")
    rows = {name: row for name, row in result["steps"]["rows"].items() if "V = 10" not in name}
    place = np.arange(3)
    for k, (name, row) in enumerate(rows.items()):
        values = [row[part] for part in ("student_step_s", "head_step_s", "judge_s")]
        axes[0].bar(place + 0.2 * k, values, 0.19, label=name)
    axes[0].set(
        yscale="log", ylabel=f"seconds, {result['steps']['batch']} samples of {VIEWS} views", title="steps and evaluation"
    )
    axes[0].set_xticks(place + 0.3, ("student step", "head step", "evaluation"))
    axes[0].legend()
    parts = result["flops"]["gflop_a_sample"]["idif paper"]
    names = [name for name in parts if name != "all"]
    axes[1].barh(names, [parts[name] for name in names], color="#2a7f9e")
    axes[1].set(xlabel="GFLOP per sample, forward", title="idif, preset paper")
    figure.savefig(path)


def about() -> dict[str, Any]:
    what = "real cable_gland" if "MVAD_REAL_DATA" in os.environ else "generated gear"
    return {"versions": versions("torch", "numpy"), "samples_of": what, "threads": THREADS}


SECTIONS = {"steps": steps, "flops": flops, "growth": growth, "pseudo": pseudo, "precision": precision}

if __name__ == "__main__":
    sys.exit(drive("train", SECTIONS, about, plot))
