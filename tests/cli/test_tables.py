"""Tables and lines for the terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mvad.cli.tables import bound_lines, pose_lines, pose_table


def printed(table: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def pose(number: int, mirror_of: int | None, order: int, spread_deg: float | None) -> dict[str, Any]:
    return {
        "number": number, "mirror_of": mirror_of, "training_scans": 246, "order": order, "spread_deg": spread_deg,
        "samples": 1250,
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 200])
def test_no_cell_of_the_poses_is_cut_off_at_80_columns(width: int) -> None:
    poses = [pose(0, None, 1, 0.04), pose(6, 0, 36, 12.25), pose(11, 5, 0, None)]
    without = {"poses": [pose(0, None, 0, None) | {"training_scans": 0}], "fit": None}
    (table,) = pose_table({"cable_gland": {"poses": poses, "fit": [0.1, 0.9534, 1.0]}, "LicoriceSandwich": without})
    text = printed(table, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    rows = text.replace("\n", " ").split("cable_gland")[1:]
    for row, said in zip(rows, ("0 1250 246 scans any 0.04° 95.3 10.0", "1250 246 scans up to 1/36 12.25°", "none"), strict=True):
        words = row.split()
        assert all(word in words for word in said.split()), row
    for cell in ("6 mirror of 0", "11 mirror of 5", "LicoriceSandwich", "template", "spread", "least"):
        assert cell.split()[0] in text.split()
    assert text.count("1250") == 4
    assert {"6", "0", "11", "5", "of"} <= set(text.split())


def test_unusual_poses_are_named_twelve_a_line() -> None:
    keys = [f"key{k}" for k in range(14)]
    lines = pose_lines({"unfit": keys[:12], "cut": {key: [0, 2] for key in keys}}, "predictions.csv")
    assert lines[0] == f"notice: fits no stable pose well: {', '.join(keys[:12])}"
    assert lines[1].startswith("notice: reaches beyond the picture: key0 (view 0, 2), key1 (view 0, 2), ")
    assert lines[1].endswith("key11 (view 0, 2) and 2 more (predictions.csv has all)")
    assert pose_lines({"unfit": [], "cut": {}}) == []
    assert pose_lines({"unfit": keys})[0].endswith("key11 and 2 more (manifest.json has all)")


def test_pixel_figures_that_bins_may_have_changed_are_told() -> None:
    def result(bound: float, on_scan: float = 0.0) -> Any:
        figures = [
            SimpleNamespace(error_bounds={"p_auroc_error_bound": 0.0, "aupro_error_bound": each}) for each in (bound, on_scan)
        ]
        return SimpleNamespace(run="r", figures=figures[0], scan=SimpleNamespace(figures={"mean": figures[1]}))

    assert bound_lines([result(0.0), result(9e-5)]) == []
    (line,) = bound_lines([result(0.0), result(2e-3)])
    assert line.startswith("notice: r: pixel figures may be off by 0.2 points")
    assert len(bound_lines([result(0.0, 3e-4)])) == 1
