"""The dataset card, ``README.md`` beside the shards: content, size, origin and licence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mvad.datasets.renders.record import missing_of, note_lines
from mvad.datasets.shards.missing import missing_lines
from mvad.datasets.shards.schema import FIELDS, SCHEMA, SCHEMA_VERSION


def card(manifest: Mapping[str, Any]) -> str:
    """Return the card, Markdown text, of the shards in a manifest."""
    entries = manifest["shards"]
    samples = sum(entry["samples"] for entry in entries)
    megabytes = sum(entry["bytes"] for entry in entries) / 1e6
    lines = [
        f"# {manifest['dataset']} / {manifest['category']}",
        "",
        f"{samples} samples of {len(manifest['views'])} views ({', '.join(manifest['views'])}), {megabytes:.1f} MB.",
        f"Licence of the data: {manifest['licence']}.",
        f"Format: {SCHEMA} {SCHEMA_VERSION}; read it with h5py after `import hdf5plugin`.",
        *_place(manifest),
        *_told(manifest),
        "",
        "| file | samples | anomalous | defects | views that show one | MB | SHA-256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        defects = ", ".join(f"{name} {count}" for name, count in entry["defects"].items())
        views = " ".join(map(str, entry["views_with_defect"]))
        lines.append(
            f"| {entry['file']} | {entry['samples']} | {entry['anomalous']} | {defects} | {views} | "
            f"{entry['bytes'] / 1e6:.1f} | {entry['sha256']} |"
        )
    lines += ["", "| field | shape in the first file | MB in all | meaning |", "|---|---|---|---|"]
    for name, field in entries[0]["fields"].items():
        stored = sum(entry["fields"][name]["bytes"] for entry in entries) / 1e6
        lines.append(f"| {name} | {' x '.join(map(str, field['shape']))} | {stored:.2f} | {FIELDS[name].meaning} |")
    audit = manifest["audit"]
    if audit and audit["total"]:
        share = 100 * audit["seen_any"] / audit["total"]
        lines += [
            "",
            f"Ground truth: {audit['total']} pixels in {audit['samples_with_defect']} samples; "
            f"{audit['seen_any']} ({share:.1f} %) "
            f"seen in some view, {audit['no_point']} have no 3-D point, {audit['removed']} went with the background, "
            f"{audit['unseen']} are occluded or finer than the views.",
        ]
        if audit.get("invisible"):
            lines.append(f"No view shows the defect of {', '.join(audit['invisible'])}.")
    for title, key in (("Made with", "config"), ("Packed with", "packing")):
        lines += ["", f"{title}:", "", "```json", json.dumps(manifest[key], indent=1, sort_keys=True), "```"]
    return "\n".join(lines) + "\n"


def _told(manifest: Mapping[str, Any]) -> list[str]:
    """Return lines on missing samples and on what was decided in reading the others; none where there is nothing to tell."""
    missing, notes = missing_lines(manifest), note_lines(manifest)
    count = len(missing_of(manifest))
    heading = f"{count} {'sample is' if count == 1 else 'samples are'} missing:"
    told = ["", heading, "", *(f"- {line}" for line in missing)] if missing else []
    return told + (["", "Decided in reading:", "", *(f"- {line}" for line in notes)] if notes else [])


def _place(manifest: Mapping[str, Any]) -> list[str]:
    """Return lines on the range of the rig, and on the stable poses that the scans took where they took several."""
    if manifest["rig_range"] is None:
        return []
    near, far, radius = manifest["rig_range"]
    lines = [f"Depths are coded from {near:.4f} to {far:.4f} m, the objects' radius is {radius:.4f} m."]
    numbers: Counter[str] = Counter()
    for entry in manifest["shards"]:
        numbers.update(entry["pose_numbers"])
    if len(numbers) > 1:
        counts = ", ".join(f"{number}: {numbers[number]}" for number in sorted(numbers, key=int))
        lines.append(f"Scans by the number of their pose (-1: fits none): {counts}.")
    return lines
