"""Train and score on the emulated CUDA device, and print as JSON what each step asked of it; a process of its own (``cuda.py``).

python steps.py FOLDER_OF_SHARDS SCRATCH '[{"model": "idif", "preset": "paper", "keys": {...}}, ...]'
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guard import load_guard

scratch = Path(sys.argv[2])
load_guard(scratch)

import cuda  # noqa: E402  # imports torch, which asks for the guard
import torch  # noqa: E402

cuda.install()

from mvad import files  # noqa: E402
from mvad.datasets.shards.loader import ShardSet  # noqa: E402
from mvad.model.backbones.weights import WeightsSource  # noqa: E402
from mvad.model.evaluation.data import with_views  # noqa: E402
from mvad.model.fitting import fit_run, prepare  # noqa: E402
from mvad.model.registry import configure  # noqa: E402
from mvad.model.runs import RunFolder  # noqa: E402
from mvad.model.training import graphs, loop  # noqa: E402
from mvad.progress import Silent  # noqa: E402

NOWHERE = WeightsSource(None, Path("nowhere"), offline=True)


@contextlib.contextmanager
def counted_steps(rows: list[dict[str, Any]]) -> Iterator[None]:
    """Record what each training step asked of the device, until the next one begins."""
    original = loop.perform

    def perform(phase: Any, k: int) -> Any:
        close()
        rows.append({"phase": phase.name, "step": k})
        return original(phase, k)

    def close() -> None:
        counts = cuda.COUNTS.taken()
        if rows and "stops" not in rows[-1]:
            rows[-1] |= counts

    loop.perform = perform
    try:
        yield
    finally:
        close()
        loop.perform = original


def trained(shards: Path, model: str, preset: str, keys: dict[str, Any], scores: bool = True) -> dict[str, Any]:
    """Train, and unless told not to load, score two samples, and score one with views missing; return the counts of each."""
    run = scratch / "runs" / f"{model}-{time.time_ns()}"
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"model": model, "preset": preset, "steps": rows}
    try:
        data = ShardSet(shards, "train")
        given = {"teacher": "random", "pseudo.textures": "procedural", **keys}
        config, origins = configure(preset, model, [("emulated", given)])
        ready = prepare(data, config, Path("nowhere"), NOWHERE, cuda.CUDA)
        with counted_steps(rows):
            fit_run(run, data, ready, origins, Silent())
        found["losses"] = [line["loss"] for line in files.read_lines(run / "metrics.jsonl")]
        if not scores:
            return found
        detector = RunFolder(run).load(NOWHERE, cuda.CUDA)
        test = ShardSet(shards, "test", fields=[*detector.spec.modalities, *(["source"] if "source" in data.stored else [])])
        cuda.COUNTS.taken()
        both = detector.score(test.batch([0, 1]))
        found["score_two"] = cuda.COUNTS.taken()
        alone = detector.score(test.batch([0]))
        found["score_one"] = cuda.COUNTS.taken()
        found["batch_matters"] = float((both.sample_scores[:1] - alone.sample_scores).abs().max())
        found["missing"] = detector.score(with_views(test.batch([0]), [0, 2])).sample_scores.tolist()
        found["scores"] = both.sample_scores.tolist()
    except Exception as error:
        found["error"] = cuda.told(error)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    return found


graphs._GAIN = float("inf")  # a replay is computed again here, which takes as long
graphs._EAGER_RUNS = 4  # the third step is neither the first with the teacher's features kept nor timed


if __name__ == "__main__":
    torch.set_num_threads(1)
    with cuda.EmulatedMode():
        for asked in json.loads(sys.argv[3]):
            print(json.dumps(trained(Path(sys.argv[1]), **asked)), flush=True)
