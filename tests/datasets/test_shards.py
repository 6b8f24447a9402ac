"""Shards: equal bytes, no silent damage, nothing hostile."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CATEGORY, SMALL, VIEW

from mvad import files
from mvad.datasets.renders.layout import category_folder
from mvad.datasets.renders.record import read_record, read_sample
from mvad.datasets.shards.contact_sheet import contact_sheet, describe
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.shards.schema import FILTERS, open_checked
from mvad.datasets.verify import verify_tree
from mvad.errors import BadInput
from mvad.progress import Silent


@pytest.fixture
def shards(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the generated MVTec shards, to be damaged."""
    shutil.copytree(workspace / "shards" / "mvtec3d" / "gear", tmp_path / "mvtec3d" / "gear")
    return tmp_path / "mvtec3d" / "gear"


def test_a_shard_holds_what_was_rendered(workspace: Path) -> None:
    folder = category_folder(workspace / "renders", "mvtec3d", "gear")
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    for index, key in enumerate(data.keys):
        place = folder / Path(key).relative_to("gear")
        sample = read_sample(place, read_record(place))
        batch = data.batch([index])
        assert np.array_equal(batch.rgb[0].numpy(), sample.rgb)
        assert np.array_equal(batch.mask[0].numpy(), sample.mask)
        assert np.array_equal(batch.depth[0].numpy(), sample.coding.decode(sample.depth))
        assert np.array_equal(batch.seen[0].numpy(), sample.source >= 0)
        assert bool(batch.label[0]) == (data.defects[index] != "good")
        assert np.array_equal(batch.view_label[0].numpy(), sample.mask.any(axis=(1, 2)))


def test_real_iad_labels_are_per_view(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "realiad" / CATEGORY["realiad"], "test")
    assert data.views == ["C1", "C2", "C3", "C4", "C5"]
    batch = data.batch(range(len(data)))
    assert batch.depth is None
    assert bool((batch.mask.flatten(2).any(dim=2) == batch.view_label).all())
    assert bool((batch.view_label.any(dim=1) == batch.label).all())
    assert len(ShardSet(data.folder, "train")) == SMALL.train
    assert batch.rgb.shape[2] == VIEW


def test_equal_inputs_give_equal_bytes(workspace: Path, tmp_path: Path) -> None:
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(), Silent())
    for path in (workspace / "shards" / "mvtec3d" / "gear").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "mvtec3d" / "gear" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_reads_back_the_same(name: str, workspace: Path, tmp_path: Path) -> None:
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(filter=name, samples_per_shard=3), Silent())
    ours = ShardSet(tmp_path / "mvtec3d" / "gear", "test")
    theirs = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    assert ours.keys == theirs.keys
    every = range(len(ours))
    assert bool((ours.batch(every).rgb == theirs.batch(every).rgb).all())


def test_an_interrupted_pack_ends_in_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    class CrashError(Exception):
        pass

    options = PackOptions(samples_per_shard=3)

    def pack(root: Path) -> dict[str, bytes]:
        pack_renders(workspace / "renders", "mvtec3d", "gear", root, options, Silent())
        return {path.name: path.read_bytes() for path in (root / "mvtec3d" / "gear").iterdir()}

    steps: list[str] = []
    files.step_hook = steps.append
    try:
        whole = pack(tmp_path / "whole")
        for number in range(len(steps)):
            count = 0

            def hook(step: str, stop: int = number) -> None:
                nonlocal count
                if count == stop:
                    raise CrashError
                count += 1

            files.step_hook = hook
            root = tmp_path / f"crash{number}"
            with pytest.raises(CrashError):
                pack(root)
            files.step_hook = lambda step: None
            assert pack(root) == whole, f"crash before step {number}: {steps[number]}"
    finally:
        files.step_hook = lambda step: None
    assert len(steps) > 15


def test_every_flipped_bit_is_detected(shards: Path) -> None:
    path = shards / "test-00000.h5"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        place, bit = int(rng.integers(len(good))), int(rng.integers(8))
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        path.write_bytes(bad)
        with pytest.raises(BadInput, match=r"test-00000\.h5"):
            ShardSet(shards, "test")
    path.write_bytes(good)
    ShardSet(shards, "test")


@pytest.mark.parametrize("share", [0, 1, 0.5, -1])
def test_truncation_is_detected_and_packing_again_mends_it(share: float, workspace: Path, shards: Path) -> None:
    path = shards / "train-00000.h5"
    good = path.read_bytes()
    path.write_bytes(good[: int(share * len(good)) if 0 < share < 1 else int(share)])
    with pytest.raises(BadInput, match="train-00000"):
        ShardSet(shards, "train")
    _, faults = verify_tree([shards], Silent())
    assert any("train-00000.h5" in fault for fault in faults)
    pack_renders(workspace / "renders", "mvtec3d", "gear", shards.parents[1], PackOptions(), Silent())
    assert path.read_bytes() == good


def test_a_changed_render_is_not_packed(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "renders", tmp_path / "renders")
    picture = next((tmp_path / "renders" / "mvtec3d" / "gear" / "test").rglob("rgb_2.png"))
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    with pytest.raises(BadInput, match="is not what was rendered"):
        pack_renders(tmp_path / "renders", "mvtec3d", "gear", tmp_path / "shards", PackOptions(), Silent())
    _, faults = verify_tree([tmp_path / "renders"], Silent())
    assert len(faults) == 1
    assert str(picture) in faults[0]


def external_link(file: h5py.File) -> None:
    del file["mask"]
    file["mask"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft_link(file: h5py.File) -> None:
    del file["label"]
    file["label"] = h5py.SoftLink("/present")


def external_storage(file: h5py.File) -> None:
    del file["label"]
    file.create_dataset("label", (9,), "u1", external=[("/etc/hostname", 0, 9)])


def virtual(file: h5py.File) -> None:
    del file["label"]
    layout = h5py.VirtualLayout((9,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "label", (9,))
    file.create_virtual_dataset("label", layout)


def wrong_type(file: h5py.File) -> None:
    shape = file["mask"].shape
    del file["mask"]
    file.create_dataset("mask", shape, "f8")


def absurd_shape(file: h5py.File) -> None:
    del file["label"]
    file.create_dataset("label", (10**12,), "u1", chunks=(1024,))


def disagreeing_shape(file: h5py.File) -> None:
    del file["label"]
    file.create_dataset("label", (3,), "u1")


def unknown_field(file: h5py.File) -> None:
    file.create_dataset("payload", (3,), "u1")


def other_version(file: h5py.File) -> None:
    file.attrs["schema_version"] = 99


HOSTILE = {
    external_link: "is a link",
    soft_link: "is a link",
    external_storage: "lies in other files",
    virtual: "lies in other files",
    wrong_type: "mask is .* expected",
    absurd_shape: "label is .* expected",
    disagreeing_shape: "label is .* expected",
    unknown_field: "payload is no field",
    other_version: "version .*99",
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_shard_is_refused_for_what_it_is(shards: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = shards / "test-00000.h5"
    with h5py.File(path, "r+") as file:
        assert len(file["present"]) == 9
        change(file)
    with pytest.raises(BadInput, match=HOSTILE[change]) as caught:
        open_checked(path)
    assert "\n" not in str(caught.value)


def test_a_text_file_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("hello")
    with pytest.raises(BadInput, match="not readable as HDF5"):
        open_checked(path)


def test_open_files_do_not_travel_in_a_pickle(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "train")
    batch = data.batch([1])
    copy = pickle.loads(pickle.dumps(data))
    assert bool((copy.batch([1]).rgb == batch.rgb).all())
    assert copy.keys == data.keys


def test_inspect_describes_and_draws(workspace: Path) -> None:
    path = workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5"
    assert any(line.startswith("depth: 9 x 5 x 64 x 64 uint16") for line in describe(path))
    assert contact_sheet(path, 3).startswith(b"\x89PNG")
