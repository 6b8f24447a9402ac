"""What became of the poses of a category's objects: how many lay in each, how well they fit, what was cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mvad.datasets.scan import NO_POSE
from mvad.render.rig import Rig


def summarise_poses(records: Mapping[str, Mapping[str, Any]], rig: Rig | None) -> dict[str, Any]:
    """Return counts and figures of the poses of rendered samples.

    Parameters
    ----------
    records
        Records of the samples by key.
    rig
        The cameras that they were rendered with, or None where there are none yet.

    Returns
    -------
    dict
        ``frame`` (object, sensor, or mesh: that of the files) and ``note`` (one line on what is unusual, or ""). In the object's frame also ``axis``;
        ``mirrored``, whether mirror images are drawn mirrored; ``poses``, one dict for each stable pose: its ``number``,
        ``training_scans`` of its template, ``order`` and ``spread_deg`` (``StablePose``), ``samples`` that lie in it; the
        ``fit`` of samples (0 %, 50 % and 100 % quantiles) or None. In both: ``unfit``, samples that fit no pose well; ``cut``,
        the views that samples reach beyond, by key.
    """
    cut = {key: record["cut"] for key, record in sorted(records.items()) if record["cut"]}
    frame = None if rig is None else rig.frame
    if frame is None:
        is_mesh = any(record["config"].get("read.kind") == "mesh" for record in records.values())
        return {"frame": "mesh" if is_mesh else "sensor", "note": "", "unfit": [], "cut": cut}
    counts = Counter(record["pose_number"] for record in records.values())
    poses = []
    for number in range(max(frame.count, 1)):
        pose = frame.poses[number % len(frame.poses)] if frame.poses else None
        poses.append({
            "number": number, "mirror_of": number - len(frame.poses) if pose and number >= len(frame.poses) else None,
            "training_scans": pose.scans if pose else 0, "order": pose.order if pose else 0,
            "spread_deg": pose.spread_deg if pose else None, "samples": counts.get(number, 0),
        })  # fmt: skip
    fits = [record["pose_fit"] for record in records.values() if record["pose_fit"] is not None]
    return {
        "frame": "object", "note": frame.note, "axis": frame.axis, "mirrored": frame.mirrored, "poses": poses,
        "fit": [round(float(value), 4) for value in np.quantile(fits, (0, 0.5, 1))] if fits else None,
        "unfit": sorted(key for key, record in records.items() if record["pose_number"] == NO_POSE), "cut": cut,
    }  # fmt: skip
