"""3D-ADAM and Real-IAD D3: scans in trees like MVTec 3D-AD's, their parts and their photographs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mvad import files
from mvad.datasets import realiadd3
from mvad.datasets.adam3d import PART_TRAINED
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.synth.generate import GENERATED, SynthOptions, generate
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

SIZE = 64
SMALL = SynthOptions(seed=3, train=5, validation=2, good=2, per_defect=1, size=SIZE)
SCANS = {"3dadam": "CC BY-NC-SA 4.0, 3D-ADAM authors", "realiadd3": "research purposes only, Real-IAD D3 authors"}


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the generated raw data of both."""
    root = tmp_path_factory.mktemp("scans")
    for name in SCANS:
        generate(name, root / name, ["gear"], SMALL, Silent())
    return root


@pytest.fixture
def copied(raws: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies the raw data of one, to be damaged."""
    return lambda name: Path(shutil.copytree(raws / name, tmp_path / name))


@pytest.mark.parametrize("name", SCANS)
def test_scans_of_a_set_read_back(name: str, raws: Path) -> None:
    reader, raw = reader_for(name), raws / name
    assert reader.categories(raw) == ["gear"]
    assert reader.licence == SCANS[name]
    refs = reader.refs(raw, "gear", ReadOptions())
    counts = Counter(ref.split for ref in refs)
    assert counts == {"train": 5, "test": 9} | ({"validation": 2} if name == "3dadam" else {})
    for ref in refs:
        assert ("gt" in ref.paths) == (name == "3dadam" or ref.defect != "good"), "3D-ADAM has masks of good parts, too"
        scan = reader.load(ref)
        assert scan.rgb.shape[:2] == scan.valid.shape == (SIZE, SIZE)
        assert scan.valid.any()
        if ref.split == "test":
            assert (scan.gt is not None and bool(scan.gt.any())) == (ref.defect != "good"), ref.key
    new = reader.new_refs(raw / "gear" / "test", "gear", ReadOptions())
    assert len(new) == 9
    assert reader.load(new[0]).rgb.shape == (SIZE, SIZE, 3)


def test_the_physical_part_of_a_scan_is_its_group(raws: Path) -> None:
    refs = reader_for("3dadam").refs(raws / "3dadam", "gear", ReadOptions())
    assert {ref.group for ref in refs if ref.split == "train"} == {"A", "B", "C"}
    assert {ref.group for ref in refs if ref.split == "test"} == {"C", "E"}
    for ref in refs:
        assert (PART_TRAINED in ref.notes) == (ref.split == "test" and ref.group == "C")


def test_d3_pairs_by_order_where_names_differ_and_refuses_what_does_not_fit(copied: Callable[[str], Path]) -> None:
    raw = copied("realiadd3")
    place = raw / "gear" / "train" / "GOOD"
    for number, path in enumerate(sorted((place / "rgb").iterdir())):
        path.rename(path.with_name(f"part{number}"))
    reader = reader_for("realiadd3")
    train = [ref for ref in reader.refs(raw, "gear", ReadOptions()) if ref.split == "train"]
    assert all(realiadd3.IN_ORDER in ref.notes for ref in train)
    assert [ref.paths["rgb"].parent.name for ref in train] == [f"part{number}" for number in range(5)]
    shutil.rmtree(place / "rgb" / "part3")
    ref = next(ref for ref in reader.refs(raw, "gear", ReadOptions()) if ref.split == "train")
    with pytest.raises(BadInput, match=r"GOOD: 5 scans and 4 photographs that do not belong together; get"):
        reader.load(ref)
    ref = next(ref for ref in reader.refs(raw, "gear", ReadOptions()) if ref.split == "test")
    Image.new("RGB", (96, 80)).save(ref.paths["rgb"])
    with pytest.raises(
        BadInput, match="96 x 80 pixels, the scan's grid has 64 x 64: it is not known which pixel shows which point"
    ):
        reader.load(ref)


@pytest.mark.parametrize("name", SCANS)
def test_scans_of_a_set_are_rendered_and_packed(name: str, copied: Callable[[str], Path], tmp_path: Path) -> None:
    raw = copied(name)
    (raw / GENERATED).unlink()
    options = RenderOptions(backend="cpu", rig=RigOptions(size=SIZE))
    done = render_category(
        name, "gear", raw, tmp_path / "renders", options, ("train", "validation", "test"), Workers(), False, Silent()
    )  # fmt: skip
    assert (done.rendered, done.failed) == (16 if name == "3dadam" else 14, 0)
    manifest = files.read_json(pack_renders(tmp_path / "renders", name, "gear", tmp_path / "shards", PackOptions(), Silent()))
    assert manifest["licence"] == SCANS[name]
    notes = {note["note"]: note["samples"] for note in manifest.get("notes", [])}
    assert (PART_TRAINED in notes) == (name == "3dadam")
    assert sum(entry["anomalous"] for entry in manifest["shards"]) == 7
