"""The command line as a user starts it, away from the surroundings' settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MVAD = [sys.executable, "-m", "mvad.cli.main"]
HIDDEN = ("MVAD_TEXTURES", "MVAD_WORKSPACE", "MVAD_TEACHER_WEIGHTS", "MVAD_REAL_DATA")


def mvad(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    return subprocess.run([*MVAD, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=400)
