"""Views as folders for other tools, and their maps back."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from mvad import files
from mvad.datasets.export import LAYOUTS, export, source_of
from mvad.datasets.exported import read_table
from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.exchange import imported_maps
from mvad.model.exchange.imported_maps import evaluate_imported_maps
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
PLATE = Path("realiad") / "plate"


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("category", [PLATE, GEAR], ids=["photographs", "renders"])
def test_an_export_has_every_view_in_its_place(category: Path, layout: str, workspace: Path, tmp_path: Path) -> None:
    done = export(source_of(workspace / "shards" / category), tmp_path, layout, "rgb", Silent())
    names = {"train": "train", "test": "test"} | ({"val": "validation"} if category == GEAR else {})
    data = {split: ShardSet(workspace / "shards" / category, name) for split, name in names.items()}
    assert {path.name for path in done.iterdir()} == {*data["test"].views, "export.json"}
    seen = 0
    for view in data["test"].views:
        for row in read_table(done, view):
            of_split = data[row["split"]]
            index, k = of_split.keys.index(row["key"]), of_split.views.index(view)
            batch = of_split.batch([index])
            assert np.array_equal(imagecodecs.png_decode((done / view / row["image_path"]).read_bytes()), batch.rgb[0, k].numpy())
            bad = bool(batch.view_label[0, k])
            assert (row["label_index"], row["sample_label"]) == (str(int(bad)), str(int(batch.label[0])))
            good_folder = row["image_path"].split("/")[:-1][-1] in ("good", "normal", "normal_test", "validation")
            assert good_folder == (not bad), "the folder is the view's label"
            if bad:
                mask = imagecodecs.png_decode((done / view / row["mask_path"]).read_bytes())
                assert np.array_equal(mask, batch.mask[0, k].numpy() * 255)
                assert Path(row["image_path"]).stem in Path(row["mask_path"]).stem
            else:
                assert row["mask_path"] == ""
            seen += 1
    assert seen == 5 * sum(map(len, data.values()))
    kinds = [row["label_index"] + row["sample_label"] for view in data["test"].views for row in read_table(done, view)]
    assert category == PLATE or "01" in kinds, "a defective sample has views that do not show it"


def test_renders_and_shards_export_the_same_pictures(workspace: Path, tmp_path: Path) -> None:
    one = export(source_of(workspace / "shards" / GEAR), tmp_path / "a", "mvtec-ad", "normal", Silent())
    other = export(source_of(workspace / "renders" / GEAR), tmp_path / "b", "mvtec-ad", "normal", Silent())
    assert pictures(one) == pictures(other)
    assert len(list((one / "view_3" / "train" / "good").iterdir())) == 4
    assert len(list((one / "view_0" / "validation" / "good").iterdir())) == 1


def test_depth_is_exported_near_bright(workspace: Path, tmp_path: Path) -> None:
    done = export(source_of(workspace / "shards" / GEAR), tmp_path, "mvtec-ad", "depth", Silent())
    row = read_table(done, "view_1")[0]
    gray = imagecodecs.png_decode((done / "view_1" / row["image_path"]).read_bytes())
    data = ShardSet(workspace / "shards" / GEAR, {"val": "validation"}.get(row["split"], row["split"]))
    metres = data.batch([data.keys.index(row["key"])]).depth[0, 1].numpy()
    assert np.array_equal(gray[..., 0] > 0, metres > 0)
    order = np.argsort(metres[metres > 0], kind="stable")
    assert (np.diff(gray[..., 0][metres > 0][order].astype(int)) <= 0).all()


def test_exporting_again_does_nothing_and_another_export_is_refused(workspace: Path, tmp_path: Path) -> None:
    source = source_of(workspace / "shards" / GEAR)
    done = export(source, tmp_path, "mvtec-ad", "rgb", Silent())
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    export(source, tmp_path, "mvtec-ad", "rgb", Silent())
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before
    with pytest.raises(BadInput, match="holds another export"):
        export(source, tmp_path, "anomalib", "rgb", Silent())
    with pytest.raises(BadInput, match="--layout coco: choose from mvtec-ad, anomalib"):
        export(source, tmp_path, "coco", "rgb", Silent())
    with pytest.raises(BadInput, match="has no normal; choose another --modality"):
        export(source_of(workspace / "shards" / PLATE), tmp_path, "mvtec-ad", "normal", Silent())
    assert not (tmp_path / PLATE).exists()


def write_maps(done: Path, folder: Path, data: ShardSet, quality: float) -> None:
    """Maps of a tool that knows the masks to a degree, in every format that is read."""
    random = np.random.default_rng(0)
    for k, view in enumerate(data.views):
        for number, row in enumerate(read_table(done, view)):
            if row["split"] != "test":
                continue
            mask = data.batch([data.keys.index(row["key"])]).mask[0, k].numpy()
            found = (quality * mask + random.random(mask.shape)).astype(np.float32)
            target = (folder / view / row["image_path"]).with_suffix((".npy", ".tiff", ".png")[number % 3])
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".npy":
                np.save(target, found[None])
            elif target.suffix == ".tiff":
                tifffile.imwrite(target, found)
            else:
                target.write_bytes(imagecodecs.png_encode((found / (quality + 1) * 65535).astype(np.uint16)))
                continue
            np_values = found / (quality + 1) * 65535
            if target.suffix == ".npy":
                np.save(target, np_values[None])
            else:
                tifffile.imwrite(target, np_values)


@pytest.fixture
def exported(workspace: Path, tmp_path: Path) -> tuple[Path, Path, ShardSet]:
    done = export(source_of(workspace / "shards" / PLATE), tmp_path / "exports", "anomalib", "rgb", Silent())
    data = ShardSet(workspace / "shards" / PLATE, "test")
    write_maps(done, tmp_path / "maps", data, 3.0)
    return done, tmp_path / "maps", data


def test_maps_of_another_tool_are_evaluated_as_ours(
    exported: tuple[Path, Path, ShardSet], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import roc_auc_score

    done, maps, data = exported
    results = evaluate_imported_maps(tmp_path / "runs" / "padim", "padim", done, maps, workspace / "shards", Silent())
    assert results.model == "padim"
    assert results.figures["s_auroc"] == 1.0, "it knows where the defects are"
    assert 0.9 < results.figures["p_auroc"] <= 1
    found, truth = [], []
    for k, view in enumerate(data.views):
        for row in read_table(done, view):
            if row["split"] == "test":
                from mvad.model.exchange.imported_maps import read_map

                found.append(read_map(maps / view, row["image_path"]))
                truth.append(data.batch([data.keys.index(row["key"])]).mask[0, k].numpy())
    assert results.figures["p_auroc"] == pytest.approx(
        roc_auc_score(np.concatenate(truth).ravel(), np.concatenate(found).ravel()), abs=0.02
    ), "up to the resize to 256 px"
    assert len(list((tmp_path / "runs" / "padim" / "maps").glob("*.jpg"))) == len(data)
    monkeypatch.setattr(imported_maps, "machine", lambda: {"threads": 1000})
    again = evaluate_imported_maps(tmp_path / "runs" / "padim", "padim", done, maps, workspace / "shards", Silent())
    assert again.figures == results.figures, "on another machine, too"
    with pytest.raises(BadInput, match="holds another run"):
        evaluate_imported_maps(tmp_path / "runs" / "padim", "cflow", done, maps, workspace / "shards", Silent())


def test_scores_of_the_other_tool_are_taken(exported: tuple[Path, Path, ShardSet], workspace: Path, tmp_path: Path) -> None:
    done, maps, data = exported
    for view in data.views:
        rows = [row for row in read_table(done, view) if row["split"] == "test"]
        with (maps / view / "scores.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", "score"])
            writer.writerows([row["image_path"], -float(row["sample_label"])] for row in rows)
    results = evaluate_imported_maps(tmp_path / "runs" / "worst", "worst", done, maps, workspace / "shards", Silent())
    assert results.figures["s_auroc"] == 0.0
    (maps / data.views[2] / "scores.csv").unlink()
    with pytest.raises(BadInput, match=f"{data.views[2]}/scores.csv: is missing, and other views have one"):
        evaluate_imported_maps(tmp_path / "runs" / "some", "some", done, maps, workspace / "shards", Silent())


BAD_MAPS = {
    "missing": (lambda path: path.unlink(), "not found, nor .tiff"),
    "not finite": (lambda path: np.save(path, np.full((64, 64), np.nan)), "not finite"),
    "colour": (lambda path: np.save(path, np.zeros((64, 64, 3))), r"expected a map \(H, W\)"),
    "text": (lambda path: path.write_text("hello"), "not readable as a map"),
    "pickle": (lambda path: np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True), "not readable as a map"),
    "complex": (lambda path: np.save(path, np.zeros((4, 4), complex)), r"expected a map \(H, W\)"),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_an_unusable_map_is_one_line(name: str, exported: tuple[Path, Path, ShardSet], workspace: Path, tmp_path: Path) -> None:
    done, maps, _ = exported
    change, message = BAD_MAPS[name]
    path = sorted(maps.rglob("*.npy"))[0]
    change(path)
    with pytest.raises(BadInput, match=message) as caught:
        evaluate_imported_maps(tmp_path / "runs" / "x", "x", done, maps, workspace / "shards", Silent())
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_of_other_shards_is_not_judged(exported: tuple[Path, Path, ShardSet], workspace: Path, tmp_path: Path) -> None:
    done, maps, _ = exported
    facts = files.read_sealed_json(done / "export.json", "an export", "")
    facts["made_from"] = {name: "0" * 64 for name in facts["made_from"]}
    files.write_sealed_json(done / "export.json", facts)
    with pytest.raises(BadInput, match="was not made from the shards"):
        evaluate_imported_maps(tmp_path / "runs" / "x", "x", done, maps, workspace / "shards", Silent())


def test_two_samples_whose_pictures_would_have_one_name_are_refused(workspace: Path, tmp_path: Path) -> None:
    source = source_of(workspace / "shards" / PLATE)
    train = [(split, sample) for split, sample in source.each() if split == "train"][:2]
    named = [(split, replace(one, key=key)) for (split, one), key in zip(train, ("a/train/x/y", "a/train/x_y"), strict=True)]
    with pytest.raises(BadInput, match="a/train/x_y: its picture would have the name of another sample's"):
        export(replace(source, each=lambda: iter(named)), tmp_path, "mvtec-ad", "rgb", Silent())
    assert not list(tmp_path.rglob("*.png"))
