"""The generated category ``keyed``: each view alone is normal, and only a comparison of views finds the defect."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from mvad.datasets import realiad
from mvad.datasets.scan import GOOD
from mvad.datasets.synth import keyed
from mvad.datasets.synth.generate import SynthOptions, formats, generate
from mvad.datasets.synth.plan import PlannedSample, plan
from mvad.datasets.synth.realiad import photograph
from mvad.errors import BadInput
from mvad.progress import Silent

CHANGED = {"turned": {"angle"}, "tinted": {"hue"}, "foreign": {"angle", "hue"}}
SMALL = SynthOptions(seed=1, train=2, validation=0, good=2, per_defect=2, size=64)


def planned(kind: str, count: int) -> list[PlannedSample]:
    return [sample for sample in plan("keyed", 4, 1, 0, 1, count, keyed.DEFECTS) if sample.defect == kind]


def swap_of(sample: PlannedSample) -> keyed.Swap:
    swap = keyed.swap(sample)
    assert swap is not None
    return swap


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", keyed.DEFECTS)
def test_the_part_that_is_swapped_in_differs_by_enough_and_in_nothing_else(kind: str) -> None:
    for sample in planned(kind, 200):
        swap = swap_of(sample)
        right, shown = (dataclasses.asdict(one.variation) for one in (swap.right, swap.shown))
        assert right == dataclasses.asdict(sample.variation)
        assert {name for name in right if right[name] != shown[name]} == CHANGED[kind]
        assert swap.right.defect == swap.shown.defect == GOOD
        assert swap.right.seed != swap.shown.seed
        for name, least in (("angle", 60 / 360), ("hue", 0.4)):
            apart = abs(right[name] - shown[name])
            assert name not in CHANGED[kind] or min(apart, 1 - apart) >= least - 1e-12


@pytest.mark.parametrize("kind", keyed.DEFECTS)
def test_turns_and_tints_of_swapped_views_are_distributed_as_those_of_good_samples(kind: str) -> None:
    swaps = [swap_of(sample) for sample in planned(kind, 5000)]
    views = np.array([swap.view for swap in swaps])
    assert chisquare(np.bincount(views, minlength=keyed.VIEWS)).pvalue > 0.001
    angle, hue = (np.array([getattr(swap.shown.variation, name) for swap in swaps]) for name in ("angle", "hue"))
    for name, values in (("angle", angle), ("hue", hue)):
        for view in range(keyed.VIEWS):
            assert kstest(values[views == view], "uniform").pvalue > 0.001, (name, view)
    cells = np.histogram2d(angle, hue, bins=5, range=((0, 1), (0, 1)))[0]
    assert chisquare(cells.ravel()).pvalue > 0.001, "turn and tint are independent"


@pytest.mark.parametrize("kind", keyed.DEFECTS)
def test_one_view_is_swapped_and_its_mask_is_where_it_differs(kind: str) -> None:
    for sample in planned(kind, 4):
        swap = swap_of(sample)
        pictures, masks = photograph(sample, 64)
        right, no_masks = photograph(swap.right, 64)
        assert not any(mask.any() for mask in no_masks)
        assert [mask.any() for mask in masks] == [view == swap.view for view in range(keyed.VIEWS)]
        for view, (picture, expected) in enumerate(zip(pictures, right, strict=True)):
            assert (view == swap.view) != np.array_equal(picture, expected)
        mask = masks[swap.view]
        apart = np.abs(pictures[swap.view].astype(float) - right[swap.view]).max(axis=2)
        assert mask.sum() >= 40
        assert np.median(apart[mask]) > 60
        assert np.median(apart[~mask]) < 8


def test_the_key_is_visible_in_every_view() -> None:
    sample = next(sample for sample in plan("keyed", 4, 1, 0, 1, 1, keyed.DEFECTS) if sample.split == "train")
    half = dataclasses.replace(sample.variation, angle=(sample.variation.angle + 0.5) % 1)
    turned = dataclasses.replace(sample, variation=half)
    for one, other in zip(photograph(sample, 64)[0], photograph(turned, 64)[0], strict=True):
        assert (np.abs(one.astype(int) - other).max(axis=2) > 60).sum() >= 80


@pytest.mark.thorough(6)
def test_an_interrupted_call_continues_to_the_same_bytes_and_defects_are_labelled_in_one_view(tmp_path: Path) -> None:
    class Interrupting(Silent):
        left = 4

        def advance(self, steps: int = 1, **figures: float) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert generate("realiad", whole, ["keyed"], SMALL, Silent()) == 10
    with pytest.raises(KeyboardInterrupt):
        generate("realiad", broken, ["keyed"], SMALL, Interrupting())
    generate("realiad", broken, ["keyed"], SMALL, Silent())
    assert contents(whole) == contents(broken)
    read = realiad.refs(whole, "keyed")
    assert sorted(ref.defect for ref in read if ref.split == "test") == ["BX", "BX", "YW", "YW", "ZW", "ZW", GOOD, GOOD]
    for ref in read:
        classes = [view.anomaly_class for view in ref.views]
        assert sorted(classes) == sorted(
            [realiad.NORMAL_CLASS] * 4 + [realiad.NORMAL_CLASS if ref.defect == GOOD else ref.defect]
        )


@pytest.mark.parametrize("dataset", [name for name in formats() if name != "realiad"])
def test_scans_cannot_have_views_that_disagree(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(BadInput, match=r"only realiad has it.*choose from gear, plate, dome$") as refused:
        generate(dataset, tmp_path / "new", ["gear", "keyed"], SMALL, Silent())
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInput, match=r"choose from gear, plate, dome, keyed$"):
        generate("realiad", tmp_path / "new", ["cup"], SMALL, Silent())
