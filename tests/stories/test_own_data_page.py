"""Every command of docs/own-data.md runs, on generated pictures."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, surroundings, warm_socket
from PIL import Image
from test_own_data import HEIGHT, VIEWS, WIDTH, put, shot

PAGE = (ROOT / "docs" / "own-data.md").read_text()
QUICK = {"train": "--set teacher=tiny --set input.size=64", "pack": "--size 64"}
"""The same commands on less work; ``pack`` is ``pack folder``."""


@pytest.mark.thorough(4)
def test_every_command_of_the_page_on_own_data_runs(tmp_path: Path) -> None:
    for k in range(12):
        put(tmp_path / "parts/train/good" / f"p{k}", k)
        for view in VIEWS:
            (tmp_path / "flat").mkdir(exist_ok=True)
            Image.fromarray(shot(k, view)).save(tmp_path / "flat" / f"p{k}_{view}.jpg")
        strip = np.concatenate([shot(k, view)[:, :HEIGHT] for view in VIEWS], axis=1)
        (tmp_path / "seeds/good").mkdir(parents=True, exist_ok=True)
        Image.fromarray(strip).save(tmp_path / "seeds/good" / f"{k}.png")
    put(tmp_path / "parts/test/good/g", 50)
    put(tmp_path / "parts/test/spot/s", 51, (30, 50))
    put(tmp_path / "new/good one", 60)
    put(tmp_path / "new/bad one", 61, (30, 50))
    put(tmp_path / "arriving/a", 62)
    with (tmp_path / "parts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "view", "image"])
        writer.writerows([f"p{k}", view, f"parts/train/good/p{k}/{view}.png"] for k in range(12) for view in VIEWS)
    script = tmp_path / "bin" / "mvad"
    script.parent.mkdir()
    python = f"{sys.executable} -IS {ROOT / 'tests' / 'warm.py'} {warm_socket()} mvad.cli.main"
    cases = "\n".join(f'{verb}) exec {python} "$@" {more};;' for verb, more in QUICK.items())
    script.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\n*) exec {python} "$@";;\nesac\n')
    script.chmod(0o755)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    commands = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert len(commands) >= 8
    environment = surroundings(PATH=f"{script.parent}:{os.environ['PATH']}")
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    page = (tmp_path / "decisions.html").read_text()
    assert page.index("bad one") < page.index("good one"), "the most anomalous first"
    assert re.search(r"highest in right at \(\d+, \d+\) of right.png", page)
    assert "http" not in re.sub(r"<meta[^>]*>", "", page)
    lines = [json.loads(line) for line in (tmp_path / "decisions.txt").read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["a"]
    assert WIDTH > HEIGHT
