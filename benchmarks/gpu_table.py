"""The short table at the end of gpu.py: figures with their units, and what was left out or failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Rows = Iterator[tuple[str, str]]


def table(result: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    machine = result.get("machine", {})
    title = f"{machine.get('device', 'unknown device')}, torch {machine.get('torch', '?')}, {result.get('seconds', 0):.0f} s"
    shown = Table("what", "figure", title=title)
    for row in (*_figures(result), *_missing(result)):
        shown.add_row(*row)
    Console(width=120).print(shown)


def _figures(result: dict[str, Any]) -> Rows:
    for name, value in {**_of(result, "doctor", "ceilings"), **_of(result, "doctor", "latency")}.items():
        if isinstance(value, int | float):
            yield name.rsplit("_", 1)[0].replace("_", " "), f"{value:g} {_unit(name)}"
    for name, row in result.get("steps", {}).items():
        yield from _step_rows(name, row)
    for stage in ("attainable student", "attainable head"):
        for name, row in result.get(stage, {}).items():
            if isinstance(row, dict) and "attainable_ms" in row:
                share = attained(result, name, row["attainable_ms"])
                yield f"{name}: without waiting for the host", f"{row['attainable_ms']:.1f} ms{share}"
    for name, row in result.get("loader", {}).items():
        if isinstance(row, dict) and "student" in row:
            parts = ", ".join(f"{phase} {100 * row[phase]['wait_share']:.1f} %" for phase in ("student", "head"))
            yield f"waits for data and numbers, {name}", parts
    for name, row in result.get("memory", {}).items():
        if isinstance(row, dict):
            yield f"memory, {name}", ", ".join(f"{k} {v}" for k, v in row.items())
    for name, row in result.get("peers", {}).items():
        if isinstance(row, dict) and "student_ms" in row and "failed" not in row:
            yield (
                name,
                ", ".join(
                    f"{k.removesuffix('_ms')} {v:g}{'' if ' of ' in name else ' ms'}" for k, v in row.items() if k.endswith("_ms")
                ),
            )
    yield from _rest(result)


def _step_rows(name: str, row: Any) -> Rows:
    for phase in ("student", "head"):
        part = row.get(phase, {}) if isinstance(row, dict) else {}
        if "median_ms" in part:
            more = (
                f"; {part['profile']['kernels_a_step']:g} kernels, busy {100 * part['profile']['busy_share']:.0f} %"
                if "kernels_a_step" in part.get("profile", {})
                else ""
            )
            stops = f", {part['stops_a_step']:g} stops" if "stops_a_step" in part else ""
            memory = f", {part['peak_gb']:.1f} GB" if part.get("peak_gb") else ""
            yield f"{phase} step, {name}", f"median {part['median_ms']:.1f}, p90 {part['p90_ms']:.1f} ms{more}{stops}{memory}"


def _rest(result: dict[str, Any]) -> Rows:
    for backend in ("cpu", "egl"):
        row = _of(result, "render", "scans").get(backend)
        if isinstance(row, dict):
            yield f"render, {backend}", f"{row['ms_a_scan']} ms a scan ({row['device']})"
    for name, row in result.get("cards", {}).items():
        if isinstance(row, dict) and "student" in row:
            yield name, ", ".join(f"{phase} {row[phase]['mean_ms']:.1f} ms" for phase in ("student", "head"))
    row = _of(result, "training", "training")
    if "s_auroc" in row:
        text = f"{row['seconds']:.0f} s for {100 * row['share_of_steps']:.0f} % of the steps, {row['samples_per_s']:g} samples/s"
        yield "training, preset paper", f"{text}; S-AUROC {100 * row['s_auroc']:.1f} %, interval {row['interval']}"
    done = [row for row in result.get("methods", {}).values() if isinstance(row, dict) and "difference_all_views" in row]
    if done:
        yield (
            "methods that agree with the processor to 2 %",
            f"{sum(row['difference_all_views'] < 0.02 for row in done)} of {len(done)}",
        )
    last = _of(result, "tests", "pytest").get("last")
    if last:
        yield "pytest -m gpu", last


def attained(result: dict[str, Any], name: str, attainable_ms: float) -> str:
    """Return the share of the attainable that the engine's step reaches, as text; empty where either is not measured."""
    phase, inputs = name.split(", ")
    row = result.get("steps", {}).get(f"{inputs}, batch 8, bfloat16", {})
    measured = row.get(phase, {}).get("median_ms")
    return f", {100 * attainable_ms / measured:.0f} % of the measured {measured:.1f} ms" if measured else ""


def _missing(result: dict[str, Any]) -> Rows:
    """Yield what failed, was left out or was ended."""
    for stage, parts in result.items():
        if not isinstance(parts, dict) or stage in ("machine", "asked"):
            continue
        if "ended" in parts or "failed" in parts or "left_out" in parts:
            yield f"[red]{stage}[/red]", str(parts.get("ended") or parts.get("failed") or parts.get("left_out"))[:160]
        for name, row in parts.items():
            if isinstance(row, dict) and ("failed" in row or "left_out" in row):
                yield f"[red]{stage}: {name}[/red]", str(row.get("failed") or row.get("left_out"))[:160]


def _of(result: dict[str, Any], stage: str, part: str) -> dict[str, Any]:
    found = result.get(stage, {}).get(part, {})
    return found if isinstance(found, dict) else {}


def _unit(name: str) -> str:
    return {"tflops": "TFLOP/s", "s": "GB/s", "us": "us"}.get(name.rsplit("_", 1)[1], "")
