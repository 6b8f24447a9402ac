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
from conftest import is_thorough
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sk

from mvad.model.metrics import bins, histogram
from mvad.model.metrics.auroc import auroc
from mvad.model.metrics.bootstrap import Scored, mean_interval, paired_difference_of_means, verdict
from mvad.model.metrics.curve import exact_curve
from mvad.model.metrics.histogram import ScoreHistogram
from mvad.model.metrics.intervals import auroc_interval
from mvad.model.metrics.kernels import floats_of, keys_of
from mvad.model.metrics.pixels import LIMITS, PixelScores, regions_of

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "distance": lambda z: np.abs(z) * 3,
    "sigmoid": lambda z: 1 / (1 + np.exp(-(3 * z - 8))),
    "signed": lambda z: z,
    "huge": lambda z: z * 1e30,
    "tiny": lambda z: z * 1e-35,
    "ties": lambda z: np.round(z),
    "offset": lambda z: 1000 + z / 50,
    "log-likelihood": lambda z: 4e5 + 3 * z,
    "saturated": lambda z: 1 / (1 + np.exp(-12 - 2 * z)),
    "denormal": lambda z: z * 1e-42,
    "near the largest float": lambda z: 3.4e38 - z * 1e33,
    "half zero": lambda z: np.maximum(z, 0),
    "one outlier": lambda z: np.where(z == z.max(), 1e30, z),
    "two clusters": lambda z: np.where(z > 0, 1 + z * 1e-6, -1e-20 * (1 - z * 1e-6)),
}
SMALL = 40_000
"""As many scores as are kept, so that tests come to bins."""


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


def figures(curve: histogram.Curve) -> tuple[float, ...]:
    return curve.area(), curve.average_precision(), curve.best_f1()[0], *(curve.area(limit) for limit in LIMITS)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_kept_scores_are_those_of_scikit_learn(kind: str) -> None:
    scores, labels = scores_of(kind, 200_000)
    counted = ScoreHistogram()
    for part in np.array_split(np.arange(200_000), 7):
        counted.add(scores[part], labels[part])
    curve = counted.curve()
    assert curve.area() == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert curve.average_precision() == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    f1, threshold = curve.best_f1()
    assert f1 == pytest.approx((2 * precision * recall / (precision + recall + 1e-300)).max(), abs=1e-12)
    assert 2 * (labels & (scores >= threshold)).sum() / ((scores >= threshold).sum() + labels.sum()) == pytest.approx(f1)
    assert figures(curve) == pytest.approx(figures(exact_curve(scores, labels)), abs=1e-12)
    assert counted.bounds(LIMITS) == (0, 0, 0)


@pytest.mark.thorough(6)
@pytest.mark.parametrize("order", ["mixed", "normal first", "rising"])
@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_more_scores_than_are_kept_are_within_1e_6_and_within_their_bounds(
    kind: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes first: normal samples, whose scores say nothing of those of anomalies, or the lowest scores."""
    monkeypatch.setattr(histogram, "CAPACITY", SMALL)
    scores, labels = scores_of(kind, 8 * SMALL)
    places = {"mixed": np.arange(len(scores)), "normal first": np.argsort(labels), "rising": np.argsort(scores)}[order]
    counted = ScoreHistogram()
    for part in np.array_split(places, 40):
        counted.add(scores[part], labels[part])
    exact = exact_curve(scores, labels)
    curve, bounds = counted.curve(), counted.bounds(LIMITS)
    assert abs(curve.area() - exact.area()) <= min(1e-6, bounds.auroc + 1e-12)
    assert abs(curve.average_precision() - exact.average_precision()) <= min(1e-5, bounds.ap + 1e-12)
    assert max(abs(curve.area(limit) - exact.area(limit)) for limit in LIMITS) <= min(1e-5, bounds.aupro + 1e-12)
    assert max(bounds) < 5e-5
    assert (curve.true[-1], curve.false[-1]) == (labels.sum(), (~labels).sum())


@settings(max_examples=60, deadline=None)
@given(
    offset=st.floats(-1e30, 1e30), scale=st.floats(-45, 38), shift=st.floats(0, 4), digits=st.integers(0, 7),
    saturation=st.floats(-3, 3), share=st.floats(0.001, 0.999), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_float32_scores_are_ranked_exactly(
    offset: float, scale: float, shift: float, digits: int, saturation: float, share: float, seed: int
) -> None:
    """Offsets, scales down to denormal numbers, rounding to ties, and scores cut at a limit."""
    rng = np.random.default_rng(seed)
    labels = rng.random(3000) < share
    raw = np.minimum(np.round(rng.standard_normal(3000) + shift * labels, digits), saturation)
    with np.errstate(over="ignore"):
        scores = np.clip(offset + raw * 10.0**scale, -3.4e38, 3.4e38).astype(np.float32)
    counted = ScoreHistogram()
    counted.add(scores, labels)
    if labels.any() and not labels.all():
        assert figures(counted.curve()) == pytest.approx(figures(exact_curve(scores, labels)), abs=1e-9)


def test_the_error_bound_holds_in_the_worst_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of both classes fall into one bin, all of one class above all of the other: no more is kept of their order."""
    monkeypatch.setattr(histogram, "CAPACITY", 100)
    for name in ("FINE", "COARSE"):
        monkeypatch.setattr(histogram, name, 4)
    monkeypatch.setattr(bins, "FINE", 4)
    monkeypatch.setattr(bins, "_SPIKES", 0)
    rng = np.random.default_rng(0)
    low, high = (np.float32(1 + k) + np.sort(rng.random(400)).astype(np.float32) / 100 for k in (0, 0.003))
    for first, second in ((low, high), (high, low)):
        counted = ScoreHistogram()
        for k in range(4):
            counted.add(first[k::4], np.zeros(100, bool))
            counted.add(second[k::4], np.ones(100, bool))
        exact = exact_curve(np.concatenate([first, second]), np.repeat([False, True], 400))
        found, bounds = counted.curve(), counted.bounds(LIMITS)
        assert 1e-3 < abs(found.area() - exact.area()) <= bounds.auroc
        assert abs(found.average_precision() - exact.average_precision()) <= bounds.ap
        assert max(abs(found.area(limit) - exact.area(limit)) for limit in LIMITS) <= bounds.aupro


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_keys_have_the_order_of_their_numbers(values: list[float]) -> None:
    numbers = np.array(sorted(values), np.float32)
    keys = np.empty(len(numbers), np.uint32)
    assert keys_of(numbers.view(np.uint32), keys)
    assert np.array_equal(np.diff(keys.astype(np.int64)) > 0, np.diff(numbers) > 0)
    assert np.array_equal(floats_of(keys), numbers)


@pytest.mark.thorough(4)
@pytest.mark.parametrize("limit", LIMITS)
def test_aupro_equals_its_definition(limit: float) -> None:
    maps, masks = maps_with_regions()
    pixels = PixelScores()
    for k in range(0, len(maps), 3):
        pixels.add(str(k), maps[k : k + 3], masks[k : k + 3])
    found = pixels.figures()
    assert found.aupro[limit] == pytest.approx(pro_by_definition(maps, masks, limit), abs=1e-9)
    assert found.regions == sum(ndimage.label(mask, structure=np.ones((3, 3)))[1] for mask in masks)
    assert found.auroc.value == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)


@pytest.mark.thorough(6)
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
    assert (ours.ap, ours.f1_max, ours.regions, ours.bounds) == (
        theirs.ap,
        theirs.f1_max,
        theirs.regions,
        theirs.bounds,
    )
    assert list(ours.aupro.values()) == pytest.approx(list(theirs.aupro.values()), abs=1e-12)
    assert sorted(merged.samples) == sorted(whole.samples)
    assert len(pickle.dumps(whole)) < 3_000_000, "unused bins are not pickled"
    with pytest.raises(ValueError, match="s1: is in both parts"):
        merged.merge(parts[1])
    with pytest.raises(ValueError, match="s0: was evaluated before"):
        whole.add("s0", maps[:1], masks[:1])


def test_several_threads_count_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "_BLOCK", 7_000)
    scores, labels = scores_of("sigmoid", 100_000)
    one, three = ScoreHistogram(threads=1), ScoreHistogram(threads=3)
    for counted in (one, three):
        counted.add(scores, labels)
    for mine, theirs in zip((one.curve().true, one.curve().false), (three.curve().true, three.curve().false), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_merged_part_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is used again for later scores; those that were merged stay as they were."""
    monkeypatch.setattr(histogram, "CAPACITY", 1000)
    scores, labels = scores_of("distance", 4000, share=0.3)
    part, merged = ScoreHistogram(), ScoreHistogram()
    part.add(scores[:800], labels[:800])
    merged.merge(part)
    part.add(scores[800:], labels[800:])
    assert figures(merged.curve()) == pytest.approx(figures(exact_curve(scores[:800], labels[:800])), abs=1e-12)


def test_parts_that_were_binned_can_be_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "CAPACITY", SMALL)
    scores, labels = scores_of("distance", 6 * SMALL)
    merged = ScoreHistogram()
    for part in np.array_split(np.arange(len(scores)), 3):
        piece = ScoreHistogram()
        piece.add(scores[part], labels[part])
        merged.merge(pickle.loads(pickle.dumps(piece)))
    exact = exact_curve(scores, labels)
    assert abs(merged.curve().area() - exact.area()) <= min(1e-6, merged.bounds(LIMITS).auroc)
    assert (merged.curve().true[-1], merged.curve().false[-1]) == (labels.sum(), (~labels).sum())


@pytest.mark.thorough(6)
def test_a_thousand_million_pixels_take_less_than_500_mb() -> None:
    """Of which a part is added where not everything is to be proved: memory is the same from some 60 million on."""
    count = 10**9 if is_thorough() else 2 * 10**8
    code = f"""
import numpy as np
from mvad.model.metrics.pixels import PixelScores
rng = np.random.default_rng(0)
maps = (1 / (1 + np.exp(-rng.standard_normal((2, 1600, 1600), dtype=np.float32) * 3)))
masks = np.zeros(maps.shape, bool)
masks[0, 100:200, 100:300] = True
pixels, count = PixelScores(), 0
while count < {count}:
    pixels.add(str(count), maps, masks)
    count += maps.size
found = pixels.figures()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, peak, found.auroc.value, found.regions)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    added, peak, area, regions = done.stdout.split()
    assert int(added) >= count
    assert int(peak) < 500_000, f"{peak} kB"
    assert 0.4 < float(area) < 0.6
    assert int(regions) == -(-count // (2 * 1600 * 1600))


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


def test_a_perfect_ranking_has_the_interval_of_its_runs_however_many_there_are() -> None:
    """Resampling does not move it: two seeds had 100 to 100 where one has 29 to 100."""
    labels = np.repeat([False, True], [3, 8])
    perfect = np.stack([np.where(labels, 2.0, 1.0) + 0.1 * k for k in range(2)])
    alone = auroc_interval(perfect[0], labels)
    both = mean_interval([Scored(perfect, labels)])
    assert (both.value, both.low, both.high) == pytest.approx((1.0, alone.low, 1.0))
    assert both.low < 0.4
    four = mean_interval([Scored(perfect, labels)] * 4)
    assert four.low == pytest.approx(1 - (1 - alone.low) / 2), "in quadrature"
    rng = np.random.default_rng(0)
    mixed = Scored(rng.standard_normal((2, 11)) + labels, labels)
    with_perfect, without = mean_interval([mixed, Scored(perfect, labels)]), mean_interval([mixed])
    assert with_perfect.low < (without.low + 1) / 2
    single = np.repeat([False, True], [1, 8])
    one_good = mean_interval([Scored(np.arange(9.0)[None] % 5, single)])
    assert (one_good.low, one_good.high) == (0.0, 1.0), "how much good samples differ is not known"
    found = paired_difference_of_means([Scored(np.arange(9.0)[None], single)], [Scored(-np.arange(9.0)[None], single)])
    assert (found.low, found.high, found.verdict) == (-1.0, 1.0, "not separated")


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
