"""Figures of merit against scikit-learn, ADEval, exact sorting and the definition; degenerate cases; intervals; memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sk

from mvad.model.metrics.auroc import auroc
from mvad.model.metrics.bootstrap import Scored, mean_interval, paired_difference_of_means, verdict
from mvad.model.metrics.histogram import ScoreHistogram, exact_curve, lowest_of
from mvad.model.metrics.intervals import auroc_interval
from mvad.model.metrics.pixels import LIMITS, PixelScores, regions_of

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "distance": lambda z: np.abs(z) * 3,
    "sigmoid": lambda z: 1 / (1 + np.exp(-(3 * z - 8))),
    "signed": lambda z: z,
    "huge": lambda z: z * 1e30,
    "tiny": lambda z: z * 1e-35,
    "ties": lambda z: np.round(z),
}


def scores_of(kind: str, count: int, share: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < share
    return KINDS[kind](rng.standard_normal(count) + 1.5 * labels).astype(np.float32), labels


def maps_with_regions(count: int = 12, side: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(rng.standard_normal((count, side, side)), (0, 2, 2)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for k in range(0, count, 2):
        for _ in range(3):
            y, x = rng.integers(0, side - 12, 2)
            h, w = rng.integers(2, 12, 2)
            masks[k, y : y + h, x : x + w] = True
    maps[masks] += 0.3
    return maps, masks


def pro_by_definition(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Compute AUPRO threshold by threshold: shares of each region and of normal pixels, trapezoids up to the limit."""
    regions = []
    for k, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [maps[k][labelled == number] for number in range(1, count + 1)]
    normal = np.sort(maps[~masks])
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append(1 - np.searchsorted(normal, threshold, "left") / len(normal))
        y.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    xs = np.array(x)
    inside = np.append(xs[xs <= limit], limit)
    at = np.append(np.array(y)[xs <= limit], np.interp(limit, xs, y))
    return float(np.trapezoid(at, inside) / limit)


@pytest.mark.parametrize("kind", KINDS)
def test_histogram_auroc_equals_auroc_by_sorting(kind: str) -> None:
    scores, labels = scores_of(kind, 400_000)
    histogram = ScoreHistogram()
    for part in np.array_split(np.arange(400_000), 7):
        histogram.add(scores[part], labels[part])
    curve, _, bound = histogram.curves()
    expected = sk.roc_auc_score(labels, scores)
    assert abs(curve.area() - expected) <= min(1e-6, bound)
    assert exact_curve(scores, labels).area() == pytest.approx(expected, abs=1e-12)
    assert curve.average_precision() == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-4)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert curve.best_f1()[0] == pytest.approx((2 * precision * recall / (precision + recall + 1e-300)).max(), abs=1e-4)


def test_the_error_bound_holds_in_the_worst_case() -> None:
    """All positives are just above all negatives within one bin, so that they are ties in the histogram."""
    low = lowest_of(np.array([3_000_000]))[0]
    negative = np.full(50, low, np.float32)
    positive = np.nextafter(negative, np.float32(np.inf))
    histogram = ScoreHistogram()
    histogram.add(np.concatenate([negative, positive]), np.repeat([False, True], 50))
    curve, _, bound = histogram.curves()
    assert curve.area() == 0.5
    assert abs(1.0 - curve.area()) <= bound


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_bins_have_the_order_of_their_numbers(values: list[float]) -> None:
    numbers = np.array(sorted(values), np.float32)
    histogram = ScoreHistogram()
    histogram.add(numbers, np.zeros(len(numbers), bool))
    bins = np.flatnonzero(histogram.negative)
    floors = lowest_of(bins)
    assert (np.diff(floors) > 0).all()
    place = np.searchsorted(floors, numbers, side="right") - 1
    assert np.array_equal(np.bincount(place, minlength=len(bins)), histogram.negative[bins])


@pytest.mark.parametrize("limit", LIMITS)
def test_aupro_equals_its_definition(limit: float) -> None:
    maps, masks = maps_with_regions()
    pixels = PixelScores()
    for k in range(0, len(maps), 3):
        pixels.add(str(k), maps[k : k + 3], masks[k : k + 3])
    found = pixels.figures()
    assert found.aupro[limit] == pytest.approx(pro_by_definition(maps, masks, limit), abs=3e-5), (
        "with few pixels a bin has more weight"
    )
    assert found.regions == sum(ndimage.label(mask, structure=np.ones((3, 3)))[1] for mask in masks)
    assert found.auroc.value == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)


def test_aupro_of_many_maps_equals_an_exact_sort() -> None:
    maps, masks = maps_with_regions(100, 256)
    pixels = PixelScores()
    weights = np.zeros(maps.shape)
    for k, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.add(str(k), one[None], mask[None])
        regions, share = regions_of(mask)
        weights[k] = 0 if regions is None else share[regions]
    exact = exact_curve(maps.ravel(), masks.ravel(), weights.ravel())
    found = pixels.figures()
    for limit in LIMITS:
        assert found.aupro[limit] == pytest.approx(exact.area(limit), abs=1e-6)


def test_adeval_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # ADEval 1.1.0 was written for numpy 1
    from adeval import auroc_aupr_aupro

    maps, masks = maps_with_regions(20, 96)
    maps = maps - maps.min() + np.float32(0.1)
    area, precision, pro = auroc_aupr_aupro(maps, masks.astype(np.uint8), nstrips=20_000)
    pixels = PixelScores()
    for k, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.add(str(k), one[None], mask[None])
    found = pixels.figures()
    assert found.auroc.value == pytest.approx(area, abs=1e-4)
    curve = pixels.histogram.curve()  # ADEval joins the points of precision and recall, scikit-learn and we take steps
    joined = np.trapezoid(curve.true[1:] / (curve.true[1:] + curve.false[1:]), curve.true[1:] / curve.true[-1])
    assert joined == pytest.approx(precision, abs=1e-4)
    assert found.ap == pytest.approx(sk.average_precision_score(masks.ravel(), maps.ravel()), abs=1e-4)
    assert found.aupro[0.3] == pytest.approx(float(pro), abs=1e-4)


def test_regions_are_connected_at_corners() -> None:
    mask = np.zeros((6, 6), bool)
    mask[1, 1] = mask[2, 2] = mask[5, 0] = True
    regions, share = regions_of(mask)
    assert regions is not None
    assert regions[1, 1] == regions[2, 2] != regions[5, 0]
    assert sorted(share.tolist()) == [0.0, 0.5, 1.0]
    assert regions_of(np.zeros((4, 4), bool))[0] is None


def test_degenerate_cases_are_defined() -> None:
    empty = PixelScores().figures()
    assert np.isnan([empty.auroc.value, empty.ap, empty.f1_max, *empty.aupro.values()]).all()
    normal = PixelScores()
    normal.add("a", np.random.default_rng(0).random((2, 8, 8)), np.zeros((2, 8, 8), bool))
    assert np.isnan([normal.figures().auroc.value, normal.figures().auroc.low, normal.figures().aupro[0.3]]).all()
    everything = PixelScores()
    everything.add("a", np.ones((1, 8, 8)), np.ones((1, 8, 8), bool))
    assert np.isnan(everything.figures().auroc.value)
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :2] = True
    constant = PixelScores()
    constant.add("a", np.full((1, 8, 8), 0.7), mask)
    assert constant.figures().auroc.value == 0.5
    assert constant.figures().aupro[0.3] == pytest.approx(0.15), "the diagonal: half of the limit"
    perfect = PixelScores()
    perfect.add("a", mask.astype(float), mask)
    assert perfect.figures().auroc.value == perfect.figures().aupro[0.01] == perfect.figures().f1_max == 1.0
    assert np.isnan(auroc_interval(np.array([1.0, 2.0]), np.array([True, True])).low)
    one_sided = auroc_interval(np.arange(20.0), np.arange(20) >= 10)
    assert one_sided.value == one_sided.high == 1.0
    assert 0.6 < one_sided.low < 0.75, "the lower bound for ten of ten"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_cannot_be_ranked_are_rejected(value: float) -> None:
    maps, mask = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), bool)
    maps[0, 3, 3] = value
    for truth in (mask, ~mask):
        with pytest.raises(ValueError, match="not finite"):
            PixelScores().add("a", maps, truth)
        with pytest.raises(ValueError, match="not finite"):
            ScoreHistogram().add(maps, truth)
    with pytest.raises(ValueError, match="differ in shape"):
        PixelScores().add("a", maps, np.zeros((1, 8, 9), bool))


def test_merged_parts_of_several_processes_equal_one_process() -> None:
    maps, masks = maps_with_regions()
    whole, parts = PixelScores(), [PixelScores() for _ in range(3)]
    for k, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        whole.add(f"s{k}", one[None], mask[None])
        parts[k % 3].add(f"s{k}", one[None], mask[None])
    merged = PixelScores()
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    ours, theirs = merged.figures(), whole.figures()
    assert ours.auroc == theirs.auroc
    assert (ours.ap, ours.f1_max, ours.regions, ours.error_bound) == (
        theirs.ap,
        theirs.f1_max,
        theirs.regions,
        theirs.error_bound,
    )
    assert list(ours.aupro.values()) == pytest.approx(list(theirs.aupro.values()), abs=1e-12)
    assert sorted(merged.samples) == sorted(whole.samples)
    assert len(pickle.dumps(whole)) < 3_000_000, "unused bins are not pickled"
    with pytest.raises(ValueError, match="s1: is in both parts"):
        merged.merge(parts[1])
    with pytest.raises(ValueError, match="s0: was evaluated before"):
        whole.add("s0", maps[:1], masks[:1])


def test_several_threads_count_the_same_as_one() -> None:
    scores, labels = scores_of("sigmoid", 100_000)
    one, three = ScoreHistogram(), ScoreHistogram()
    one.add(scores, labels, threads=1)
    three.add(scores, labels, threads=3)
    assert np.array_equal(one.negative, three.negative)
    assert np.array_equal(one.positive, three.positive)
    assert one.span.tolist() == three.span.tolist()


def test_a_thousand_million_pixels_take_less_than_500_mb() -> None:
    code = """
import numpy as np
from mvad.model.metrics.pixels import PixelScores
rng = np.random.default_rng(0)
maps = (1 / (1 + np.exp(-rng.standard_normal((2, 1600, 1600), dtype=np.float32) * 3)))
masks = np.zeros(maps.shape, bool)
masks[0, 100:200, 100:300] = True
pixels, count = PixelScores(), 0
while count < 10**9:
    pixels.add(str(count), maps, masks)
    count += maps.size
found = pixels.figures()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, peak, found.auroc.value, found.regions)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    count, peak, area, regions = done.stdout.split()
    assert int(count) >= 10**9
    assert int(peak) < 500_000, f"{peak} kB"
    assert 0.4 < float(area) < 0.6
    assert int(regions) == -(-(10**9) // (2 * 1600 * 1600))


def delong_by_definition(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the variance of DeLong et al. 1988 from all pairs."""
    bad, good = scores[labels], scores[~labels]
    table = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
    return float(table.mean(axis=1).var(ddof=1) / len(bad) + table.mean(axis=0).var(ddof=1) / len(good))


def test_the_interval_equals_delongs() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(120) < 0.7
    scores = np.round(rng.standard_normal(120) + labels, 1)
    found = auroc_interval(scores, labels)
    assert found.value == pytest.approx(auroc(scores, labels), abs=1e-12)
    logit = [np.log(x / (1 - x)) for x in (found.low, found.value, found.high)]
    expected = 1.959964 * np.sqrt(delong_by_definition(scores, labels)) / (found.value * (1 - found.value))
    assert logit[2] - logit[1] == pytest.approx(expected, rel=1e-6)
    assert logit[1] - logit[0] == pytest.approx(expected, rel=1e-6)


def test_95_percent_of_intervals_contain_the_true_value() -> None:
    """For 28 good and 88 bad scans with an AUROC of 0.92, and for correlated views of samples."""
    rng = np.random.default_rng(0)
    truth = 0.921350396  # of normal scores two deviations apart: Phi(2 / sqrt 2)
    labels = np.repeat([False, True], [28, 88])
    alone = clustered = blind = 0
    for _ in range(400):
        shared = rng.standard_normal(116)
        alone += auroc_interval(shared + 2 * labels, labels).contains(truth)
        owners = np.repeat(np.arange(116), 5)
        views = np.sqrt(0.9) * shared[owners] + np.sqrt(0.1) * rng.standard_normal(580) + 2 * labels[owners]
        clustered += auroc_interval(views, labels[owners], owners).contains(truth)
        blind += auroc_interval(views, labels[owners]).contains(truth)
    assert 0.92 <= alone / 400 <= 0.98
    assert 0.92 <= clustered / 400 <= 0.98
    assert blind / 400 < 0.8, "intervals are too narrow if views are taken as independent"


def test_intervals_of_clusters_with_both_labels_have_the_width_of_a_cluster_bootstrap() -> None:
    """Scores of views of one sample are correlated, whether they show its defect or not."""
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(150), 6)
    labels = np.tile([False, False, False, True, True, True], 150)
    scores = 2 * rng.standard_normal(150)[owners] + rng.standard_normal(900) + labels
    found = auroc_interval(scores, labels, owners)
    table, truth = scores.reshape(150, 6), labels.reshape(150, 6)
    drawn = []
    for _ in range(600):
        chosen = rng.integers(0, 150, 150)
        drawn.append(auroc(table[chosen].ravel(), truth[chosen].ravel()))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)


def test_repeating_every_sample_as_its_own_cluster_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([False, True], [20, 30])
    scores = rng.standard_normal(50) + labels
    once = auroc_interval(scores, labels)
    often = auroc_interval(np.tile(scores, 4), np.tile(labels, 4), np.tile(np.arange(50), 4))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high), abs=1e-9)


def test_pixels_of_a_sample_are_one_cluster() -> None:
    maps, masks = maps_with_regions()
    pixels = PixelScores()
    for k, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.add(str(k), one[None], mask[None])
    found = pixels.figures().auroc
    owners = np.repeat(np.arange(len(maps)), maps[0].size)
    exact = auroc_interval(maps.ravel(), masks.ravel(), owners)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=2e-3)
    naive = auroc_interval(maps.ravel(), masks.ravel())
    assert found.high - found.low > 2 * (naive.high - naive.low)


def test_the_interval_of_a_mean_over_categories_is_narrower() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([False, True], [28, 88])
    categories = [Scored(rng.standard_normal((2, 116)) + 2 * labels, labels) for _ in range(10)]
    mean = mean_interval(categories)
    assert mean.value == pytest.approx(np.mean([auroc(run, labels) for c in categories for run in c.scores]))
    single = [mean_interval([c]) for c in categories]
    width = np.mean([s.high - s.low for s in single])
    assert 0.25 < (mean.high - mean.low) / width < 0.4, "one over the root of ten"
    one = Scored(categories[0].scores[:1], labels)
    delong = auroc_interval(one.scores[0], labels)
    drawn = mean_interval([one])
    assert (drawn.high - drawn.low) == pytest.approx(delong.high - delong.low, rel=0.25)
    with pytest.raises(ValueError, match="no category"):
        mean_interval([])


def test_differences_of_means_are_paired() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([False, True], [30, 60])
    base = [rng.standard_normal((1, 90)) + labels for _ in range(5)]
    better = [Scored(scores + 0.4 * labels, labels) for scores in base]
    plain = [Scored(scores, labels) for scores in base]
    found = paired_difference_of_means(better, plain)
    assert found.low > 0
    assert found.verdict == "above"
    alone, other = mean_interval(better), mean_interval(plain)
    assert alone.low < other.high, "their own intervals overlap"
    assert found.high - found.low < 0.5 * (alone.high - alone.low), "differences that both have in common cancel out"
    with pytest.raises(ValueError, match="same samples"):
        paired_difference_of_means(better, [Scored(c.scores, ~labels) for c in plain])
    assert verdict(0.8, 0.9, 0.85) == "not separated"
    assert verdict(0.8, 0.9, 0.95) == "below"
    assert verdict(0.8, 0.9, 0.75) == "above"


def test_a_subsampled_curve_keeps_its_ends_and_its_area() -> None:
    scores, labels = scores_of("distance", 50_000)
    curve = exact_curve(scores, labels)
    thin = curve.thinned(200)
    assert len(thin.true) <= 203
    assert len(thin.threshold) == len(thin.true) - 1
    assert (thin.true[0], thin.false[0]) == (0, 0)
    assert (thin.true[-1], thin.false[-1]) == (curve.true[-1], curve.false[-1])
    assert thin.area() == pytest.approx(curve.area(), abs=2e-3)
