"""Training engine: several ranks, signals, losses that are not finite, logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command import said, start, surroundings
from training import TINY, prepared, train

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput, MissingComponent
from mvad.model.config import TrainConfig
from mvad.model.fitting import fit_run
from mvad.model.training.checkpoint_writer import CheckpointWriter, Content
from mvad.model.training.context import FitContext
from mvad.model.training.loop import Phase, run_phases
from mvad.model.training.parallel import ProcessGroup, join_process_group, share_batch_norms
from mvad.model.training.pending import Pending
from mvad.progress import Silent


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def command(workspace: Path, name: str, dataset: str, model: str, more: Mapping[str, Any]) -> list[str]:
    keys = {**TINY, "train.batch": 4, "train.precision": "float32", **more}
    keys = {key: value for key, value in keys.items() if not key.startswith(("teacher", "pseudo.textures"))}
    sets = [f"--set={key}={json.dumps(list(value) if isinstance(value, tuple) else value)}" for key, value in keys.items()]
    words = ["train", "--preset=demo", f"--model={model}", f"--dataset={dataset}", "--teacher=tiny", "--textures=procedural"]
    return [*words, f"--name={name}", f"--workspace={workspace}", *sets]


class Launched:
    """A training in one process or several, started as torchrun starts them, each forked from the warm server."""

    def __init__(self, words: list[str], out: Path, ranks: int = 1) -> None:
        together = {}
        if ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self.outs = [out.with_name(f"{out.name}-{rank}") for rank in range(ranks)]
        self.processes = [
            start(
                "mvad.cli", *words, out=place,
                environment=surroundings(**together, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if together else {})),
            )
            for rank, place in enumerate(self.outs)
        ]  # fmt: skip

    def wait(self, timeout_s: float = 240) -> tuple[set[int], str]:
        """Return the exit codes of all ranks, and what they wrote."""
        codes = {process.wait(timeout_s) for process in self.processes}
        return codes, "".join("".join(said(out)) for out in self.outs)

    def send(self, number: int) -> None:
        """Send a signal to the first rank."""
        os.kill(self.processes[0].pid, number)


def torchrun(words: list[str], ranks: int) -> subprocess.CompletedProcess[str]:
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "mvad.cli"]
    return subprocess.run([*begin, *words], env=surroundings(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=240)


@pytest.mark.thorough(8)
@pytest.mark.parametrize(("dataset", "model"), [("realiad", "idif"), ("realiad", "destseg")])
def test_two_ranks_give_the_result_of_one_process(dataset: str, model: str, workspace: Path, tmp_path: Path) -> None:
    """Samples of Real-IAD lack views, so that ranks have different views. With SGD, since Adam amplifies rounding."""
    place = tmp_path / "workspace"
    place.mkdir()
    (place / "shards").symlink_to(workspace / "shards")
    more = {
        "optimizer.kind": "destseg",
        "optimizer.student_lr": 1e-3,
        "optimizer.head_lr": 1e-3,
        "optimizer.head_residual_lr": 1e-3,
        "score.folds": 2 if model == "destseg" else 1,  # all ranks fit the folds, and rank 0 scores
    }
    for ranks in (1, 2):
        codes, output = Launched(command(place, f"ranks{ranks}", dataset, model, more), tmp_path / f"out{ranks}", ranks).wait()
        assert codes == {0}, output
    one, two = (losses(place / "runs" / f"ranks{ranks}") for ranks in (1, 2))
    assert len(one) == len(two) == 7, "one line per step, from one rank"
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert one == pytest.approx(two, rel=1e-3)
    weights = [safetensors.torch.load((place / "runs" / f"ranks{r}" / "model.safetensors").read_bytes()) for r in (1, 2)]
    assert weights[0].keys() == weights[1].keys()
    worst = max(
        float((weights[0][k].float() - weights[1][k].float()).abs().max())
        for k in weights[0]
        if k not in ("baseline", "window") and not k.startswith("scale.")
    )
    assert worst < 2e-3


def test_a_batch_size_that_ranks_do_not_divide_is_rejected(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    ready, origins = prepared(data, "mean_feature", **{"train.batch": 3})
    with pytest.raises(BadInput, match=r"train\.batch = 3 cannot be shared by 2 processes"):
        fit_run(tmp_path / "run", data, ready, origins, Silent(), ProcessGroup(0, 2))


@pytest.mark.thorough(4)
def test_sigterm_finishes_the_step_saves_and_exits_143_and_the_command_resumes(workspace: Path, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    place.mkdir()
    (place / "shards").symlink_to(workspace / "shards")
    more = {"train.student_steps": 40, "train.head_steps": 4, "train.checkpoint_every": 0, "train.checkpoint_seconds": 0}
    words = command(place, "killed", "mvtec3d", "idif", more)
    first = Launched(words, tmp_path / "first")
    log = place / "runs" / "killed" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3) and time.monotonic() < until:
        time.sleep(0.05)
    first.send(signal.SIGTERM)
    codes, output = first.wait(60)
    assert codes == {143}, output
    done = len(losses(log.parent))
    assert [path.stem for path in (log.parent / "checkpoints").glob("*.json")] == [f"step-{done}"]
    codes, output = Launched(words, tmp_path / "again").wait()
    assert codes == {0}, output
    assert Launched(command(place, "whole", "mvtec3d", "idif", more), tmp_path / "whole").wait()[0] == {0}
    assert losses(log.parent) == losses(place / "runs" / "whole")
    one, two = (
        safetensors.torch.load((place / "runs" / name / "model.safetensors").read_bytes()) for name in ("killed", "whole")
    )
    assert all(torch.equal(one[name], two[name]) for name in one), "bit for bit"


@pytest.mark.thorough(4)
def test_two_processes_can_finish_a_run_of_one(workspace: Path, tmp_path: Path) -> None:
    """The number of ranks may change between checkpoints."""
    place = tmp_path / "workspace"
    place.mkdir()
    (place / "shards").symlink_to(workspace / "shards")
    more = {
        "train.student_steps": 30,
        "train.head_steps": 3,
        "train.checkpoint_every": 0,
        "train.checkpoint_seconds": 0,
        "optimizer.kind": "destseg",
    }
    more |= {"optimizer.student_lr": 1e-3, "optimizer.head_lr": 1e-3, "optimizer.head_residual_lr": 1e-3}
    words = command(place, "grown", "mvtec3d", "idif", more)
    first = Launched(words, tmp_path / "first")
    log = place / "runs" / "grown" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3) and time.monotonic() < until:
        time.sleep(0.05)
    first.send(signal.SIGTERM)
    assert first.wait(60)[0] == {143}
    done = len(losses(log.parent))
    assert 3 <= done < 33
    again = torchrun(words, 2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(losses(log.parent)) == 33, "each step once"
    assert Launched(command(place, "whole", "mvtec3d", "idif", more), tmp_path / "whole").wait()[0] == {0}
    assert losses(log.parent) == pytest.approx(losses(place / "runs" / "whole"), rel=2e-2)


def context(run: Path, lines: list[Mapping[str, float]]) -> FitContext:
    return FitContext(run, Silent(), lines.append)


def checkpoints(run: Path, total: int, tensors: Mapping[str, torch.Tensor] | None = None, **config: int) -> CheckpointWriter:
    """Return a writer of checkpoints of some tensors, by steps only."""
    keys = TrainConfig(checkpoint_seconds=0, checkpoint_every=config.get("every", 0), keep_checkpoints=config.get("keep", 2))
    content = Content(0, {"w": torch.zeros(1)} if tensors is None else tensors, {})
    return CheckpointWriter(run, lambda step: content, 0, total, keys)


def test_a_signal_is_handled_after_the_step(tmp_path: Path) -> None:
    weights = torch.zeros(2)

    def step(k: int) -> Pending:
        weights[0] += 1
        if k == 2:
            os.kill(os.getpid(), signal.SIGINT)
        weights[1] += 1
        return Pending({"loss": 0.0})

    lines: list[Mapping[str, float]] = []
    writer = checkpoints(tmp_path, 9, {"w": weights})
    with pytest.raises(KeyboardInterrupt):
        run_phases([Phase("p", 9, lambda: None, step)], 0, 1, writer, context(tmp_path, lines))
    saved = safetensors.torch.load((tmp_path / "checkpoints" / "step-3.safetensors").read_bytes())["w"]
    assert saved.tolist() == [3, 3], "both halves of the step"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_step_is_not_saved(tmp_path: Path) -> None:
    def step(k: int) -> Pending:
        if k == 2:
            raise KeyboardInterrupt
        return Pending({"loss": 0.0})

    with pytest.raises(KeyboardInterrupt):
        run_phases([Phase("p", 9, lambda: None, step)], 0, 1, checkpoints(tmp_path, 9), context(tmp_path, []))
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("lag", [0, 1])
def test_a_loss_that_is_not_finite_is_reported_with_step_and_samples(lag: int, tmp_path: Path) -> None:
    performed = []

    def step(k: int) -> Pending:
        performed.append(k)
        return Pending({"loss": torch.tensor(float("nan") if k == 1 else 1.0)}, [f"gear/train/good/00{k}"])

    phases = [Phase("student", 4, lambda: None, step)]
    with pytest.raises(
        BadInput, match=r"the loss is nan at student step 1 \(samples gear/train/good/001\); the last checkpoint is step 1"
    ):
        run_phases(phases, 0, 1, checkpoints(tmp_path, 4, every=1), context(tmp_path, []), lag)
    assert performed == [0, 1], "a checkpoint is due after each step, and none is written after a loss that nobody read"


def test_figures_are_read_when_the_next_step_is_under_way(tmp_path: Path) -> None:
    events: list[str] = []

    class Watched(Pending):
        def __init__(self, k: int) -> None:
            super().__init__({"loss": torch.tensor(float(k)), "more": 2.0})
            self.k = k

        def read(self) -> dict[str, float]:
            events.append(f"read {self.k}")
            return super().read()

    def step(k: int) -> Pending:
        events.append(f"step {k}")
        return Watched(k)

    lines: list[Mapping[str, float]] = []
    run_phases([Phase("p", 3, lambda: None, step)], 0, 1, checkpoints(tmp_path, 3), context(tmp_path, lines), 1)
    assert events == ["step 0", "step 1", "read 0", "step 2", "read 1", "read 2"]
    assert [(line["step"], line["loss"], line["more"]) for line in lines] == [(1, 0, 2), (2, 1, 2), (3, 2, 2)]


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    phases = [Phase("p", 5, lambda: None, lambda k: Pending({"loss": 0.0}))]
    run_phases(phases, 0, 1, checkpoints(tmp_path, 5, every=1, keep=3), context(tmp_path, []))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step-{n}.{ending}" for n in (3, 4, 5) for ending in ("json", "safetensors")]


@pytest.mark.thorough(6)
def test_throughput_is_logged_and_missing_tensorboard_is_an_error_with_a_remedy(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gear = workspace / "shards" / "mvtec3d" / "gear"
    train(tmp_path / "run", gear)
    lines = list(files.read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert all(line["samples_per_s"] > 0 and line["seconds"] > 0 for line in lines)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingComponent, match=r"pip install tensorboard"):
        train(tmp_path / "board", gear, **{"train.tensorboard": True})


class Board:
    """Replacement of torch's SummaryWriter."""

    lines: list[tuple[str, float, int]] = []  # noqa: RUF012

    def __init__(self, folder: str) -> None:
        assert folder.endswith("tensorboard")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.lines.append((name, value, step))

    def close(self) -> None:
        self.lines.append(("closed", 0, 0))


@pytest.mark.thorough(6)
def test_all_figures_are_written_for_tensorboard(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(tmp_path / "run", workspace / "shards" / "mvtec3d" / "gear", **{"train.tensorboard": True})
    written = {(name, step): value for name, value, step in Board.lines}
    for line in files.read_lines(tmp_path / "run" / "metrics.jsonl"):
        assert written["loss", line["step"]] == line["loss"]
    assert Board.lines[-1][0] == "closed"


def test_shared_batch_norm_in_one_process_equals_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    import mvad.model.training.parallel as parallel

    monkeypatch.setattr(parallel, "all_reduce", lambda x: x)
    torch.manual_seed(0)
    plain, shared = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)
    holder = torch.nn.Sequential(shared)
    share_batch_norms(holder)
    x = torch.randn(3, 4, 5, 5) * 2 + 1
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, given in zip((plain, holder), inputs, strict=True):
        (module(given) ** 3).sum().backward()
    assert torch.allclose(plain(x), holder(x), atol=1e-5)
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-3, rtol=1e-3)
    assert torch.allclose(plain.running_var, shared.running_var, atol=1e-5)
    assert type(shared).__name__ == "SharedBatchNorm2d"
    before = shared.running_var.clone()
    one = torch.full((1, 4, 1, 1), 7.0)  # no deviation: by running statistics, as in one process
    assert torch.allclose(holder(one), plain.eval()(one), atol=1e-4)
    assert torch.equal(shared.running_var, before)


def test_a_group_on_cuda_can_sum_tensors_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a rank was asked to stop is a tensor on the processor, which nccl alone does not take."""
    started: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", started.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert join_process_group() == ProcessGroup(1, 2)
    assert started == ["cpu:gloo,cuda:nccl"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BadInput, match="3 or more processes for 2 CUDA devices; give --nproc-per-node 2"):
        join_process_group()
