"""Rendering compared with other renderers and ray casters.

Usage: python benchmarks/render.py [--quick] [--only SECTION,SECTION]. Sections that are not run keep their last results.

Every measurement runs in a separate process (GL contexts, memory, thread settings); peers alternate over several rounds (A B C
A B C), and a row is the median over the rounds. Real scans come from MVAD_REAL_DATA; without it their rows are left out.
Writes results/render-MACHINE.json and .svg.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from harness import QUICK, ROUNDS, THREADS, child, drive, in_turn, peak_mb, rss_mb, run, versions  # noqa: E402

ENOUGH_MS = 3000  # a peer that takes longer is measured once per round
PEERS = (
    "mvad cpu", "mvad cpu, 1 thread", "mvad cpu, 1 sample", "mvad egl", "mvad egl, 1 sample", "moderngl, 1 sample",
    "moderngl, 3 x 3 samples", "tuned pyrender", "naive pyrender", "naive pyrender, bare primitives",
    "Open3D ray casting", "embree (trimesh)",
)  # fmt: skip


def milliseconds(function: Callable[[], Any], times: int, warm: int = 1) -> float:
    taken: list[float] = []
    for turn in range(warm + times):
        began = time.perf_counter()
        function()
        taken.append(1000 * (time.perf_counter() - began))
        if turn >= warm and sum(taken) > ENOUGH_MS:
            break
    return round(statistics.median(taken[warm:]), 2)


# ----------------------------------------------------------------------------------------------------- measurements


def prepared(what: str, size: int = 256, scan_size: int = 800, views: int = 5) -> tuple[Any, Any, Any]:
    """Return scan, surface and rig of the generated scan or of a real cable_gland ("gland 12")."""
    from scans import big_scan, load, real_refs

    from mvad.render.clean import clean
    from mvad.render.fit_rig import extent_of, fit_rig
    from mvad.render.options import CleanOptions, RigOptions, SurfaceOptions
    from mvad.render.surface import build_surface

    if what == "generated":
        scan = big_scan(scan_size)
        training = [scan]
    else:
        refs = real_refs(Path(os.environ["MVAD_REAL_DATA"]))
        test = [ref for ref in refs if ref.split == "test"]
        scan = load(test[int(what.split()[1]) % len(test)])
        training = [load(ref) for ref in refs if ref.split == "train"][:12:3]
    rig = fit_rig([extent_of(clean(one, CleanOptions())) for one in training], RigOptions(size=size, views=views))
    return scan, build_surface(scan, clean(scan, CleanOptions()), SurfaceOptions()), rig


def renderer(name: str, size: int) -> Callable[[Any, Any, Any], Any]:
    """Return the function that renders a surface with a rig, by a name of ``PEERS``."""
    os.environ["PYOPENGL_PLATFORM"] = "egl"
    if name.startswith("mvad"):
        from mvad.render.backends.choose import rasteriser
        from mvad.render.render_views import render_views

        threads = 1 if "1 thread" in name else THREADS
        backend = rasteriser(name.split()[1].rstrip(","), threads)
        samples = 1 if "1 sample" in name else 3
        return lambda surface, gt, rig: render_views(surface, gt, rig, backend, samples)
    import peers

    made: dict[str, Callable[[], Any]] = {
        "moderngl, 1 sample": lambda: peers.Moderngl(size),
        "moderngl, 3 x 3 samples": lambda: peers.Moderngl(3 * size),
        "tuned pyrender": lambda: peers.TunedPyrender(size),
        "naive pyrender": lambda: lambda *a: peers.naive_pyrender(*a, process=False),
        "naive pyrender, bare primitives": lambda: lambda *a: peers.naive_pyrender(*a, bare=True),
        "Open3D ray casting": lambda: peers.open3d_rays,
        "embree (trimesh)": lambda: peers.embree_rays,
    }
    return made[name]()


@child
def views_ms(name: str, what: str, size: int = 256, scan_size: int = 800, views: int = 5) -> float:
    """Milliseconds for all views of one scan, from mesh to arrays; contexts, kernels and buffers exist already."""
    draw = renderer(name, size)
    scan, surface, rig = prepared(what, size, scan_size, views)
    slow = what == "generated" and "naive" in name
    return milliseconds(lambda: draw(surface, scan.gt, rig), 7, 0 if slow else 1)


@child
def accuracy(name: str, what: str) -> dict[str, Any]:
    """Difference of a renderer's depth from embree's, share of rays whose hits differ, and PSNR of its colour."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import twins
    from render_proofs import reference_colours

    draw = renderer(name, 256)
    scan, surface, rig = prepared(what)
    seen = draw(surface, scan.gt, rig)
    solid = len(surface.faces) - surface.bridges
    distance, hits, rays, worst = [], 0, 0, 0.0
    for view in range(rig.views):
        faces = surface if name.startswith("mvad") else replace(surface, faces=surface.faces[:solid], bridges=0)
        truth, face_at = twins.embree_hits(faces, rig, view)
        depth = np.asarray(seen.depth[view], np.float64)
        both = (truth > 0) & (depth > 0) & (face_at < solid)
        distance.append(np.abs(truth - depth)[both])
        hits += int(((truth > 0) != (depth > 0)).sum())
        rays += int((truth > 0).sum())
        worst = max(worst, float(distance[-1].max()))
    row = {
        "depth_error_um_mean": float(f"{1e6 * np.concatenate(distance).mean():.3g}"),
        "depth_error_um_max": float(f"{1e6 * worst:.3g}"),
        "hit_mismatch_percent": float(f"{100 * hits / rays:.3g}"),
    }
    if seen.rgb is not None and np.shape(seen.rgb)[1] == rig.size:
        reference, count = reference_colours(surface, rig)
        at = (np.asarray(seen.depth) > 0) & (count > 0)
        row["colour_psnr_db"] = round(twins.psnr(np.asarray(seen.rgb)[at], reference[at]), 1)
    label = getattr(seen, "label", None)
    if label is not None and scan.gt is not None:
        row["label_values"] = len(np.unique(label))
    if name.startswith("mvad"):
        hit = seen.source >= 0
        row["mask_equals_gt_at_source"] = bool(np.array_equal(seen.mask[hit], scan.gt.reshape(-1)[seen.source[hit]]))
    return row


@child
def agreement(what: str) -> dict[str, float]:
    """Return shares of object pixels on which cpu and egl differ."""
    from mvad.render.backends.choose import rasteriser
    from mvad.render.render_views import render_views

    egl = rasteriser("egl")
    scan, surface, rig = prepared(what)
    one, two = render_views(surface, scan.gt, rig, rasteriser("cpu")), render_views(surface, scan.gt, rig, egl)
    seen, also = one.source >= 0, two.source >= 0
    both, width = seen & also, scan.valid.shape[1]
    a, b = one.source[both], two.source[both]
    apart = np.maximum(np.abs(a // width - b // width), np.abs(a % width - b % width))
    return {
        "object_differs": float((seen != also).sum() / seen.sum()), "mask_differs": float((one.mask != two.mask)[both].mean()),
        "source_differs": float((a != b).mean()), "source_more_than_one_apart": float((apart > 1).mean()),
        "depth_um_mean": float(1e6 * np.abs(one.depth - two.depth)[both].mean()),
    }  # fmt: skip


@child
def stages(backend: str, what: str, scans: int) -> dict[str, float]:
    """Milliseconds per scan by stage, one process, one thread; ``what`` is "glands" or a folder of generated scans."""
    from scans import load, real_refs

    from mvad.datasets.registry import reader_for
    from mvad.datasets.scan import ReadOptions
    from mvad.render.audit import audit_scan, count_points
    from mvad.render.backends.choose import rasteriser
    from mvad.render.backends.protocol import projected
    from mvad.render.clean import clean
    from mvad.render.fit_rig import extent_of, fit_rig
    from mvad.render.normals import grid_normals
    from mvad.render.options import RenderOptions
    from mvad.render.render_views import render_views
    from mvad.render.scan_to_views import ScanJob, _record
    from mvad.render.surface import build_surface
    from mvad.render.writer import encode_views, write_sample

    drawing, options = rasteriser(backend), RenderOptions(backend=backend)  # type: ignore[arg-type]
    if what == "glands":
        refs = real_refs(Path(os.environ["MVAD_REAL_DATA"]))
    else:
        refs = reader_for("mvtec3d").refs(Path(what), "big", ReadOptions())
    rig = fit_rig([extent_of(clean(load(ref), options.clean)) for ref in refs[:6]], options.rig)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as folder:
        for number in range(scans + 2):
            ref, marks = refs[number % len(refs)], [("", time.perf_counter())]

            def lap(stage: str, marks: list[tuple[str, float]] = marks) -> None:
                marks.append((stage, time.perf_counter()))

            scan = load(ref)
            lap("read")
            cleaned = clean(scan, options.clean)
            lap("clean")
            surface = build_surface(scan, cleaned, options.surface)
            lap("mesh")
            grid_normals(surface.vertices, surface.faces[: len(surface.faces) - surface.bridges], 2)
            lap("normals")
            projected(surface, rig, 0, 3)
            lap("project, one view")
            views = render_views(surface, scan.gt, rig, drawing)
            lap("raster")
            contents = encode_views(views, rig)
            lap("encode")
            job = ScanJob(ref, options, rig, Path(folder) / str(number))
            write_sample(
                job.folder, contents, _record(job, rig, audit_scan(scan, cleaned, views, rig), count_points(scan, cleaned))
            )
            lap("audit, hash, write")
            if number >= 2:
                for (_, before), (stage, after) in itertools.pairwise(marks):
                    taken.setdefault(stage, []).append(1000 * (after - before))
    row = {stage: round(statistics.mean(values), 2) for stage, values in taken.items()}
    row["mesh"] = round(row["mesh"] - row["normals"], 2)  # the mesh stage includes normals, which are timed separately
    row["scan"] = round(sum(ms for stage, ms in row.items() if stage != "project, one view"), 2)
    return row


@child
def upload_ms(what: str) -> float:
    """Milliseconds to upload a scan's mesh to GL, once for all its views."""
    from mvad.render.backends.choose import rasteriser

    egl: Any = rasteriser("egl")
    from OpenGL.GL import glFinish
    from pyrender import Mesh, Primitive, RenderFlags, Scene

    _, surface, _ = prepared(what)
    egl._platform.make_current()

    def upload() -> None:
        scene = Scene()
        scene.add(Mesh([Primitive(positions=surface.vertices, indices=surface.faces.view(np.uint32))]))
        egl._renderer._update_context(scene, RenderFlags.SEG)
        glFinish()

    return milliseconds(upload, 9, 2)


@child
def memory(backend: str, scans: int) -> dict[str, float]:
    """Resident memory of one worker over many whole scans, read to written."""
    from scans import real_refs, write_category

    from mvad.datasets.registry import reader_for
    from mvad.datasets.scan import ReadOptions
    from mvad.render.cameras import fit_cameras
    from mvad.render.options import RenderOptions
    from mvad.render.scan_to_views import ScanJob, measure_scan, render_scan

    options = RenderOptions(backend=backend)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as folder:
        if "MVAD_REAL_DATA" in os.environ:
            refs = real_refs(Path(os.environ["MVAD_REAL_DATA"]))
        else:
            write_category(Path(folder) / "raw" / "big", 8, 300)
            refs = reader_for("mvtec3d").refs(Path(folder) / "raw", "big", ReadOptions())
        rig = fit_cameras([measure_scan((ref, options, None)) for ref in refs[:4]], options.rig)
        early = 0.0
        for number in range(scans + 40):
            render_scan(ScanJob(refs[number % len(refs)], options, rig, Path(folder) / "out"))
            if number == 39:
                early = rss_mb()
    return {"scans": scans, "rss_mb_after_40": early, "growth_mb": round(rss_mb() - early, 1), "peak_mb": peak_mb()}


@child
def soak(backend: str, views: int) -> dict[str, Any]:
    """Draw the same small scan many times: no view may differ from the first, and memory may not grow."""
    from mvad.render.backends.choose import rasteriser
    from mvad.render.render_views import render_views

    drawing = rasteriser(backend)
    scan, surface, rig = prepared("generated", 64, 60)
    first = render_views(surface, scan.gt, rig, drawing)
    early, differing, began = rss_mb(), 0, time.perf_counter()
    for number in range(views // rig.views):
        again = render_views(surface, scan.gt, rig, drawing)
        differing += sum(not np.array_equal(getattr(first, name), getattr(again, name)) for name in ("rgb", "depth", "source"))
        if number == 200:
            early = rss_mb()
    return {
        "views": views, "seen_share": round(float((first.source >= 0).mean()), 3), "views_that_differ": differing,
        "growth_mb": round(rss_mb() - early, 1), "seconds": round(time.perf_counter() - began, 1),
        "file_descriptors": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


@child
def cleaning(scans: int) -> dict[str, Any]:
    """Compare our cleaning with the published procedure on real scans: milliseconds per scan, ground truth lost by each."""
    import peers
    from scans import load, real_refs

    from mvad.render.clean import clean
    from mvad.render.options import CleanOptions

    refs = [ref for ref in real_refs(Path(os.environ["MVAD_REAL_DATA"])) if ref.split == "test"]
    ours, theirs, lost, lost_theirs, total = [], [], 0, 0, 0
    clean(load(refs[0]), CleanOptions())
    peers.published_cleaning(load(refs[0]).xyz)
    for number, ref in enumerate(refs):
        scan = load(ref)
        if number < scans:
            ours.append(milliseconds(lambda scan=scan: clean(scan, CleanOptions()), 3, 0))  # type: ignore[misc]
            theirs.append(milliseconds(lambda scan=scan: peers.published_cleaning(scan.xyz), 1, 0))  # type: ignore[misc]
        assert scan.gt is not None
        lost += int((scan.gt & scan.valid & ~clean(scan, CleanOptions()).keep).sum())
        lost_theirs += int((scan.gt & scan.valid & ~peers.published_cleaning(scan.xyz)).sum())
        total += int(scan.gt.sum())
    return {
        "scans_timed": scans, "ours_ms": round(statistics.median(ours), 2), "published_ms": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 1), "scans_judged": len(refs),
        "ground_truth_pixels": total, "lost_ours": lost, "lost_published": lost_theirs,
    }  # fmt: skip


@child
def encoders() -> dict[str, Any]:
    """Milliseconds and kilobytes per scan (5 views) of several encoders."""
    import io

    import imagecodecs
    import tifffile
    from PIL import Image

    from mvad.datasets.renders.coding import encode_normal
    from mvad.render.backends.choose import rasteriser
    from mvad.render.render_views import render_views

    what = "gland 3" if "MVAD_REAL_DATA" in os.environ else "generated"
    scan, surface, rig = prepared(what)
    views = render_views(surface, scan.gt, rig, rasteriser("cpu"))
    images = {"rgb": views.rgb, "normal": encode_normal(views.normal), "depth": rig.depth_coding.encode(views.depth)}
    png = imagecodecs.PNG

    def pillow(level: int) -> Callable[[np.ndarray], bytes]:
        def encode(image: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG", compress_level=level)
            return buffer.getvalue()

        return encode

    def tiff(**options: Any) -> Callable[[np.ndarray], bytes]:
        def encode(image: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, image, metadata=None, software=False, **options)
            return buffer.getvalue()

        return encode

    ways: dict[str, Callable[[np.ndarray], bytes]] = {
        "Pillow level 6": pillow(6), "Pillow level 1": pillow(1),
        "imagecodecs level 6": lambda image: imagecodecs.png_encode(image, level=6),
        "imagecodecs level 1": lambda image: imagecodecs.png_encode(image, level=1),
        "libspng level 1": lambda image: imagecodecs.spng_encode(image, level=1),
        "level 1, filter SUB": lambda image: imagecodecs.png_encode(image, level=1, filter=png.FILTER.SUB),
        "level 1, filter UP, run lengths (ours)": lambda image: imagecodecs.png_encode(
            image, level=1, filter=png.FILTER.UP, strategy=png.STRATEGY.RLE),
    }  # fmt: skip
    source_ways = {
        "TIFF zlib 1, predictor": tiff(compression="zlib", compressionargs={"level": 1}, predictor=True),
        "TIFF zlib 6, predictor": tiff(compression="zlib", predictor=True),
        "TIFF LZW, predictor": tiff(compression="lzw", predictor=True),
        "TIFF zstd 3, predictor": tiff(compression="zstd", compressionargs={"level": 3}, predictor=True),
        "TIFF zstd 1, predictor (ours)": tiff(compression="zstd", compressionargs={"level": 1}, predictor=True),
        "PNG of 4 bytes": lambda image: imagecodecs.png_encode(image.view(np.uint8).reshape(*image.shape, 4), level=1),
    }
    rows: dict[str, Any] = {}
    for kind, table in [*((kind, ways) for kind in images), ("source", source_ways)]:
        data = views.source if kind == "source" else images[kind]
        for way, encode in table.items():
            size = sum(len(encode(np.ascontiguousarray(image))) for image in data)
            ms = milliseconds(lambda data=data, encode=encode: [encode(np.ascontiguousarray(i)) for i in data], 5)  # type: ignore[misc]
            rows.setdefault(kind, {})[way] = {"ms": ms, "kb": round(size / 1e3, 1)}
    return rows


def whole_job(raw: Path, category: str, jobs: int, threads: int = 1, backend: str = "cpu") -> dict[str, float]:
    """Run ``mvad render`` as a user does, from raw files to files on disk; workers have one thread each."""
    single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    with tempfile.TemporaryDirectory(dir=os.environ.get("MVAD_BENCHMARK_DIR")) as folder:
        command = [
            sys.executable, "-m", "mvad.cli.main", "render", "mvtec3d", "--raw", str(raw), "--category", category, "--workspace",
            folder, "--jobs", str(jobs), "--threads", str(threads), "--backend", backend,
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | single)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        records = list(Path(folder).glob("renders/*/*/*/*/*/record.json"))
        written = sorted(record.stat().st_mtime for record in records)
    count = len(written)
    first = count // 5  # excludes the start of the workers
    return {
        "scans": count, "seconds": round(seconds, 2), "scans_per_s": round(count / seconds, 2),
        "scans_per_s_once_started": round((count - first) / max(written[-1] - written[first - 1], 1e-9), 2),
    }  # fmt: skip


def many_glands(folder: Path, real: Path, times: int) -> Path:
    """Link the real scans several times under different numbers, so that a job takes long enough to be timed."""
    for source in (real / "mvtec3d" / "cable_gland").glob("*/*/*/*"):
        split, defect, kind = source.parts[-4:-1]
        for turn in range(times):
            target = folder / "cable_gland" / split / defect / kind / f"{turn}{source.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    return folder


# ---------------------------------------------------------------------------------------------------------- sections


def compare(what: str, rounds: int) -> dict[str, Any]:
    taken = in_turn(lambda name: run("views_ms", name=name, what=what), PEERS, rounds)
    rows: dict[str, Any] = {name: {"ms": statistics.median(values), "rounds": values} for name, values in taken.items()}
    for row in rows.values():
        row["naive_pyrender_is_slower"] = round(rows["naive pyrender"]["ms"] / row["ms"], 1)
        row["moderngl_1_sample_is_slower"] = round(rows["moderngl, 1 sample"]["ms"] / row["ms"], 2)
        row["moderngl_3x3_is_slower"] = round(rows["moderngl, 3 x 3 samples"]["ms"] / row["ms"], 2)
    return rows


def scaling(quick: bool) -> dict[str, Any]:
    """How time grows with the sizes and the number of views: milliseconds per scan for all views."""

    def curve(name: str, key: str, values: list[int]) -> dict[str, float]:
        return {str(value): run("views_ms", name=name, what="generated", **{key: value}) for value in values}

    rows: dict[str, Any] = {}
    for name in ("mvad cpu", "mvad egl"):
        rows[name] = {
            "scan_side": curve(name, "scan_size", [200, 400, 800]),
            "image_side": curve(name, "size", [128, 256, 512] if quick else [128, 256, 512, 1024]),
            "views": curve(name, "views", [1, 5, 10]),
        }
        print(name, rows[name], flush=True)
    return rows


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the comparison and the growth."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    groups = [name for name in ("generated", "gland") if name in result["views"]]
    figure, axes = pyplot.subplots(1, len(groups) + 1, figsize=(6 * (len(groups) + 1), 5), layout="constrained")
    for axis, group in zip(axes, groups, strict=False):
        rows = result["views"][group]
        names = sorted(rows, key=lambda name: rows[name]["ms"], reverse=True)
        colors = ["#2a7f9e" if name.startswith("mvad") else "#b9b9b9" for name in names]
        bars = axis.barh(names, [rows[name]["ms"] for name in names], color=colors)
        axis.bar_label(bars, fmt="{:,.0f}", padding=3)
        axis.set(xscale="log", xlabel="ms per scan, 5 views at 256 px", title=result["views_of"][group])
        axis.margins(x=0.3)
    for name, curves in result["scaling"].items():
        for key, style in (("scan_side", "-"), ("image_side", "--")):
            points = dict(sorted((int(side), ms) for side, ms in curves[key].items()))
            axes[-1].plot(list(points), list(points.values()), style, marker="o", label=f"{name}, {key.replace('_', ' ')}")
    axes[-1].set(xscale="log", yscale="log", xlabel="pixels", ylabel="ms per scan, 5 views", title="growth")
    axes[-1].legend()
    figure.savefig(path)


COMPARED = ("mvad cpu", "mvad cpu, 1 sample", "mvad egl", "moderngl, 1 sample", "tuned pyrender", "naive pyrender")


def views(real: Path | None, scratch: Path) -> Any:
    large = {} if QUICK and real else {"generated": compare("generated", ROUNDS)}  # naive pyrender takes minutes there
    return large | ({"gland": compare("gland 12", ROUNDS)} if real else {})


def exactness(real: Path | None, scratch: Path) -> Any:
    scans = ["generated", *(["gland 2", "gland 19"] if real else [])]
    return {
        "against_embree_and_4x4": {what: {name: run("accuracy", name=name, what=what) for name in COMPARED} for what in scans},
        "cpu_against_egl": {what: run("agreement", what=what) for what in scans},
    }


def by_stage(real: Path | None, scratch: Path) -> Any:
    from scans import write_category

    write_category(scratch / "generated" / "big", 6)
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    where = {"generated": str(scratch / "generated"), **({"glands": "glands"} if real else {})}
    rows = {
        f"{label}, {backend}": run("stages", single, backend=backend, what=what, scans=10 if label == "generated" else 30)
        for label, what in where.items()
        for backend in ("cpu", "egl")
    }
    return rows | {f"upload, {what}": run("upload_ms", what=what) for what in ["generated", *(["gland 12"] if real else [])]}


def jobs(real: Path | None, scratch: Path) -> Any:
    """Whole jobs, and naive rendering of the same generated scan for comparison."""
    from scans import write_category

    write_category(scratch / "job" / "big", 60)
    plans = [("generated", scratch / "job", "big")]
    if real:
        plans.append(("glands", many_glands(scratch / "glands", real, 1 if QUICK else 3), "cable_gland"))
    found: dict[str, Any] = {}
    for label, raw, category in plans:
        rows = in_turn(lambda way, raw=raw, category=category: whole_job(raw, category, *WAYS[way]), tuple(WAYS), 1)  # type: ignore[misc]
        found[label] = {way: min(values, key=lambda value: value["seconds"]) for way, values in rows.items()}
    naive = statistics.median(run("views_ms", name="naive pyrender", what="generated") for _ in range(ROUNDS))
    found["naive_rendering_alone_ms"] = naive
    for clock in ("scans_per_s", "scans_per_s_once_started"):
        found[f"naive_is_slower, {clock}"] = {way: round(naive / 1000 * row[clock], 1) for way, row in found["generated"].items()}
        found[f"two_workers_over_one, {clock}"] = {
            label: round(found[label]["2 workers"][clock] / found[label]["1 process"][clock], 2) for label, _, _ in plans
        }
    return found


SECTIONS: dict[str, Callable[[Path | None, Path], Any]] = {
    "views": views,
    "exactness": exactness,
    "stages_ms": by_stage,
    "whole_job": jobs,
    "cleaning": lambda real, scratch: run("cleaning", scans=10) if real else None,
    "encoders": lambda real, scratch: run("encoders"),
    "memory": lambda real, scratch: {b: run("memory", backend=b, scans=30 if QUICK else 300) for b in ("cpu", "egl")},
    "soak": lambda real, scratch: {b: run("soak", backend=b, views=1000 if QUICK else 20000) for b in ("cpu", "egl")},
    "scaling": lambda real, scratch: scaling(QUICK),
}  # fmt: skip


WAYS = {"1 process": (1, 1), "2 workers": (2, 1), "1 process, 2 threads": (1, 2)}


def about() -> dict[str, Any]:
    names = ("numba", "pyrender", "PyOpenGL", "moderngl", "open3d", "trimesh", "embreex", "imagecodecs", "distributed")
    return {
        "versions": versions(*names) | {"GL_RENDERER": run("gl_renderer")},
        "views_of": {"generated": "generated 800 x 800, 1.2 M triangles", "gland": "real cable_gland, 46,000 triangles"},
    }


@child
def gl_renderer() -> str:
    """Return the name of the device that egl uses."""
    from mvad.render.backends.choose import rasteriser

    return rasteriser("egl").device


if __name__ == "__main__":
    sys.exit(drive("render", SECTIONS, about, plot))
