"""The generator: true formats, and no defect that a trivial rule could find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import rankdata

from mvad.datasets.scan import GOOD, Scan
from mvad.datasets.synth.defects import FAMILIES
from mvad.datasets.synth.generate import SynthOptions, formats, generate
from mvad.datasets.synth.mvtec3d import scan_of
from mvad.datasets.synth.plan import PlannedSample, plan
from mvad.datasets.synth.realiad import photograph, shown_in
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.clean import clean
from mvad.render.options import CleanOptions

SHAPE_OF = {"geometry": "gear", "colour": "plate", "both": "dome"}


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks = rankdata(scores)
    positive = labels.sum()
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (~labels).sum()))


def trivial_features(sample: PlannedSample) -> dict[str, float]:
    scan: Scan = scan_of(sample, 128)
    body = clean(scan, CleanOptions()).keep
    gray = scan.rgb.mean(axis=2)
    inner = ndimage.binary_erosion(body)
    across = np.hypot(*np.gradient(gray))[inner].max()
    depth = scan.xyz[..., 2]
    jump = np.hypot(*np.gradient(np.where(scan.valid, depth, depth[body].mean())))[inner & scan.valid].max()
    return {
        "mean colour": gray[body].mean(),
        "depth variance": depth[body & scan.valid].var(),
        "object area": body.sum(),
        "largest colour gradient": across,
        "largest depth gradient": jump,
        "file order": sample.number,
    }


@pytest.mark.thorough(8)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_trivial_rule_finds_a_defect_family(family: str) -> None:
    kinds = FAMILIES[family]
    each = 100 // len(kinds)
    samples = [s for s in plan(SHAPE_OF[family], 7, 1, 0, 200 - each * len(kinds), each, kinds) if s.split == "test"]
    assert len(samples) == 200
    labels = np.array([sample.defect != GOOD for sample in samples])
    features = [trivial_features(sample) for sample in samples]
    for rule in features[0]:
        area = auroc(np.array([values[rule] for values in features]), labels)
        assert max(area, 1 - area) <= 0.60, f"{rule} finds {family} defects with S-AUROC {area:.3f}"


@pytest.mark.thorough(6)
def test_the_rules_do_find_a_generator_that_gives_itself_away() -> None:
    """The meta-test: parts that are larger when defective are caught by the same measure."""
    samples = [s for s in plan("gear", 7, 1, 0, 12, 12, ("dent",)) if s.split == "test"]
    labels = np.array([sample.defect != GOOD for sample in samples])
    cheats = [
        dataclasses.replace(s, variation=dataclasses.replace(s.variation, scale=1.0)) if s.defect != GOOD else s for s in samples
    ]
    areas = np.array([trivial_features(sample)["object area"] for sample in cheats])
    assert auroc(areas, labels) > 0.60


@pytest.mark.thorough(4)
def test_some_defects_show_in_one_or_two_views_only() -> None:
    samples = [
        s for s in plan("gear", 5, 1, 0, 1, 6, ("dent", "stain", "bump", "chip")) if s.split == "test" and s.defect != GOOD
    ]
    shown = [sum(shown_in(photograph(sample, 96)[1])) for sample in samples]
    assert min(shown) in (1, 2), shown
    assert max(shown) == 5, shown


@pytest.mark.thorough(6)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    def make(name: str, seed: int) -> dict[str, bytes]:
        options = SynthOptions(seed=seed, train=1, validation=0, good=1, per_defect=1, size=64)
        for dataset in formats():
            generate(dataset, tmp_path / name / dataset, ["dome"], options, Silent())
        return {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file()}

    one, same, other = make("a", 1), make("b", 1), make("c", 2)
    assert one == same
    pictures = [name for name in one if name.endswith((".png", ".jpg", ".tiff")) and name in other]
    assert pictures
    assert any(one[name] != other[name] for name in pictures)


def test_other_data_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BadInput, match="not empty"):
        generate("mvtec3d", tmp_path, ["gear"], SynthOptions(train=1), Silent())
    with pytest.raises(BadInput, match="choose from"):
        generate("mvtec3d", tmp_path / "new", ["bagel"], SynthOptions(train=1), Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
