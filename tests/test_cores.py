"""How many cores and threads a process takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mvad.cores import usable_cores
from mvad.model.devices import resolve_device


def test_cores_are_counted_where_the_system_does_not_tell_which_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """MacOS has no sched_getaffinity, and no control groups."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(Path("/nowhere"), Path("/nowhere/cgroup")) == os.cpu_count()


@pytest.mark.parametrize(
    ("membership", "quotas", "expected"),
    [
        ("0::/", {}, 64),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "250000 100000"}, 3),  # in a container the root is its own group
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4),  # the tightest counts
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/host", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("4:memory:/x", {"memory/x/cpu.max": "100000 100000"}, 64),  # another controller's
        ("0::/../outside", {"cpu.max": "not a number"}, 64),
    ],
)
def test_a_share_of_a_machine_counts_as_fewer_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, quotas: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    (tmp_path / "cgroup").write_text(f"{membership}\n")
    for name, text in quotas.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert usable_cores(tmp_path / "groups", tmp_path / "cgroup") == expected


def test_torch_takes_no_more_threads_than_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = list[int]()
    monkeypatch.setattr("mvad.model.devices.usable_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    resolve_device("cpu")
    assert counts == []  # whoever says how many gets as many
    monkeypatch.delenv("OMP_NUM_THREADS")
    resolve_device("cpu")
    assert counts == [3]
