"""Batches: the same whoever reads them, whatever was read before, and however a process was started."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CATEGORY
from torch.utils.data import ConcatDataset, DataLoader

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.shards import loader
from mvad.datasets.shards.batches import Batches
from mvad.datasets.shards.buffers import Buffers
from mvad.datasets.shards.loader import Batch, ShardSet, collate
from mvad.datasets.shards.order import generator
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.shards.sources import photographed_category
from mvad.errors import BadInput
from mvad.progress import Silent

STEPS = 5


@pytest.fixture(scope="module")
def folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated MVTec category in several shards."""
    root = tmp_path_factory.mktemp("many")
    pack_renders(workspace / "renders", "mvtec3d", "gear", root, PackOptions(shard_mb=0.9), Silent(), 2)
    return root / "mvtec3d" / "gear"


def flip(batch: Batch, random: Sequence[np.random.Generator]) -> Batch:
    """Mirror some samples."""
    flipped = torch.tensor([bool(one.integers(2)) for one in random])
    assert batch.rgb is not None
    return replace(batch, rgb=torch.where(flipped[:, None, None, None, None], batch.rgb.flip(3), batch.rgb))


def same(one: Batch, other: Batch) -> bool:
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            return False
    return True


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    batches = Batches(ShardSet(folder, "test"), seed=7, batch=4, augment=flip)
    straight = list(batches.steps(0, STEPS))
    assert all(same(batches.at(step), straight[step]) for step in reversed(range(STEPS)))
    assert all(same(a, b) for a, b in zip(batches.steps(2, STEPS), straight[2:], strict=True)), "resumed at step 2"
    assert not same(replace(batches, seed=8).at(0), straight[0])
    assert not same(replace(batches, augment=None).at(0), straight[0]), "the augmentation changed something"
    assert sorted(key for batch in straight[:2] for key in batch.keys) != sorted(straight[0].keys * 2)


def test_random_numbers_differ_with_seed_step_and_place() -> None:
    drawn = [generator(*one).random() for one in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))]
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]


@pytest.mark.parametrize(
    ("workers", "start_method"),
    [(1, "fork"), (2, "fork"), *(pytest.param(2, how, marks=pytest.mark.thorough(4)) for how in ("spawn", "forkserver"))],
)
def test_workers_give_the_same_batches_however_they_start(folder: Path, workers: int, start_method: str) -> None:
    data = ShardSet(folder, "test")
    data.batch([0, 1])  # a file and a pool are open here when the workers start
    batches = Batches(data, seed=7, batch=4, augment=flip)
    here = list(batches.steps(0, STEPS))
    there = list(batches.steps(0, STEPS, workers, start_method=start_method))
    assert len(there) == STEPS
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_a_forked_process_decodes_on_threads_of_its_own(folder: Path) -> None:
    data = ShardSet(folder, "test", threads=2)
    before = data.batch([0, 3, 5])  # the threads that did this do not exist in a child
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if same(data.batch([0, 3, 5]), before) else 2
        finally:
            os._exit(code)
    for _ in range(300):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that are not there")
    assert os.waitstatus_to_exitcode(status) == 0


def test_ranks_share_a_batch_without_overlap(folder: Path) -> None:
    alone = Batches(ShardSet(folder, "test"), seed=1, batch=4, augment=flip)
    ranks = [replace(alone, rank=rank, ranks=2) for rank in range(2)]
    for step in range(STEPS):
        assert same(collate([rank.at(step) for rank in ranks]), alone.at(step))
    with pytest.raises(ValueError, match="batch of 4 cannot be divided among 3 ranks"):
        replace(alone, ranks=3).at(0)


def test_no_file_is_open_before_it_is_read_and_none_travels(folder: Path) -> None:
    data = ShardSet(folder, "test")
    assert all(file._handle is None for file in data._files)
    first = data.batch([0])
    assert [file._handle is not None for file in data._files] == [True, False, False]
    copy = pickle.loads(pickle.dumps(data))
    assert all(file._handle is None for file in copy._files)
    assert same(copy.batch([0]), first)


def test_a_worker_that_is_killed_is_an_error_not_a_hang(folder: Path) -> None:
    """Killed while this process waits for it: torch raises wherever the signal of a child's end finds the main thread."""
    stream = Batches(ShardSet(folder, "test"), seed=0, batch=2).steps(0, 1_000_000, workers=1, start_method="fork")
    next(stream)
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    timer = threading.Timer(0.5, os.kill, (child.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(BadInput, match="a process that reads shards died") as caught:
        deque(stream, maxlen=0)
    timer.join()
    assert "\n" not in str(caught.value)


def test_reading_leaves_no_file_or_memory_behind(folder: Path) -> None:
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    data = ShardSet(folder, "test")
    for step in range(60):
        data.batch(np.random.default_rng(step).integers(len(data), size=8))
    early = resident_mb()
    for step in range(400):
        data.batch(np.random.default_rng(step).integers(len(data), size=8))
    grown = resident_mb() - early
    del data
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert grown < 50, f"{grown:.0f} MB more after 3,200 samples"


def test_samples_are_moved_to_a_device_a_few_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_MOVED_TOGETHER", 4)
    data = ShardSet(folder, "test", ("rgb", "depth"))
    assert len(data) % 4
    most: list[int] = []
    decode = ShardSet._decode
    monkeypatch.setattr(ShardSet, "_decode", lambda self, rows, *rest: (most.append(len(rows)), decode(self, rows, *rest))[1])
    moved = data._moved_in_blocks(torch.device("cpu"))
    assert max(most) == 4
    whole = decode(data, range(len(data)))
    assert moved.keys() == whole.keys()
    for name, tensor in whole.items():
        assert moved[name].dtype == tensor.dtype
        assert torch.equal(moved[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_what_is_in_memory_is_the_same_and_shared_and_bounded(folder: Path) -> None:
    data = ShardSet(folder, "test", ("rgb", "depth"))
    disk = [data.batch([5, 1, 5]), *Batches(data, 3, 4).steps(0, 2)]
    held = ShardSet(folder, "test", ("rgb", "depth")).in_memory()
    assert all(tensor.is_shared() for tensor in held._memory.values())
    for file in held._files:
        file.layout.fields.clear()  # nothing is read any more
    memory = [held.batch([5, 1, 5]), *Batches(held, 3, 4).steps(0, 2, workers=2, start_method="fork")]
    assert all(same(a, b) for a, b in zip(disk, memory, strict=True))
    with pytest.raises(BadInput, match="more than 0; leave it on disk"):
        ShardSet(folder, "test").in_memory(limit_mb=0)


def test_metres_come_out_on_the_device_of_the_batch(folder: Path) -> None:
    batch = ShardSet(folder, "test").batch([0])
    assert batch.depth_code is not None
    assert batch.depth_code.dtype == torch.uint16
    moved = batch.to(torch.device("meta"))
    assert moved.depth is not None
    assert (moved.depth.device.type, moved.depth.dtype) == ("meta", torch.float32)
    assert moved.rgb is not None
    assert moved.rgb.dtype == torch.uint8


def test_views_that_are_seen_everywhere_can_be_pinned(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs may have no field ``seen``: what is expanded from ``present`` has strides of 0, to which torch cannot copy."""

    def as_torch_does(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    photographs = ShardSet(workspace / "shards" / "realiad" / CATEGORY["realiad"], "test")
    batch = photographs.batch([0, 1])
    assert 0 in batch.seen.stride()
    monkeypatch.setattr(torch.Tensor, "pin_memory", as_torch_does)
    assert torch.equal(batch.pin_memory().seen, batch.seen)


def test_a_split_on_a_device_keeps_no_memory_of_its_size_on_the_host(folder: Path) -> None:
    data = ShardSet(folder, "test")
    resident = data.in_memory(device=torch.device("meta"))
    assert (resident.device.type, len(resident)) == ("meta", len(data))
    kept = [buffer for buffers in data._buffers._free.values() for buffer in buffers]
    assert not kept


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu(folder: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for batch in Batches(ShardSet(folder, "test"), 0, 4).steps(0, 3, pin=True):
        assert batch.rgb is not None
        assert batch.rgb.is_pinned()
        assert batch.to(torch.device("cuda")).depth is not None


def test_a_plain_data_loader_works_too_and_views_are_filled_up(workspace: Path, folder: Path) -> None:
    loader = DataLoader(ShardSet(folder, "test"), batch_size=4, collate_fn=collate)
    assert sum(len(batch.keys) for batch in loader) == 9
    photographs = ShardSet(workspace / "shards" / "realiad" / CATEGORY["realiad"], "test")
    narrow = photographs.batch([0])
    assert narrow.rgb is not None
    fewer = replace(
        narrow, rgb=narrow.rgb[:, :3], mask=narrow.mask[:, :3], seen=narrow.seen[:, :3], present=narrow.present[:, :3],
        view_label=narrow.view_label[:, :3],
    )  # fmt: skip
    joined = collate([fewer, narrow])
    assert joined.present.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert not joined.seen[0, 3:].any()
    assert joined.rgb is not None
    assert not joined.rgb[0, 3:].any()
    assert len(ConcatDataset([photographs, photographs])) == 2 * len(photographs)
    with pytest.raises(BadInput, match="cannot be joined"):
        collate([narrow, ShardSet(folder, "test").batch([0])])


def test_samples_may_lack_views_and_have_any_number(workspace: Path, tmp_path: Path) -> None:
    """A Real-IAD sample without its third view, and a category of seven views."""
    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "raw")
    split = tmp_path / "raw" / "realiad_jsons" / "plate.json"
    content = files.read_json(split)
    gone = content["train"].pop(2)
    for entry in list(content["test"]):
        for k in (6, 7):
            if "_C1_" in entry["image_path"]:
                more = {
                    name: value.replace("_C1_", f"_C{k}_") if isinstance(value, str) else value for name, value in entry.items()
                }
                for name in ("image_path", "mask_path"):
                    if entry[name]:
                        base = tmp_path / "raw" / "realiad_256" / "plate"
                        shutil.copy(base / entry[name], base / more[name])
                content["test"].append(more)
    files.write_json(split, content)
    from mvad.datasets.shards.pack import pack_category

    source = photographed_category(tmp_path / "raw", "plate", 64)
    assert source.dataset == realiad.NAME
    pack_category(source, tmp_path, PackOptions(size=64), Silent())
    train = ShardSet(tmp_path / "realiad" / "plate", "train")
    assert train.views == [f"C{k}" for k in range(1, 8)]
    batch = train.batch(range(len(train)))
    lacking = [key for key, row in zip(batch.keys, batch.present.tolist(), strict=True) if not row[2]]
    assert len(lacking) == 1
    assert lacking[0].endswith(gone["image_path"].rpartition("/")[0].replace("/", "_"))
    assert not batch.seen[~batch.present].any()
    test = ShardSet(tmp_path / "realiad" / "plate", "test").batch([0, 1])
    assert bool(test.present.all())
    assert test.mask.shape[1] == 7


def test_a_chunk_that_rots_after_the_files_were_checked_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "gear")
    data = ShardSet(tmp_path / "gear", "test")
    place = data._files[1].layout.fields["normal"].chunks[2][0] + 9
    with data._files[1].path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 4]))
    data.batch([0])
    with pytest.raises(BadInput, match=r"test-00001\.h5: sample 2 of normal is damaged: its fletcher32 sum differs"):
        data.batch([0, 5])
    stream = Batches(data, 0, 9).steps(0, 1, workers=1, start_method="fork")
    with pytest.raises(BadInput, match=r"sample 2 of normal") as caught:
        list(stream)
    assert "\n" not in str(caught.value)


def test_the_same_without_the_sum_goes_unnoticed(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the checksum is for: with it switched off, a flip in uncompressed data is read as if nothing were."""
    from mvad.datasets.shards import chunks

    monkeypatch.setattr(chunks, "check", lambda chunk: None)
    array = np.arange(100, dtype=np.uint8)
    chunk = bytearray(chunks.encode(array, "none", 0))
    chunk[50] ^= 1
    out = np.empty_like(array)
    chunks.decode_into(memoryview(chunk), "none", out)
    assert (out != array).sum() == 1
    monkeypatch.undo()
    with pytest.raises(chunks.DamagedChunkError):
        chunks.decode_into(memoryview(chunk), "none", out)


def test_memory_is_used_again_but_never_while_somebody_holds_it() -> None:
    buffers = Buffers()

    def fresh(value: int) -> torch.Tensor:
        tensor, array = buffers.empty((64, 64), "uint16")
        array[:] = value
        return tensor

    first = fresh(1)
    place = first.data_ptr()
    view, number = first[3:5], first.numpy()[7]
    del first
    gc.collect()
    assert fresh(2).data_ptr() != place, "a view of the first is held"
    assert (view == 1).all()
    del view
    assert fresh(3).data_ptr() != place, "an array of it is held"
    assert (number == 1).all()
    del number
    assert fresh(4).data_ptr() == place or fresh(5).data_ptr() == place
    assert pickle.loads(pickle.dumps(buffers))._free == {}


def test_batches_that_are_kept_stay_what_they_are(folder: Path) -> None:
    data = ShardSet(folder, "test")
    kept = [data.batch([index, (index + 1) % 9]) for index in range(9)]
    alone = ShardSet(folder, "test", threads=1)
    for index, batch in enumerate(kept):
        assert same(batch, alone.batch([index, (index + 1) % 9]))
