"""From a folder of photographs to decisions: predict, a watched folder that is killed at any moment, a server that refuses what it must."""

from __future__ import annotations

import base64
import contextlib
import csv
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command import MVAD, mvad, surroundings
from numpy.typing import NDArray
from PIL import Image

from mvad import files
from mvad.model.evaluation.threshold import THRESHOLD

VIEWS = ("left", "right", "top")
WIDTH, HEIGHT = 96, 72


def shot(part: int, view: str, spot: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A grey part on a light ground, with noise; ``spot`` (row, column): a dark square of 12 pixels there."""
    rng = np.random.default_rng([part, VIEWS.index(view)])
    values = np.full((HEIGHT, WIDTH, 3), 215.0)
    values[16:56, 24:72] = (90 + 30 * VIEWS.index(view), 120, 140)
    if spot is not None:
        values[spot[0] : spot[0] + 12, spot[1] : spot[1] + 12] = (255, 40, 20)
    return np.asarray(np.clip(values + rng.normal(0, 3, values.shape), 0, 255), dtype=np.uint8)


def put(folder: Path, part: int, spot: tuple[int, int] | None = None, views: tuple[str, ...] = VIEWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for view in views:
        Image.fromarray(shot(part, view, spot if view == "right" else None)).save(folder / f"{view}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run on photographs."""
    root = tmp_path_factory.mktemp("own")
    for k in range(30):
        put(root / "parts/train/good" / f"p{k:02d}", k)
    for k in range(4):
        put(root / "parts/test/good" / f"g{k}", 100 + k)
        put(root / "parts/test/spot" / f"s{k}", 200 + k, (24 + 4 * k, 32 + 6 * k))
    done = mvad("pack", "folder", str(root / "parts"), "--validation", "0.7", "--size", "64", "--workspace", str(root / "w"))
    assert done.returncode == 0, done.stderr
    keys = ("--set", "teacher=tiny", "--set", "input.size=64", "--set", "padim.channels=12")
    done = mvad("train", "--model", "padim", "--dataset", "folder", *keys, "--workspace", str(root / "w"))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def run(place: Path) -> Path:
    return place / "w" / "runs" / "folder-parts-padim-seed0"


def test_a_folder_of_new_parts_gets_decisions_with_the_place_in_the_users_picture(place: Path, run: Path, tmp_path: Path) -> None:
    put(tmp_path / "new/day 1/fine", 300)
    put(tmp_path / "new/day 1/bad", 301, (30, 50))
    put(tmp_path / "new/half", 302, views=("left", "top"))
    put(tmp_path / "new/day 1_fine", 304)
    put(tmp_path / "new/wide", 303)
    Image.new("RGB", (200, 50)).save(tmp_path / "new/wide/left.png")
    (tmp_path / "new/._half").write_bytes(b"x")
    done = mvad("predict", str(run), str(tmp_path / "new"), "--out", str(tmp_path / "out"))
    assert done.returncode == 6, done.stderr
    assert "200 x 50 pixels, the pictures of this view have 96 x 72" in done.stderr
    assert "its maps would have the name of those of day 1/fine" in done.stderr
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = {row["sample"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"day 1/fine", "day 1/bad", "half"}
    bad = rows["day 1/bad"]
    assert (bad["decision"], bad["view_name"]) == ("anomalous", "right")
    assert bad["picture"] == str(tmp_path / "new/day 1/bad/right.png")
    assert 24 <= int(bad["y"]) <= 48, "the spot is at rows 30 to 42"
    assert 44 <= int(bad["x"]) <= 68, "and columns 50 to 62"
    assert rows["day 1/fine"]["decision"] == "normal"
    assert (rows["half"]["view_right"], rows["half"]["missing"]) == ("", "right")
    assert "half has not the view right" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert {line["sample"]: line["decision"] for line in lines} == {name: row["decision"] for name, row in rows.items()}
    assert all(line["promised_false_alarms"] <= 0.05 for line in lines)
    assert tifffile.imread(tmp_path / "out/maps/day 1_bad.tiff").shape == (3, 64, 64)


def test_a_part_that_lacks_views_has_the_threshold_of_normals_without_them(place: Path, run: Path, tmp_path: Path) -> None:
    """The scores of the same normals with the view hidden: the conformal rank of theirs, not of the whole ones'."""
    put(tmp_path / "new/half", 302, views=("left", "top"))
    done = mvad("predict", str(run), str(tmp_path / "new"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    stored = files.read_sealed_json(run / THRESHOLD, "", "")
    scores = sorted(stored["by_views"]["0-2"])
    assert len(scores) == len(stored["scores"]) == 21
    assert line["threshold"] == scores[20]
    assert scores != sorted(stored["scores"])


def test_figures_on_pixels_leave_out_defects_that_no_mask_marks(place: Path, run: Path, tmp_path: Path) -> None:
    done = mvad("evaluate", str(run), "--out", str(tmp_path), "--workspace", str(place / "w"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / run.name / "results.json").read_text())
    assert results["view_names"] == list(VIEWS)
    assert results["unmarked_views"] == 4 * 3
    assert results["figures"]["p_auroc"] is None
    assert results["figures"]["s_auroc"] == 1.0
    page = mvad("report", "--out", str(tmp_path / "page.html"), str(tmp_path / run.name))
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page.html").read_text()
    assert "<span>right<br>" in text
    assert "s0 (spot)" in text
    assert "12 views with a defect that no mask marks" in text


def decisions(out: Path) -> list[dict[str, Any]]:
    return files.read_lines(out / "decisions.jsonl")


def watch(run: Path, folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return mvad("watch", str(run), str(folder), "--out", str(out), "--settle", "0.05", "--once", *more)


def test_a_watched_folder_decides_once_on_each_part_and_tells_of_it(run: Path, tmp_path: Path) -> None:
    put(tmp_path / "in/a", 404)
    put(tmp_path / "in/b", 401, (30, 50))
    put(tmp_path / "in/c", 402, views=("left",))
    (put(tmp_path / "in/d", 403) / "top.png").write_bytes(b"torn")
    told = f"{sys.executable} -c \"import os,sys; open({str(tmp_path / 'told')!r}, 'a').write(os.environ['MVAD_PART'] + ' ' + sys.stdin.read() + chr(10))\""
    done = watch(run, tmp_path / "in", tmp_path / "out", "--timeout", "1", "--exec", told)
    assert done.returncode == 6, done.stderr
    found = {line["sample"]: line for line in decisions(tmp_path / "out")}
    assert {name: line["decision"] for name, line in found.items()} == {
        "a": "normal",
        "b": "anomalous",
        "c": "normal",
        "d": "failed",
    }
    assert found["c"]["missing"] == ["right", "top"]
    assert "top.png" in found["d"]["reason"]
    assert (tmp_path / "out/maps/b.jpg").stat().st_size > 1000
    lines = (tmp_path / "told").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == ["a", "b", "c", "d"]
    assert json.loads(lines[0].partition(" ")[2])["sample"] == lines[0].split()[0]
    again = watch(run, tmp_path / "in", tmp_path / "out", "--timeout", "1", "--exec", told)
    assert again.returncode == 0
    assert len(decisions(tmp_path / "out")) == 4
    assert len((tmp_path / "told").read_text().splitlines()) == 4


@pytest.mark.thorough(20)
@pytest.mark.parametrize("kills", [4, 2])
def test_a_watch_that_is_killed_at_any_moment_loses_no_part_and_decides_none_twice(run: Path, tmp_path: Path, kills: int) -> None:
    rng, pauses = np.random.default_rng(7), np.random.default_rng(8)
    stop = threading.Event()

    def arrive() -> None:
        for k in range(18):
            for view in pauses.permutation(VIEWS):
                folder = tmp_path / "in" / f"part {k}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(shot(500 + k, str(view))).save(folder / f"{view}.png")
                time.sleep(0.6 if pauses.random() < 0.15 else 0.02)  # sometimes longer than files must rest
        stop.set()

    feeder = threading.Thread(target=arrive)
    (tmp_path / "in").mkdir()
    feeder.start()
    command = [
        *MVAD,
        "watch",
        str(run),
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--settle",
        "0.05",
        "--timeout",
        "60",
    ]
    for _ in range(kills):
        process = subprocess.Popen(
            command, env=surroundings(OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before, began = len(decisions(tmp_path / "out")), time.monotonic()
        while len(decisions(tmp_path / "out")) == before < 18 and time.monotonic() - began < 60:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.4)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    feeder.join()
    assert stop.is_set()
    done = watch(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    counts = Counter(line["sample"] for line in decisions(tmp_path / "out"))
    assert counts == {f"part {k}": 1 for k in range(18)}
    assert all(line["missing"] == [] for line in decisions(tmp_path / "out")), "no part was decided before it was complete"


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """A webhook on this machine: its address, what it got, and statuses to answer with (then 200)."""
    got: list[dict[str, Any]] = []
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                got.append(content)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_that_fails_is_called_again_at_the_next_start(
    run: Path, tmp_path: Path, receiver: tuple[str, list[dict[str, Any]], list[int]]
) -> None:
    address, got, statuses = receiver
    put(tmp_path / "in/a", 400)
    statuses += [500, 500, 500, 500]  # three times at once, and before it ends
    done = watch(run, tmp_path / "in", tmp_path / "out", "--webhook", address)
    assert done.returncode == 6
    assert "could not be told" in done.stderr
    assert got == []
    done = watch(run, tmp_path / "in", tmp_path / "out", "--webhook", address)
    assert [line["sample"] for line in got] == ["a"]
    assert got[0]["decision_id"] == decisions(tmp_path / "out")[0]["decision_id"]
    watch(run, tmp_path / "in", tmp_path / "out", "--webhook", address)
    assert len(got) == 1


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """A server with a token, one part in the queue, and small limits."""
    run = place / "w" / "runs" / "folder-parts-padim-seed0"
    port = 20000 + os.getpid() % 12000  # below those that a connection may come from: one to an unused port of these meets itself
    command = [
        *MVAD,
        "serve",
        str(run),
        "--port",
        str(port),
        "--token",
        "secret",
        "--queue",
        "1",
        "--max-mb",
        "0.5",
        "--max-megapixels",
        "0.05",
        "--max-seconds",
        "3",
    ]
    process = subprocess.Popen(
        command, env=surroundings(OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"{address}/health", timeout=5) as answer,
        ):
            assert json.load(answer)["views"] == list(VIEWS)
            break
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    yield address
    process.terminate()
    assert process.wait(30) == 0, "it answers what it has accepted, and ends"
    if process.stdout is not None:
        process.stdout.close()


def post(
    address: str, pictures: dict[str, bytes], token: str = "secret", query: str = "", part: str = "part 7"
) -> tuple[int, Any]:
    """Send a part; return the status and the JSON."""
    body = BytesIO()
    body.write(f'--x\r\nContent-Disposition: form-data; name="part"\r\n\r\n{part}\r\n'.encode())
    for name, content in pictures.items():
        body.write(
            f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        )
    body.write(b"--x--\r\n")
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/predict{query}", body.getvalue(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def png(values: NDArray[np.uint8]) -> bytes:
    target = BytesIO()
    Image.fromarray(values).save(target, "PNG")
    return target.getvalue()


def test_the_server_answers_as_predict_does(server: str, run: Path, tmp_path: Path) -> None:
    put(tmp_path / "new/part 7", 301, (30, 50))
    done = mvad("predict", str(run), str(tmp_path / "new"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    status, said = post(
        server, {view: (tmp_path / "new/part 7" / f"{view}.png").read_bytes() for view in VIEWS}, query="?maps=tiff"
    )
    assert status == 200
    for name in ("sample", "decision", "threshold", "view_name", "x", "y", "promised_false_alarms"):
        assert said[name] == line[name], name
    assert said["score"] == pytest.approx(line["score"], rel=1e-5)
    maps = tifffile.imread(BytesIO(base64.b64decode(said["map"]["tiff"])))
    assert np.abs(maps - tifffile.imread(tmp_path / "out/maps/part 7.tiff")).max() < 1e-3
    status, said = post(server, {view: png(shot(301, view)) for view in VIEWS})
    assert Image.open(BytesIO(base64.b64decode(said["map"]["png"]))).size == (3 * 128, 128)


def test_the_server_refuses_in_one_line(server: str, run: Path) -> None:
    good = {view: png(shot(1, view)) for view in VIEWS}
    cases: list[tuple[dict[str, bytes], int, str]] = [
        ({}, 422, "has no picture"),
        ({"roof.png": good["top"]}, 422, "the view roof is none of left, right, top"),
        ({"../../etc/passwd": good["top"]}, 422, "the view passwd is none of"),
        ({**good, "top": b"root:x:0:0"}, 422, "not a picture"),
        ({**good, "top": good["top"][:200]}, 422, "damaged"),
        ({**good, "top": png(np.zeros((250, 300, 3), np.uint8))}, 422, "more than 0.05 megapixels"),
        ({**good, "top": png(np.zeros((50, 50, 3), np.uint8))}, 422, "the pictures of this view have 96 x 72"),
        ({**good, "top": os.urandom(600_000)}, 413, "larger than 0.5 MB"),
    ]
    for pictures, expected, words in cases:
        status, said = post(server, pictures)
        assert (status, "\n" in said["error"]) == (expected, False), said
        assert words in said["error"], said
    assert post(server, good, token="wrong")[0] == 401
    assert post(server, good, query="?maps=jpeg")[0] == 422
    assert post(server, good)[0] == 200, "and goes on"


def test_a_body_without_a_length_is_limited_too(server: str) -> None:
    host = server.removeprefix("http://")
    import http.client

    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": "Bearer secret"}
    chunks = (b'--x\r\nContent-Disposition: form-data; name="top"; filename="top"\r\n\r\n', *(bytes(50_000) for _ in range(18)))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", "/predict", iter(chunks), headers, encode_chunked=True)
    with contextlib.closing(connection):
        assert connection.getresponse().status == 413


def test_a_sender_that_stops_does_not_keep_others_out(server: str) -> None:
    """Two senders, more than may be scored and wait, send nothing more: others are answered, and they are told after three seconds."""
    pictures = {view: png(shot(1, view)) for view in VIEWS}
    host, port = server.removeprefix("http://").split(":")
    lines = (
        "Host: x",
        "Authorization: Bearer secret",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Length: 9000",
        "",
        "--x\r\n",
    )
    head = "\r\n".join(("POST /predict HTTP/1.1", *lines))
    with socket.create_connection((host, int(port))) as one, socket.create_connection((host, int(port))) as two:
        for sender in (one, two):
            sender.sendall(head.encode())
        time.sleep(0.5)
        assert post(server, pictures)[0] == 200
        one.settimeout(10)
        assert b" 408 " in one.recv(200)


def test_more_parts_than_may_wait_are_refused_and_the_others_answered(server: str, run: Path) -> None:
    pictures = {view: png(shot(1, view)) for view in VIEWS}
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda k: post(server, pictures, part=f"p{k}")[0], range(36)))
    counts = Counter(statuses)
    assert set(counts) == {200, 429}
    assert counts[200] >= 2
    assert post(server, pictures)[0] == 200
    request = urllib.request.Request(f"{server}/metrics", headers={"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert int(re.findall(r'mvad_answers_total{status="429"} (\d+)', text)[0]) >= counts[429]
    assert "mvad_parts_in_flight 0" in text


def test_no_picture_reaches_the_disk_and_the_page_needs_no_network(server: str) -> None:
    request = urllib.request.Request(f"{server}/docs", headers={"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request) as answer:
        page = answer.read().decode()
    assert "http://" not in page.replace(server, "")
    assert "https://" not in page
    request = urllib.request.Request(f"{server}/openapi.json", headers={"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request) as answer:
        form = json.load(answer)["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"part", *VIEWS}


@pytest.mark.thorough(6)
def test_without_the_extra_the_server_says_what_to_install(run: Path, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ImportError('no', name='fastapi')\n")
    environment = surroundings(OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run([*MVAD, "serve", str(run)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "pip install 'mvad[serve]'" in done.stderr


def test_a_folder_that_is_moved_with_its_run_still_decides(place: Path, run: Path, tmp_path: Path) -> None:
    """A run on a machine without shards: its own threshold and framing are enough; nothing is promised for fewer views."""
    moved = tmp_path / "elsewhere" / run.name
    assert mvad("evaluate", str(run), "--out", str(tmp_path / "e"), "--workspace", str(place / "w")).returncode == 0
    shutil.copytree(run, moved)
    if not (moved / THRESHOLD).exists():
        shutil.copy(tmp_path / "e" / run.name / THRESHOLD, moved / THRESHOLD)
    stored = files.read_sealed_json(moved / THRESHOLD, "", "")
    stored.pop("by_views", None)
    files.write_sealed_json(moved / THRESHOLD, stored)
    put(tmp_path / "new/whole", 301)
    put(tmp_path / "new/half", 302, views=("left",))
    done = mvad(
        "predict", str(moved), str(tmp_path / "new"), "--out", str(tmp_path / "out"), "--workspace", str(tmp_path / "empty")
    )
    assert done.returncode == 0, done.stderr
    lines = {line["sample"]: line for line in map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())}
    assert lines["whole"]["promised_false_alarms"] <= 0.05
    assert lines["half"]["promised_false_alarms"] is None
    assert "nothing is promised" in done.stdout
