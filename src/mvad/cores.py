"""How many cores a process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return the cores that this process may use: those it may run on, or fewer where a container's or a job's share of time is less.

    Where the system does not tell (macOS, Windows), all of the machine. A share is rounded up: 1.5 cores are two.

    Parameters
    ----------
    cgroups, membership
        Where Linux keeps the quotas, and the file that tells which groups this process is in (``cpu.max`` of control groups
        version 2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` of version 1; kernel documentation, "Control Group v2").

    Examples
    --------
    >>> usable_cores() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for folder in _groups(cgroups, membership) if (share := _share(folder)) is not None]
    return max(1, min([cores, *(math.ceil(share) for share in shares)]))


def _groups(cgroups: Path, membership: Path) -> list[Path]:
    """Return the folders of the groups that this process is in, and of all above them: the tightest quota counts."""
    try:
        lines = membership.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        folder = root / group.lstrip("/")
        while folder != root and root in folder.parents:
            folders.append(folder)
            folder = folder.parent
        folders += [root, cgroups / "cpu"] if controllers else [root]
    return folders


def _share(folder: Path) -> float | None:
    """Return the cores' worth of time that a group may take, or None without a limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
