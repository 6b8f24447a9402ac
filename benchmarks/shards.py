"""Shards compared with other formats for multi-view samples: random batches, size on disk, packing, growth.

Usage: python benchmarks/shards.py [--quick] [--only SECTION,SECTION]. Sections that are not run keep their last results.

The samples are five views of 256 px of the real cable_gland scans of MVAD_REAL_DATA, else of generated ones. Every
measurement runs in a separate process; formats alternate over several rounds, and a row is the median over the rounds. All
reads come from the page cache. Writes results/shards-MACHINE.json and .svg.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from harness import QUICK, ROUNDS, THREADS, child, drive, in_turn, peak_mb, rss_mb, run, versions  # noqa: E402

BATCH = 8
SECONDS = 1.0 if QUICK else 2.0
OURS = ("mvad zstd (default)", "mvad zstd 3", "mvad zstd 9", "mvad zstd 19", "mvad lz4", "mvad gzip", "mvad none")
PEERS = (
    "PNG folder", "JPEG folder", "webdataset (PNG, in sequence)", "raw memmap", "h5py none", "h5py gzip", "h5py lzf",
    "h5py zstd 3", "h5py zstd 3, fletcher32", "h5py lz4", "h5py blosc2",
)  # fmt: skip
if QUICK:
    OURS, PEERS = ("mvad zstd (default)", "mvad lz4"), ("PNG folder", "raw memmap", "h5py gzip", "h5py zstd 3, fletcher32")
Images = tuple[np.ndarray, np.ndarray]
"""Colours (V, H, W, 3) and masks (V, H, W) of a sample."""


# ------------------------------------------------------------------------------------------------------ the samples


def rendered(real: Path | None, scratch: Path) -> Path:
    """Render the category and return its folder."""
    from mvad.datasets.synth.generate import SynthOptions, generate
    from mvad.progress import Silent
    from mvad.render.engine import Workers
    from mvad.render.job import render_category
    from mvad.render.options import RenderOptions

    raw, category = (real / "mvtec3d", "cable_gland") if real else (scratch / "raw", "gear")
    if not real:
        generate("mvtec3d", raw, [category], SynthOptions(train=60, validation=2, good=10, per_defect=3, size=400), Silent())
    options, splits = RenderOptions(backend="cpu"), ("train", "validation", "test")
    return render_category(
        "mvtec3d", category, raw, scratch / "renders", options, splits, Workers(1, threads=THREADS), False, Silent()
    ).folder


def images_of(renders: Path) -> Iterator[tuple[str, Images]]:
    from mvad.datasets.renders.record import read_manifest, read_record, read_sample

    for entry in read_manifest(renders)["samples"]:
        place = renders / entry["split"] / entry["defect"] / entry["id"]
        sample = read_sample(place, read_record(place))
        yield entry["key"].replace("/", "_"), (sample.rgb, sample.mask)


# ---------------------------------------------------------------------------------------------- writing each format


def write_pictures(renders: Path, folder: Path, jpeg: bool) -> None:
    from PIL import Image

    folder.mkdir()
    for name, (rgb, mask) in images_of(renders):
        for view in range(len(rgb)):
            colour = Image.fromarray(rgb[view])
            if jpeg:
                colour.save(folder / f"{name}_rgb_{view}.jpg", quality=95)
            else:
                colour.save(folder / f"{name}_rgb_{view}.png")
            Image.fromarray(mask[view] * np.uint8(255)).save(folder / f"{name}_mask_{view}.png")


def write_tar(renders: Path, folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    with tarfile.open(folder / "samples.tar", "w") as tar:
        for name, (rgb, mask) in images_of(renders):
            for view in range(len(rgb)):
                for kind, image in (("rgb", rgb[view]), ("mask", mask[view] * np.uint8(255))):
                    buffer = io.BytesIO()
                    Image.fromarray(image).save(buffer, "PNG")
                    entry = tarfile.TarInfo(f"{name}.{kind}{view}.png")
                    entry.size = buffer.tell()
                    buffer.seek(0)
                    tar.addfile(entry, buffer)


def write_memmap(renders: Path, folder: Path) -> None:
    folder.mkdir()
    samples = [images for _, images in images_of(renders)]
    for kind, place in (("rgb", 0), ("mask", 1)):
        np.save(folder / f"{kind}.npy", np.stack([images[place] for images in samples]))


def write_h5py(renders: Path, folder: Path, name: str) -> None:
    import h5py
    import hdf5plugin

    folder.mkdir()
    samples = [images for _, images in images_of(renders)]
    options: dict[str, Any] = {
        "h5py none": {}, "h5py gzip": {"compression": "gzip"}, "h5py lzf": {"compression": "lzf"},
        "h5py zstd 3": hdf5plugin.Zstd(3), "h5py zstd 3, fletcher32": {**hdf5plugin.Zstd(3), "fletcher32": True},
        "h5py lz4": hdf5plugin.LZ4(), "h5py blosc2": hdf5plugin.Blosc2("zstd", 3),
    }  # fmt: skip
    with h5py.File(folder / "samples.h5", "w") as file:
        for kind, place in (("rgb", 0), ("mask", 1)):
            data = np.stack([images[place] for images in samples])
            file.create_dataset(kind, data=data, chunks=(1, *data.shape[1:]), **options[name])


def pack(
    renders: Path, folder: Path, name: str, jobs: int = 1, fields: tuple[str, ...] = ("rgb",), shard_mb: float = 512
) -> None:
    from mvad.datasets.shards.pack import PackOptions, pack_renders
    from mvad.progress import Silent

    parts = name.split()
    level = int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else None
    options = PackOptions(filter=parts[1], level=level, fields=fields, shard_mb=shard_mb)
    pack_renders(renders.parents[1], "mvtec3d", renders.name, folder, options, Silent(), jobs)


@child
def write(name: str, renders: str, folder: str) -> dict[str, float]:
    """Write all samples; return the seconds, the size on disk, and the peak memory."""
    source, target = Path(renders), Path(folder)
    began = time.perf_counter()
    if name.startswith("mvad"):
        pack(source, target, name)
    elif name.startswith("h5py"):
        write_h5py(source, target, name)
    elif name == "raw memmap":
        write_memmap(source, target)
    elif name.startswith("webdataset"):
        write_tar(source, target)
    else:
        write_pictures(source, target, name == "JPEG folder")
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return {"seconds": round(seconds, 2), "mb": round(size / 1e6, 2), "peak_mb": peak_mb()}


# ---------------------------------------------------------------------------------------------- reading each format


class Pictures:
    """Pillow on files, as a torch dataset of an image folder does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suffix = ".jpg" if list(folder.glob("*.jpg"))[:1] else ".png"
        self.names = sorted({path.name.rsplit("_", 2)[0] for path in folder.iterdir()})

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: np.ndarray) -> Any:
        import torch
        from PIL import Image

        rgb, mask = [], []
        for index in indices:
            stem = self.names[index]
            rgb += [np.asarray(Image.open(self.folder / f"{stem}_rgb_{view}{self.suffix}")) for view in range(5)]
            mask += [np.asarray(Image.open(self.folder / f"{stem}_mask_{view}.png")) for view in range(5)]
        shape = (len(indices), 5)
        colours, masks = np.stack(rgb), np.stack(mask) // np.uint8(255)
        return torch.from_numpy(colours.reshape(*shape, *colours.shape[1:])), torch.from_numpy(
            masks.reshape(*shape, *masks.shape[1:])
        )


class Memmap:
    """Raw arrays, the upper limit: neither compression nor checksums."""

    def __init__(self, folder: Path) -> None:
        self.rgb, self.mask = (np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in ("rgb", "mask"))

    def __len__(self) -> int:
        return len(self.rgb)

    def batch(self, indices: np.ndarray) -> Any:
        import torch

        made = []
        for source in (self.rgb, self.mask):
            out = np.empty((len(indices), *source.shape[1:]), np.uint8)
            for place, index in enumerate(indices):
                out[place] = source[index]
            made.append(torch.from_numpy(out))
        return tuple(made)


class Plain:
    """h5py with one ``read_direct`` per sample, which is its fastest method."""

    def __init__(self, folder: Path) -> None:
        import h5py

        self.path, self.file = folder / "samples.h5", None
        with h5py.File(self.path) as file:
            self.shapes = {kind: file[kind].shape for kind in ("rgb", "mask")}

    def __len__(self) -> int:
        return self.shapes["rgb"][0]

    def batch(self, indices: np.ndarray) -> Any:
        import h5py
        import hdf5plugin  # noqa: F401
        import torch

        if self.file is None:
            self.file = h5py.File(self.path)
        made = []
        for kind, shape in self.shapes.items():
            out = np.empty((len(indices), *shape[1:]), np.uint8)
            for place, index in enumerate(indices):
                self.file[kind].read_direct(out, np.s_[int(index)], np.s_[place])
            made.append(torch.from_numpy(out))
        return tuple(made)


class Ours:
    """Every sample of every split, through the loader with one thread."""

    def __init__(self, folder: Path, threads: int) -> None:
        from mvad.datasets.shards.loader import ShardSet

        place = next(folder.glob("*/*/manifest.json")).parent
        splits = sorted({path.name.split("-")[0] for path in place.glob("*.h5")})
        self.sets = [ShardSet(place, split, ("rgb",), threads) for split in splits]
        # All splits in one set, because each peer has all samples in one folder; training reads one split only.
        first = self.sets[0]
        for other in self.sets[1:]:
            offset = len(first._files)
            first._files += other._files
            first._places += [(offset + number, row) for number, row in other._places]
            first.keys, first.defects = first.keys + other.keys, first.defects + other.defects
            first._small = {name: np.concatenate([values, other._small[name]]) for name, values in first._small.items()}

    def __len__(self) -> int:
        return len(self.sets[0])

    def batch(self, indices: np.ndarray) -> Any:
        made = self.sets[0].batch(indices)
        return made.rgb, made.mask


class Steps:
    """Batches as items, for torch's DataLoader."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, step: int) -> Any:
        return self.reader.batch(np.random.default_rng(step).integers(len(self.reader), size=BATCH))


def batches(name: str, folder: Path, workers: int, threads: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    if name.startswith("webdataset"):
        yield from sequential(folder, workers)
        return
    makers: dict[str, Callable[[], Any]] = {
        "PNG": lambda: Pictures(folder), "JPEG": lambda: Pictures(folder), "raw": lambda: Memmap(folder),
        "h5py": lambda: Plain(folder), "mvad": lambda: Ours(folder, threads),
    }  # fmt: skip
    steps = Steps(makers[name.split()[0]]())
    if name.startswith("mvad") and threads > 1 and not workers:
        from mvad.datasets.shards.batches import Batches

        yield from ((batch.rgb, batch.mask) for batch in Batches(steps.reader.sets[0], 0, BATCH).steps(0, len(steps)))
    elif workers:
        yield from DataLoader(steps, batch_size=None, num_workers=workers, multiprocessing_context="fork")  # type: ignore[arg-type]
    else:
        for step in range(len(steps)):
            yield steps[step]


def sequential(folder: Path, workers: int) -> Iterator[Any]:
    import torch
    import webdataset
    from torch.utils.data import DataLoader

    def stacked(samples: list[dict[str, Any]]) -> Any:
        rgb = np.stack([np.stack([sample[f"rgb{view}.png"] for view in range(5)]) for sample in samples])
        mask = np.stack([np.stack([sample[f"mask{view}.png"][..., 0] for view in range(5)]) for sample in samples])
        return torch.from_numpy(rgb), torch.from_numpy(mask // np.uint8(255))

    data = webdataset.WebDataset(
        [str(folder / "samples.tar")] * max(workers, 1), shardshuffle=False, empty_check=False, nodesplitter=None
    )
    data = data.repeat().shuffle(64).decode("rgb8").batched(BATCH, collation_fn=stacked)
    if workers:
        yield from DataLoader(data, batch_size=None, num_workers=workers)
    else:
        yield from data


@child
def read(name: str, folder: str, workers: int = 0, threads: int = 1) -> dict[str, float]:
    """Samples per second of random batches, and the memory of this process."""
    import torch

    torch.set_num_threads(1)
    stream = batches(name, Path(folder), workers, threads)
    rgb, mask = next(stream)
    assert rgb.shape == (BATCH, 5, 256, 256, 3), rgb.shape
    assert mask.shape == (BATCH, 5, 256, 256), mask.shape
    assert int(mask.max()) <= 1
    for _ in range(4):
        next(stream)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        next(stream)
        count += BATCH
    seconds = time.perf_counter() - began
    result = {"samples_per_s": round(count / seconds, 1), "rss_mb": rss_mb()}
    del stream
    return result


# --------------------------------------------------------------------------------------------------------- sections


def formats(real: Path | None, scratch: Path) -> Any:
    """Write every format; read random batches with 0 and 2 workers, and mvad's shards also with two threads."""
    renders = rendered(real, scratch)
    names = (*PEERS, *OURS)
    rows: dict[str, Any] = {}
    folders = {name: str(scratch / name.replace(" ", "-").replace(",", "").replace("(", "").replace(")", "")) for name in names}
    for name in names:
        rows[name] = {
            f"write_{key}": value for key, value in run("write", name=name, renders=str(renders), folder=folders[name]).items()
        }
        print(name, rows[name], flush=True)
    for label, more in (("1 process", {}), ("2 workers", {"workers": 2}), ("2 threads", {"threads": 2})):
        chosen = tuple(name for name in names if label != "2 threads" or name in OURS)
        taken = in_turn(lambda name, more=more: run("read", name=name, folder=folders[name], **more), chosen, ROUNDS)  # type: ignore[misc]
        for name, values in taken.items():
            speeds = [value["samples_per_s"] for value in values]
            rows[name][label] = {"samples_per_s": statistics.median(speeds), "rounds": speeds, "rss_mb": values[-1]["rss_mb"]}
    png = rows["PNG folder"]
    for row in rows.values():
        row["times_png_folder, 1 process"] = round(row["1 process"]["samples_per_s"] / png["1 process"]["samples_per_s"], 2)
        row["size_over_png_folder"] = round(row["write_mb"] / png["write_mb"], 3)
    return rows


@child
def decode_alone(renders: str) -> float:
    """Seconds to read, hash and decode every file of a rendered category on one thread."""
    from mvad.datasets.renders.record import read_manifest, read_record, read_sample

    began = time.perf_counter()
    for entry in read_manifest(Path(renders))["samples"]:
        place = Path(renders) / entry["split"] / entry["defect"] / entry["id"]
        read_sample(place, read_record(place))
    return round(time.perf_counter() - began, 3)


@child
def pack_seconds(renders: str, folder: str, filter_name: str, jobs: int) -> float:
    """Seconds to pack a rendered category with all fields."""
    began = time.perf_counter()
    pack(Path(renders), Path(folder), f"mvad {filter_name}", jobs, ("rgb", "depth", "normal", "source"))
    return round(time.perf_counter() - began, 3)


@child
def photographs(raw: str, folder: str, what: str) -> float:
    """Seconds to decode photographs of 1,024 px and their masks, or to pack them at 256 px."""
    from mvad.datasets import realiad
    from mvad.datasets.images import read_levels, read_rgb
    from mvad.datasets.shards.pack import PackOptions, pack_realiad
    from mvad.progress import Silent

    began = time.perf_counter()
    if what == "decode alone":
        for ref in realiad.refs(Path(raw), "plate"):
            for view in ref.views:
                read_rgb(view.image)
                if view.mask:
                    read_levels(view.mask)
    else:
        pack_realiad(Path(raw), "plate", Path(folder), PackOptions(), Silent(), int(what.split()[0]))
    return round(time.perf_counter() - began, 3)


@child
def index_all(raw: str) -> dict[str, float]:
    """Seconds and memory to index every split file of Real-IAD, as ``mvad pack --dry-run`` does."""
    from mvad.datasets import realiad
    from mvad.datasets.shards.contents import count

    began = time.perf_counter()
    rows = [row for name in realiad.categories(Path(raw)) for row in count(Path(raw), Path(raw), realiad.NAME, name)]
    return {
        "images": sum(row.images for row in rows), "seconds": round(time.perf_counter() - began, 2), "peak_mb": peak_mb(),
    }  # fmt: skip


def packing(real: Path | None, scratch: Path) -> Any:
    """Packing compared with only decoding its inputs, and the gain by a second worker."""
    from PIL import Image

    from mvad.datasets.synth.generate import SynthOptions, generate
    from mvad.progress import Silent

    renders = rendered(real, scratch)
    ways: tuple[str, ...] = (
        "decode alone",
        *(f"{jobs} {name}" for name in ("zstd", "zstd 3", "lz4", "gzip") for jobs in (1, 2)),
    )

    def render_pack(way: str) -> float:
        if way == "decode alone":
            return float(run("decode_alone", renders=str(renders)))
        jobs, name = way.split(" ", 1)
        target = scratch / "packed"
        shutil.rmtree(target, ignore_errors=True)
        return float(run("pack_seconds", renders=str(renders), folder=str(target), filter_name=name, jobs=int(jobs)))

    rows: dict[str, Any] = {"renders": in_turn(render_pack, ways, ROUNDS)}
    generate("realiad", scratch / "raw", ["plate"], SynthOptions(train=8, good=4, per_defect=1, size=256), Silent())
    for path in [*(scratch / "raw").rglob("*.jpg"), *(scratch / "raw").rglob("*.png")]:
        image = Image.open(path)
        image.resize((1024, 1024), Image.Resampling.NEAREST if path.suffix == ".png" else Image.Resampling.BICUBIC).save(path)

    def photograph_pack(way: str) -> float:
        shutil.rmtree(scratch / "photos", ignore_errors=True)
        return float(run("photographs", raw=str(scratch / "raw"), folder=str(scratch / "photos"), what=way))

    rows["photographs"] = in_turn(photograph_pack, ("decode alone", "1 zstd", "2 zstd"), ROUNDS)
    result: dict[str, Any] = {}
    for kind, taken in rows.items():
        seconds = {way: statistics.median(values) for way, values in taken.items()}
        result[kind] = {
            "seconds": seconds,
            "pack_over_decode": {
                way: round(s / seconds["decode alone"], 2) for way, s in seconds.items() if way.startswith("1 ")
            },
            "two_jobs_over_one": {
                way[2:]: round(seconds["1 " + way[2:]] / s, 2) for way, s in seconds.items() if way.startswith("2 ")
            },
        }
    if real:
        result["index of Real-IAD"] = run("index_all", raw=str(real / "realiad"))
    return result


@child
def grown(folder: str, threads: int) -> dict[str, float]:
    """Open a category and read random batches: time to open, samples per second, memory and open files."""
    import torch

    from mvad.datasets.shards.loader import ShardSet

    torch.set_num_threads(1)
    before, began = rss_mb(), time.perf_counter()
    data = ShardSet(Path(folder), "train", ("rgb",), threads)
    opened = time.perf_counter() - began
    random = np.random.default_rng(0)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        data.batch(random.integers(len(data), size=BATCH))
        count += BATCH
    return {
        "samples": len(data), "shards": len(data.sha256), "open_s": round(opened, 3),
        "samples_per_s": round(count / (time.perf_counter() - began), 1), "grown_mb": round(rss_mb() - before, 1),
        "files_open": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


def growth(real: Path | None, scratch: Path) -> Any:
    """Reading from 1, 10 and 100 shards of eight samples."""
    from dataclasses import replace

    from mvad.datasets.shards.pack import PackOptions, pack_category
    from mvad.datasets.shards.sources import rendered_category
    from mvad.progress import Silent

    renders = rendered(real, scratch)
    whole = rendered_category(renders.parents[1], "mvtec3d", renders.name)
    rows = []
    for shards in (1, 10, 100):
        some = [
            replace(whole.sources[number % len(whole.sources)], key=f"{number:06d}", split="train")
            for number in range(8 * shards)
        ]
        sample_mb = 5 * 256 * 256 * 5 / 1e6  # rgb, mask and seen
        options = PackOptions(fields=("rgb",), shard_mb=8 * sample_mb + 0.1)
        target = scratch / f"{shards}"
        pack_category(replace(whole, sources=some), target, options, Silent(), THREADS)
        folder = next(target.glob("*/*/manifest.json")).parent
        rows.append({f"{threads} threads": run("grown", folder=str(folder), threads=threads) for threads in (1, 2)})
        print(rows[-1], flush=True)
    return rows


@child
def soak(folder: str, samples: int, workers: int, start: str) -> dict[str, float]:
    """Read many samples: neither memory nor the number of open files may grow."""
    from mvad.datasets.shards.batches import Batches
    from mvad.datasets.shards.loader import ShardSet

    data = ShardSet(Path(folder), "train", ("rgb",), 2)
    stream = Batches(data, 0, BATCH).steps(0, samples // BATCH, workers, start_method=start or None)
    early, began = 0.0, time.perf_counter()
    for step, _ in enumerate(stream):
        if step == 200:
            early = rss_mb()
    seconds = time.perf_counter() - began
    return {
        "samples": samples, "growth_mb": round(rss_mb() - early, 1), "samples_per_s": round(samples / seconds, 1),
        "files_open": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


def soaks(real: Path | None, scratch: Path) -> Any:
    """Read 20,000 samples (2,000 with --quick) with threads, and with two forked or spawned workers."""
    renders = rendered(real, scratch)
    pack(renders, scratch / "packed", "mvad zstd", THREADS)
    folder = next((scratch / "packed").glob("*/*/manifest.json")).parent
    samples = 2000 if QUICK else 20000
    ways = {"threads": (0, ""), "2 workers, fork": (2, "fork"), "2 workers, spawn": (2, "spawn")}
    return {name: run("soak", folder=str(folder), samples=samples, workers=w, start=start) for name, (w, start) in ways.items()}


# ------------------------------------------------------------------------------------------------- plot and sections


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw speed, size and growth."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = result["formats"]
    figure, axes = pyplot.subplots(1, 3, figsize=(19, 6), layout="constrained")
    names = sorted(rows, key=lambda name: rows[name]["1 process"]["samples_per_s"])
    colors = ["#2a7f9e" if name.startswith("mvad") else "#b9b9b9" for name in names]
    bars = axes[0].barh(names, [rows[name]["1 process"]["samples_per_s"] for name in names], color=colors)
    axes[0].bar_label(bars, fmt="{:,.0f}", padding=3)
    axes[0].set(xscale="log", xlabel="random samples/s, one process, one thread", title="5 views at 256 px and masks")
    axes[0].margins(x=0.25)
    for name, color in zip(names, colors, strict=True):
        place = rows[name]["size_over_png_folder"], rows[name]["1 process"]["samples_per_s"]
        axes[1].scatter(*place, color=color)
        axes[1].annotate(name, place, fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes[1].set(xscale="log", yscale="log", xlabel="size, PNG folder = 1", ylabel="random samples/s", title="speed and size")
    for threads in ("1 threads", "2 threads"):
        points = [(row[threads]["shards"], row[threads]["samples_per_s"]) for row in result["growth"]]
        axes[2].plot(*zip(*points, strict=True), marker="o", label=threads.replace("1 threads", "1 thread"))
    axes[2].set(xscale="log", ylim=(0, None), xlabel="shards of 8 samples", ylabel="random samples/s", title="growth, mvad zstd")
    axes[2].legend()
    figure.savefig(path)


def about() -> dict[str, Any]:
    what = "real cable_gland" if "MVAD_REAL_DATA" in os.environ else "generated gear"
    return {
        "versions": versions("h5py", "hdf5plugin", "imagecodecs", "pillow", "webdataset"), "samples_of": what, "batch": BATCH,
    }  # fmt: skip


SECTIONS = {"formats": formats, "packing": packing, "growth": growth, "soak": soaks}

if __name__ == "__main__":
    sys.exit(drive("shards", SECTIONS, about, plot))
