"""Page of the report: content, size, escaping of names, controls in a browser."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from training import NOWHERE, train

from mvad import files
from mvad.datasets.registry import RawScans
from mvad.datasets.shards.loader import ShardSet
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import evaluate_missing_views
from mvad.model.evaluation.results import Results
from mvad.model.evaluation.scan_maps import ScanEvaluator
from mvad.model.report import gallery, tables
from mvad.model.report import page as report
from mvad.model.report.budget import Budget
from mvad.model.report.gallery import heads_above, many_views
from mvad.model.report.page import build_page
from mvad.model.report.tables import comparison
from mvad.progress import Silent
from mvad.words import counted

GEAR = Path("mvtec3d") / "gear"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three runs evaluated on views and scans, two of them seeds of one method."""
    root = tmp_path_factory.mktemp("report") / "runs"
    found = []
    for name, model, seed in (("floor", "mean_feature", 0), ("padim0", "padim", 0), ("padim1", "padim", 1)):
        train(root / name, workspace / "shards" / GEAR, model=model, seed=seed)
        evaluate = ScanEvaluator(root / name, RawScans("mvtec3d", workspace / "raw" / "mvtec3d", "gear"))
        evaluate_run(root / name, workspace / "shards", NOWHERE, Silent(), callbacks=[evaluate])
        found.append(root / name)
    evaluate_missing_views(found[0], workspace / "shards", NOWHERE, Silent())
    return found


def test_the_page_lists_the_evaluated_runs(runs: list[Path]) -> None:
    page = build_page(runs)
    rows = re.findall(r"<tr><td>gear.*?</tr>", page)
    assert [re.findall(r"(\d) seed", row)[0] for row in rows] == ["1", "2"], "seeds of a method are one row"
    results = files.read_sealed_json(runs[0] / "results.json", "x", "y")
    low, high = results["figures"]["intervals"]["s_auroc"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in rows[0]
    assert page.count("not separated") + page.count(">above<") + page.count(">below<") >= 1, "the two methods are compared"
    for title in ("ROC by sample", "precision and recall by sample", "ROC by pixel", "PRO, up to 0.3", "missing views"):
        assert title in page
    assert page.count("<section") == 3
    assert page.count("data-points=") >= 6, "clouds of each run"
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_threshold_of_the_gallery_is_that_of_predict(runs: list[Path], tmp_path: Path) -> None:
    """It comes from normal validation samples; without any, the page says that the test labels chose it."""
    run = tmp_path / "padim0"
    shutil.copytree(runs[1], run)
    scores = files.read_sealed_json(run / "threshold.json", "x", "y")["scores"]
    slider = re.compile(r'class="sample"[^>]*value="([^"]*)"')
    page = build_page([run])
    assert float(slider.findall(page)[0]) == pytest.approx(max(scores), rel=1e-6)
    assert "above the threshold of mvad predict: threshold" in page
    assert f"from {counted(len(scores), 'validation normal')}" in page
    assert float(slider.findall(page)[0]) > max(scores), "a score above the threshold is anomalous, one that equals it is not"
    (run / "threshold.json").unlink()
    page = build_page([run])
    assert "chosen with their labels: it promises nothing for new parts" in page
    samples = Results.read(run / "results.json").samples
    assert any(float(slider.findall(page)[0]) == pytest.approx(s.score, rel=1e-6) for s in samples)


def test_a_damaged_picture_is_told_and_the_page_is_made(runs: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    results = Results.read(run / "results.json")
    damaged, other = (run / sample.picture for sample in results.samples[:2])
    damaged.write_bytes(damaged.read_bytes()[:100])
    shutil.copy(run / results.samples[2].picture, other)
    page = build_page([run])
    for sample in results.samples[:2]:
        assert f"{sample.key}: its pictures are missing or others; evaluate again" in page
    assert page.count("evaluate again</figcaption>") == 2


def test_figures_of_many_views_are_as_wide_as_the_page(runs: list[Path]) -> None:
    assert 'class="many"' not in build_page([runs[1]])
    assert many_views(36) == ' class="many" style="--views:36"'
    assert "repeat(36,minmax(0,1fr))" in heads_above("", 36)


@pytest.mark.thorough(2)
def test_a_page_on_many_pictures_stays_below_15_mb(runs: list[Path], tmp_path: Path) -> None:
    """With 400 samples whose pictures cannot be compressed."""
    run = tmp_path / "large"
    (run / "maps").mkdir(parents=True)
    noise = np.random.default_rng(0)
    picture = bytes(imagecodecs.jpeg_encode(noise.integers(0, 256, (512, 640, 3), dtype=np.uint8), level=88))
    grey = bytes(imagecodecs.png_encode(noise.integers(0, 256, (128, 640), dtype=np.uint8)))
    (run / "maps" / "x.jpg").write_bytes(picture)
    (run / "maps" / "x.png").write_bytes(grey)
    result = files.read_sealed_json(runs[0] / "results.json", "x", "y")
    hashes = {"picture_sha256": files.sha256_bytes(picture), "map_sha256": files.sha256_bytes(grey)}
    sample = result["samples"][0] | {"picture": "maps/x.jpg", "map": "maps/x.png"} | hashes
    samples = [sample | {"key": f"gear/test/good/{k}", "label": k % 2 == 0, "score": float(k)} for k in range(400)]
    files.write_sealed_json(run / "results.json", {k: v for k, v in result.items() if k != "scan"} | {"samples": samples})
    page = build_page([run])
    assert 8_000_000 < len(page.encode()) < 15_000_000
    shown = int(re.findall(r"(\d+) of 400 samples shown", page)[0])
    assert 20 < shown < 400
    scores = re.findall(r'data-scores="([^"]*)"', page)
    assert sum(len(each.split()) for each in scores) == 400, "recall counts those that are not shown, too"


def test_of_many_runs_some_are_shown_with_samples_and_all_with_figures(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page has room for samples of one run; it is that of the highest S-AUROC, and no picture is made that does not fit."""
    folders = []
    for number in range(4):
        folders.append(Path(shutil.copytree(runs[1], tmp_path / f"run{number}")))
        result = files.read_sealed_json(folders[-1] / "results.json", "x", "y")
        figures = result["figures"] | {"s_auroc": 0.5 + 0.1 * (number == 2)}
        files.write_sealed_json(folders[-1] / "results.json", result | {"run": f"run{number}", "figures": figures})
    assert build_page(folders).count('<section class="run"') == 4
    monkeypatch.setattr(report, "_LEAST", report.PICTURES // 2 + 1)
    made: list[str] = []
    figure = gallery._figure
    monkeypatch.setattr(gallery, "_figure", lambda run, *rest: (made.append(run.name), figure(run, *rest))[1])
    text = build_page(folders)
    assert text.count('<section class="run"') == 1
    assert "Samples of 1 run of 4 are shown" in text
    assert set(made) == {"run2"}
    assert all(f"run{number}" in text for number in range(4))
    made.clear()
    gallery.gallery(folders[2], Results.read(folders[2] / "results.json"), 0, Budget(100))
    assert len(made) == 1


def test_many_methods_are_compared_with_the_best_alone(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results.read(runs[0] / "results.json")
    several = [replace(results, model=f"method{number}") for number in range(4)]
    assert comparison(several).count("<tr>") == 6
    monkeypatch.setattr(tables, "_COMPARED", 3)
    assert comparison(several).count("<tr>") == 3


def test_names_from_outside_are_escaped(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "hostile"
    shutil.copytree(runs[0], run)
    result = files.read_sealed_json(run / "results.json", "x", "y")
    evil = "<script>alert(1)</script>"
    samples = [s | {"defect": evil, "key": f'c/"{evil}/{k}'} if s["label"] else s for k, s in enumerate(result["samples"])]
    figures = result["figures"] | {"s_auroc_by_defect": {evil: 0.5}}
    files.write_sealed_json(
        run / "results.json", result | {"samples": samples, "figures": figures, "run": evil, "category": evil}
    )
    page = build_page([run])
    assert evil not in page
    assert "&lt;script&gt;" in page
    assert page.count("<script>") == 2, "only the page's own"


def posed(run: Path, target: Path, changes: dict[int, dict[str, Any]]) -> Path:
    """Copy a run, with changes to some of its samples by number."""
    shutil.copytree(run, target)
    result = files.read_sealed_json(target / "results.json", "x", "y")
    samples = [sample | changes.get(k, {}) for k, sample in enumerate(result["samples"])]
    files.write_sealed_json(target / "results.json", result | {"samples": samples})
    return target


def test_the_page_says_how_each_scan_lay(runs: list[Path], workspace: Path, tmp_path: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "test")
    assert data.pose_fits is not None
    page = build_page(runs)
    captions = re.findall(r'<span class="pose">(.*?)</span>', page)
    assert len(captions) == 3 * len(data)
    for k in range(len(data)):
        said = f"pose 0, turn {data.turns_deg[k]:.0f} deg, template fit {100 * data.pose_fits[k]:.1f} %"
        assert captions.count(said) >= 3, said
    fit = f"{100 * np.median(data.pose_fits):.1f}<br><small>least {100 * data.pose_fits.min():.1f}</small>"
    row = f"<tr><td>mvtec3d / gear</td><td>9</td><td>pose 0: 9</td><td>{fit}</td><td>0</td><td class=small>-</td></tr>"
    assert page.count(row) == 1, "once for runs on the same data"
    changes = {
        0: {"pose_number": -1}, 1: {"pose_number": 3, "pose_fit": None}, 2: {"pose_number": -1, "key": "<b>"},
        3: {"pose_number": 4, "mirrored": True},
    }  # fmt: skip
    other = build_page([posed(runs[0], tmp_path / "other", changes)])
    assert "fits no stable pose, turn" in other
    assert f"pose 3, turn {data.turns_deg[1]:.0f} deg</span>" in other
    assert "<td>pose 0: 5, pose 3: 1, pose 4 (drawn mirrored): 1</td>" in other
    assert f"pose 4, drawn mirrored, turn {data.turns_deg[3]:.0f} deg" in other
    assert f"<td>2</td><td class=small>&lt;b&gt;, {data.keys[0]}</td>" in other


def test_results_without_poses_are_shown_without(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "old")
    result = files.read_sealed_json(tmp_path / "old" / "results.json", "x", "y")
    for sample in result["samples"]:
        for name in ("pose_number", "pose_fit", "turn_deg"):
            del sample[name]
    files.write_sealed_json(tmp_path / "old" / "results.json", result)
    assert Results.read(tmp_path / "old" / "results.json").to_json() == {k: v for k, v in result.items() if k != "seal"}
    page = build_page([tmp_path / "old"])
    assert 'class="pose"' not in page
    assert "<h2>Data</h2>" not in page
    assert "<figure data-score" in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_pose_stands_below_the_picture_and_nothing_is_wider_than_the_page(
    width: int, browser: Any, runs: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "report.html"
    target.write_text(build_page([posed(runs[0], tmp_path / "run", {k: {"pose_number": -1} for k in range(9)})]))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(f"file://{target}")
    figure = tab.locator("figure[data-score]").first
    figure.scroll_into_view_if_needed()
    picture, line = figure.locator("img").bounding_box(), figure.locator(".pose").bounding_box()
    assert line["y"] >= picture["y"] + picture["height"]
    assert line["x"] + line["width"] <= width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chosen = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chosen
        chosen.close()


@pytest.fixture
def opened(browser: Any, runs: list[Path], tmp_path: Path) -> Iterator[Any]:
    """Yield the page in a browser; check that there are no console messages and no network requests."""
    target = tmp_path / "report.html"
    target.write_text(build_page(runs))
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    tab.goto(f"file://{target}")
    yield tab
    tab.close()
    assert said == []


@pytest.mark.browser
def test_the_page_opens_and_its_controls_work(opened: Any) -> None:
    took = opened.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 10_000
    for section in opened.locator("section.run").all():
        slider = section.locator("input.sample")
        start = float(slider.get_attribute("value"))
        called = [float(one.get_attribute("data-score")) >= start for one in section.locator("figure[data-score]").all()]
        found = re.findall(r"(\d+) of \d+", section.locator(".counts").inner_text())
        assert sum(map(int, found)) == sum(called), "from the stated threshold, not from the nearest step of the slider"
    first = opened.locator("section.run").first
    scores = first.locator("figure[data-score]")
    first.locator("button[data-by=score]").click()
    by_score = [float(scores.nth(k).get_attribute("data-score")) for k in range(scores.count())]
    assert by_score == sorted(by_score, reverse=True)
    first.locator("button[data-by=name]").press("Enter")
    names = [scores.nth(k).get_attribute("data-name") for k in range(scores.count())]
    assert names == sorted(names)
    assert first.locator("button[data-by=name]").get_attribute("aria-pressed") == "true"

    slider = first.locator("input.sample")
    slider.evaluate("s => { s.value = s.min; s.dispatchEvent(new Event('input')); }")
    bad = sum(scores.nth(k).get_attribute("data-label") == "1" for k in range(scores.count()))
    assert first.locator(".counts").inner_text().startswith(f"{bad} of {bad} anomalous samples found")
    slider.evaluate("s => { s.value = s.max; s.dispatchEvent(new Event('input')); }")
    assert first.locator(".counts").inner_text().startswith(f"0 of {bad} anomalous samples found, 0 of")
    assert first.locator("figure.wrong").count() == bad
    assert {meter.get_attribute("value") or "0" for meter in first.locator("meter").all()} == {"0"}
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("Home")
    assert first.locator("figure.wrong").count() == scores.count() - bad, "by keyboard, too"

    first.locator("select.filter").select_option("label1")
    assert sum(scores.nth(k).is_visible() for k in range(scores.count())) == bad
    first.locator("select.filter").select_option("all")


@pytest.mark.browser
def test_the_maps_slider_marks_pixels(opened: Any) -> None:
    first = opened.locator("section.run").first
    figure = first.locator("figure[data-score]").first
    figure.scroll_into_view_if_needed()
    opened.wait_for_function("f => f.querySelector('canvas').dataset.drawn", arg=figure.element_handle())
    marked = "f => { const c = f.querySelector('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0; for (let k = 0; k < d.length; k += 4) n += d[k] === 0 && d[k + 1] === 225 && d[k + 2] === 255; return n / (d.length / 4); }"
    slider = first.locator("input.pixel")
    slider.evaluate("s => { s.value = s.max; s.dispatchEvent(new Event('input')); }")
    opened.wait_for_timeout(200)
    assert figure.evaluate(marked) == 0
    slider.evaluate("s => { s.value = s.min; s.dispatchEvent(new Event('input')); }")
    opened.wait_for_timeout(200)
    assert figure.evaluate(marked) == 1


@pytest.mark.browser
def test_the_cloud_can_be_turned_zoomed_and_changed(opened: Any, tmp_path: Path) -> None:
    cloud = opened.locator(".cloud").first
    canvas = cloud.locator("canvas")
    canvas.scroll_into_view_if_needed()
    opened.wait_for_function("c => c.dataset.view", arg=cloud.element_handle())
    colours = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return new Set(Array.from({ length: d.length / 4 }, (_, k) => d[4 * k] * 65536 + d[4 * k + 1] * 256 + d[4 * k + 2])).size; }"
    assert canvas.evaluate(colours) > 1, "something is drawn"
    before = cloud.get_attribute("data-view")
    canvas.focus()
    canvas.press("ArrowLeft")
    turned = cloud.get_attribute("data-view")
    assert turned != before
    canvas.press("+")
    zoomed = cloud.get_attribute("data-view")
    assert float(zoomed.split()[2]) > float(turned.split()[2])
    box = canvas.bounding_box()
    opened.mouse.move(box["x"] + 100, box["y"] + 100)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 160, box["y"] + 130)
    opened.mouse.up()
    assert cloud.get_attribute("data-view") != zoomed
    picture = canvas.evaluate("c => c.toDataURL()")
    cloud.locator("select").select_option(index=1)
    opened.wait_for_timeout(100)
    assert canvas.evaluate("c => c.toDataURL()") != picture


@pytest.mark.browser
def test_light_and_dark(opened: Any) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(background)
    opened.locator("#theme").press("Enter")
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"
    assert opened.evaluate(background) != light
    shade = [int(x) for x in re.findall(r"\d+", opened.evaluate(background))[:3]]
    assert max(shade) < 60


def test_clouds_are_subsampled_and_hold_the_map(runs: list[Path]) -> None:
    page = build_page(runs[:1])
    for packed in re.findall(r'data-points="([^"]*)"', page):
        points = np.frombuffer(base64.b64decode(packed), "<i2").reshape(-1, 4)
        assert 0 < len(points) <= 12_000
        assert np.abs(points[:, :3]).max() <= 32_000
        assert points[:, 3].min() >= 0
    assert report.PICTURES < 15_000_000


def test_wrong_decisions_come_first_and_views_have_captions(runs: list[Path]) -> None:
    page = build_page(runs[:1])
    section = page[page.index("<section") :]
    threshold = float(re.findall(r'class="sample".*?value="([^"]*)"', section)[0])
    found = re.findall(r'<figure data-score="([^"]*)" data-label="(.)"', section)
    wrong = [(float(score) >= threshold) != (label == "1") for score, label in found]
    assert any(wrong)
    assert wrong == sorted(wrong, reverse=True)
    results = Results.read(runs[0] / "results.json")
    heads = re.findall(r'<div class="heads"[^>]*>(.*?)</div>', section)
    assert len(heads) == len(results.samples)
    first = next(s for s in results.samples if repr(s.score) == found[0][0])
    for k, score in enumerate(first.view_scores):
        assert f"<span>view {k}<br>{score:.3g}</span>" in heads[0]
    assert re.findall(r"<i style=[^>]*>(.*?)</i>", section)[:4] == ["colour", "normals", "ground truth", "anomaly map"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_no_column_is_cut(width: int, browser: Any, runs: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text(build_page(runs))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(f"file://{target}")
    cut = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert tab.evaluate(cut) == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cell = tab.locator("table.figures td").nth(3)
    shown = cell.evaluate("e => getComputedStyle(e, '::before').content")
    assert shown == ('"S-AUROC"' if width == 390 else "none"), "cells have their headings where they are stacked"
    tab.close()


@pytest.mark.browser
def test_the_printed_page_has_its_maps_and_no_controls(opened: Any) -> None:
    drawn = "[...document.querySelectorAll('figure canvas')].filter(c => c.dataset.drawn).length"
    count = opened.locator("figure canvas").count()
    assert opened.evaluate(drawn) < count, "on the screen only what is seen is drawn"
    opened.pdf(format="A4")
    assert opened.evaluate(drawn) == count
    opened.emulate_media(media="print")
    assert not opened.locator(".controls").first.is_visible()


@pytest.mark.browser
def test_bars_are_green_for_what_should_be_and_red_for_what_should_not(opened: Any) -> None:
    first = opened.locator("section.run").first
    first.locator("input.sample").evaluate("s => { s.value = s.min; s.dispatchEvent(new Event('input')); }")

    def is_green(meter: Any) -> bool:
        picture = imagecodecs.png_decode(meter.screenshot()).astype(int)
        red, green = picture[picture.shape[0] // 2, picture.shape[1] // 2, :2]
        assert abs(red - green) > 60
        return bool(green > red)

    assert is_green(first.locator('tr[data-defect="0"] meter')), "defects that are found"
    assert not is_green(first.locator('tr[data-defect="-1"] meter')), "false alarms"
    bad = opened.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bad')").strip()
    fill = opened.locator("svg rect.b1").first.evaluate("e => getComputedStyle(e).fill")
    assert fill == f"rgb({int(bad[1:3], 16)}, {int(bad[3:5], 16)}, {int(bad[5:7], 16)})", "scores of anomalous samples"
