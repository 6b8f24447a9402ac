"""From a folder of photographs to decisions: a newcomer's three commands, packing, predict, and a server under load.

    python benchmarks/own_data.py [--parts DIR] [--scratch DIR] [--only path,pack,predict,serve] [--quick]

The parts are generated unless ``--parts`` has them (``mvad synth folder``): 200 good training parts, 42 with a defect, 100 good ones
that nothing was fitted to; five views of 640 x 480 pixels (``--quick``: 30, 7 and 10 of 320 x 240). Each section is measured alone;
ratios are of one run. ``path``: the wall time of the commands ``pack folder``, ``train`` and ``predict --page`` by method, S-AUROC of the
new parts, and the share of false alarms beside what the threshold promises. ``pack``: packing against decoding the same files with
Pillow in as many threads. ``predict``: seconds per part of the command's loop against those in the detector. ``serve``: a request
against the detector's own time; a minute at the rate that one part after the other reaches, and one at three times that rate.
Writes results/own_data.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvad import files
from mvad.model.metrics.auroc import auroc
from mvad.model.runs import machine

RESULTS = Path(__file__).parent / "results" / "own_data.json"
METHODS = ("mean_feature", "padim")
PRESET = ("--preset", "small", "--set", "input.size=256")
MVAD = [sys.executable, "-m", "mvad.cli"]
THREADS = os.cpu_count() or 1


def mvad(*words: str, cwd: Path) -> tuple[float, str]:
    """Run a command; return its seconds and what it said."""
    began = time.perf_counter()
    done = subprocess.run([*MVAD, *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mvad {' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return time.perf_counter() - began, done.stdout


def arranged(parts: Path | None, scratch: Path, quick: bool) -> Path:
    """Return a folder with ``parts/good`` and ``new/{good,DEFECT}``; the pictures are generated where none are given."""
    raw = parts or scratch / "generated"
    if parts is None:
        counts = ("--train", "30", "--good", "10", "--per-defect", "1", "--size", "240") if quick else (
            "--train", "200", "--good", "100", "--per-defect", "6", "--size", "480")  # fmt: skip
        mvad("synth", "folder", "--category", "gear", "--raw", str(raw), "--seed", "5", *counts, cwd=scratch)
    place = scratch / "arranged"
    if not place.exists():
        for source, target in (
            (raw / "gear/train/good", "parts/good"),
            *((f, f"new/{f.name}") for f in (raw / "gear/test").iterdir()),
        ):
            shutil.copytree(source, place / target)
    return place


def path(place: Path) -> dict[str, Any]:
    """Time the three commands of a newcomer, and look at the decisions."""
    found: dict[str, Any] = {}
    for method in METHODS:
        work = place.parent / f"path-{method}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        run = f"mvad-data/runs/folder-parts-{method}-seed0"
        seconds = {
            "pack": mvad("pack", "folder", str(place / "parts"), "--crop", "auto", cwd=work)[0],
            "train": mvad("train", "--dataset", "folder", "--category", "parts", "--model", method, *PRESET, cwd=work)[0],
        }
        seconds["predict"], _ = mvad("predict", run, str(place / "new"), "--page", "decisions.html", cwd=work)
        lines = files.read_lines(work / run / "predictions" / "new" / "predictions.jsonl")
        good = np.array([line["sample"].startswith("good/") for line in lines])
        scores = np.array([line["score"] for line in lines])
        called = np.array([line["decision"] == "anomalous" for line in lines])
        defects = sorted({line["sample"].split("/")[0] for line in lines} - {"good"})
        found[method] = {
            "seconds": {name: round(value, 1) for name, value in seconds.items()}, "all_seconds": round(sum(seconds.values()), 1),
            "s_auroc": round(100 * float(auroc(scores, ~good)), 2), "good": int(good.sum()), "defective": int((~good).sum()),
            "false_alarms": round(100 * float(called[good].mean()), 1), "promised": round(100 * lines[0]["promised_false_alarms"], 2),
            "found": round(100 * float(called[~good].mean()), 1),
            "found_by_defect": {
                name: int(sum(called[k] for k, line in enumerate(lines) if line["sample"].startswith(f"{name}/"))) for name in defects
            },
            "page_mb": round((work / "decisions.html").stat().st_size / 1e6, 2),
        }  # fmt: skip
        print(method, found[method], flush=True)
    return found


def pack(place: Path, rounds: int) -> dict[str, Any]:
    """Time packing the parts, and some of them in nine times as many pixels, as those of an industrial camera."""
    large = place.parent / "large" / "parts"
    if not large.exists():
        for file in sorted((place / "parts").rglob("*.jpg"))[:200]:
            target = large / file.relative_to(place / "parts")
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(file) as image:
                image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC).save(target, quality=92)
    return {
        "as generated": packed_against_decoded(place / "parts", rounds),
        "three times as large": packed_against_decoded(large, rounds),
    }


def packed_against_decoded(parts: Path, rounds: int) -> dict[str, Any]:
    """Time packing against decoding the same files, each in as many threads as there are cores."""
    pictures = sorted(parts.rglob("*.jpg"))

    def decode(file: Path) -> int:
        with Image.open(file) as image:
            return int(np.asarray(image.convert("RGB")).shape[0])

    taken: dict[str, list[float]] = {"decode": [], "pack": [], "pack_lz4": []}
    from mvad.datasets.photographs.category import FolderOptions, category_source, find
    from mvad.datasets.shards.pack import PackOptions, pack_category
    from mvad.progress import Silent

    for _ in range(rounds):
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(decode, pictures))
        taken["decode"].append(time.perf_counter() - began)
        for name, filter_name in (("pack", "zstd"), ("pack_lz4", "lz4")):
            target = parts.parent / "packed"
            shutil.rmtree(target, ignore_errors=True)
            began = time.perf_counter()
            options = FolderOptions(jobs=THREADS)
            (found,) = find(parts, options)
            pack_category(
                category_source(found, options),
                target,
                PackOptions(filter_name, 1 if filter_name == "zstd" else None),
                Silent(),
                THREADS,
            )
            taken[name].append(time.perf_counter() - began)
    seconds = {name: round(statistics.median(values), 3) for name, values in taken.items()}
    return {
        "pictures": len(pictures),
        "seconds": seconds,
        "ratio": {n: round(seconds[n] / seconds["decode"], 2) for n in ("pack", "pack_lz4")},
    }


def predict(place: Path) -> dict[str, Any]:
    """Return seconds per part of the loop of ``mvad predict`` against those of the detector alone, by method."""
    found = {}
    for method in METHODS:
        run = place.parent / f"path-{method}" / "mvad-data" / "runs" / f"folder-parts-{method}-seed0"
        lines = files.read_lines(run / "predictions" / "new" / "predictions.jsonl")[1:]
        stages = {name: statistics.median(line[f"{name}_seconds"] for line in lines) for name in ("load", "score", "write")}
        found[method] = {
            "ms": {name: round(1000 * value, 1) for name, value in stages.items()},
            "ratio": round(sum(stages.values()) / stages["score"], 3),
        }
    return found


def body_of(part: Path) -> tuple[bytes, dict[str, str]]:
    """Return a part's pictures as the body and the headers of a request."""
    body = BytesIO()
    for file in sorted(part.glob("*.jpg")):
        body.write(f'--x\r\nContent-Disposition: form-data; name="{file.stem}"; filename="{file.name}"\r\n\r\n'.encode())
        body.write(file.read_bytes() + b"\r\n")
    body.write(b"--x--\r\n")
    return body.getvalue(), {"Content-Type": "multipart/form-data; boundary=x"}


def ask(address: str, body: tuple[bytes, dict[str, str]]) -> tuple[int, float, dict[str, Any]]:
    """Send a part; return the status, the seconds, and the answer."""
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", *body), timeout=120) as answer:
            content = json.load(answer)
            return answer.status, time.perf_counter() - began, content
    except urllib.error.HTTPError as error:
        return error.code, time.perf_counter() - began, {}


def load_test(address: str, bodies: list[tuple[bytes, dict[str, str]]], rate: float, seconds: float) -> dict[str, Any]:
    """Send parts at a fixed rate, whatever the answers; return counts by status and latencies of the decisions."""
    answers: list[tuple[int, float]] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        status, took, _ = ask(address, bodies[number % len(bodies)])
        with lock:
            answers.append((status, took))

    count, began = int(rate * seconds), time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            pool.submit(one, number)
    took = [each for status, each in answers if status == 200]
    return {
        "rate_per_s": round(rate, 2), "sent": count, "answered": len(answers), "by_status": dict(Counter(str(s) for s, _ in answers)),
        "p50_ms": round(1000 * float(np.percentile(took, 50)), 1), "p99_ms": round(1000 * float(np.percentile(took, 99)), 1),
        "decided_per_s": round(len(took) / (time.perf_counter() - began), 2),
    }  # fmt: skip


def serve(place: Path, seconds: float, method: str) -> dict[str, Any]:
    """Measure a server of one method: what a request adds, the sustainable rate, and three times that."""
    run = place.parent / f"path-{method}" / "mvad-data" / "runs" / f"folder-parts-{method}-seed0"
    port = 30000 + os.getpid() % 20000
    process = subprocess.Popen([*MVAD, "serve", str(run), "--port", str(port)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        bodies = [body_of(part) for part in sorted((place / "new" / "good").iterdir())[:20]]
        ask(address, bodies[0])
        alone = [ask(address, body) for body in bodies]
        whole = statistics.median(took for _, took, _ in alone)
        own = statistics.median(answer["score_seconds"] for _, _, answer in alone)
        load = statistics.median(answer["load_seconds"] for _, _, answer in alone)
        rate = 0.8 / whole
        steady, three = load_test(address, bodies, rate, seconds), load_test(address, bodies, 3 * rate, seconds)
    finally:
        process.terminate()
        process.wait(60)
    return {
        "method": method, "request_ms": round(1000 * whole, 1), "score_ms": round(1000 * own, 1), "read_ms": round(1000 * load, 1),
        "added_ms": round(1000 * (whole - own - load), 1), "steady": steady, "three_times": three, "exit": process.returncode,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path("mvad-data/own-data"))
    parser.add_argument("--only", default="path,pack,predict,serve")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    place = arranged(given.parts and given.parts.resolve(), given.scratch.resolve(), given.quick)
    target = RESULTS.with_name("own_data-quick.json") if given.quick else RESULTS
    results = json.loads(target.read_text()) if target.exists() else {}
    sections = {
        "path": lambda: path(place), "pack": lambda: pack(place, 1 if given.quick else 3), "predict": lambda: predict(place),
        "serve": lambda: serve(place, 5 if given.quick else 60, "padim"),
    }  # fmt: skip
    for name in given.only.split(","):
        results[name] = sections[name]()
        results["machine"] = machine() | {"cores": THREADS}
        files.write_json(target, results)
        print(name, json.dumps(results[name], indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
