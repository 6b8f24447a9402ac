"""The one module that promises something about files."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from pathlib import Path

import pytest

from mvad import files
from mvad.errors import BadInput, CannotWrite


class CrashError(Exception):
    pass


def steps_of(action) -> list[str]:  # type: ignore[no-untyped-def]
    steps: list[str] = []
    files.step_hook = steps.append
    try:
        action()
    finally:
        files.step_hook = lambda step: None
    return steps


def crash_at(number: int, action) -> None:  # type: ignore[no-untyped-def]
    count = 0

    def hook(step: str) -> None:
        nonlocal count
        if count == number:
            raise CrashError(step)
        count += 1

    files.step_hook = hook
    try:
        with pytest.raises(CrashError):
            action()
    finally:
        files.step_hook = lambda step: None


def test_a_file_is_old_or_new_but_never_half_at_every_step(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    files.write_bytes(target, b"old")
    steps = steps_of(lambda: files.write_bytes(target, b"old"))
    assert len(steps) >= 4
    for number in range(len(steps)):
        crash_at(number, lambda: files.write_bytes(target, b"new content"))
        assert target.read_bytes() in (b"old", b"new content")
        files.write_bytes(target, b"old")
        assert [path.name for path in tmp_path.iterdir()] == ["a.bin"], "leftovers of the crash are removed"


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    files.write_bytes(target, b"old")
    whole = os.write

    def half(handle: int, data: memoryview) -> int:
        whole(handle, data[: len(data) // 2])
        raise CrashError

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(CrashError):
        files.write_bytes(target, b"new content")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    files.write_bytes(target, b"new content")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: whole(handle, data[:3]))
    files.write_bytes(tmp_path / "a", b"more than three")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"more than three"


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "sample"

    def write() -> None:
        with files.whole_folder(target) as part:
            files.step_hook("one")
            (part / "one").write_text("1")
            files.step_hook("two")
            (part / "two").write_text("2")

    for number in range(len(steps_of(write))):
        if target.exists():
            (target / "one").unlink()
            (target / "two").unlink()
            target.rmdir()
        crash_at(number, write)
        assert not target.exists() or sorted(path.name for path in target.iterdir()) == ["one", "two"]
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(BadInput, match="No space left"):
        files.write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sample"
    target.mkdir()
    (target / "old").write_text("1")
    part = files.unfinished_name(target)
    whole = Path.replace

    def refuse(self: Path, to: Path) -> Path:
        if self == part:
            raise OSError(5, "Input/output error")
        return whole(self, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(BadInput, match="Input/output error"), files.whole_folder(target) as folder:
        (folder / "new").write_text("2")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["sample", "sample/old"]


def test_every_changed_byte_of_sealed_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"b": [1, 2.5, "é"], "a": {"x": None, "2": True}}
    files.write_sealed_json(path, value)
    assert files.read_sealed_json(path, "a test", "") == value
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            with pytest.raises(BadInput, match=r"a\.json"):
                files.read_sealed_json(path, "a test", "")


@pytest.mark.parametrize("seal", ['"\\ud800"', '"é"', "7", "null", '"' + "0" * 64 + '"', "{}"])
def test_a_strange_seal_is_one_line(tmp_path: Path, seal: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n "a": 1,\n "seal": ' + seal + "\n}\n")
    with pytest.raises(BadInput, match=r"a\.json: is not what was written") as caught:
        files.read_sealed_json(path, "a test", "")
    assert "\n" not in str(caught.value)


def test_every_changed_byte_of_a_log_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for k in range(3):
        files.append_line(log, {"k": k, "f": 0.1})
    good = log.read_bytes()
    assert files.damaged_lines(log) == []
    for place in range(len(good) - 1):  # without the last byte, its end, the last line still says all
        for bit in range(8):
            log.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            assert files.damaged_lines(log), (place, bit)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(BadInput, match="another mvad"), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="leads out"):
        files.inside(tmp_path, name)


def test_a_link_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "way").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="leads out"):
        files.inside(tmp_path / "root", "way/x")


def test_a_torn_last_line_is_dropped_and_taken_away_by_the_next_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    files.append_line(log, {"a": 1})
    log.write_text(log.read_text() + '{"a": 2')
    assert files.read_lines(log) == [{"a": 1}]
    files.append_line(log, {"a": 3})
    assert files.read_lines(log) == [{"a": 1}, {"a": 3}]
    assert files.damaged_lines(log) == []


def test_a_file_system_that_cannot_be_written_is_one_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither writing nor removing what is half written is allowed."""

    def read_only(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    for write in (lambda: files.write_bytes(tmp_path / "a", b"x"), lambda: files.locked(tmp_path).__enter__()):
        with pytest.raises(CannotWrite, match="Read-only file system; give a folder that you may write to") as refused:
            write()
        assert refused.value.is_general, "the next file will fail, too"
    assert pickle.loads(pickle.dumps(refused.value)).is_general, "from a worker process, too"


def test_leftovers_of_other_processes_are_removed_without_a_list_per_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of many files is listed once; what this process left behind is removed in any case."""
    for name in ("x[1]*.part-99", "x[1]*.part-old.part-98", "y.part-99", "xx[1]*.part-99"):
        (tmp_path / name).write_text("half")
    (tmp_path / "z.part-99").mkdir()
    (tmp_path / "z.part-99" / "in").write_text("half")
    lists: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (lists.append(str(path)), scandir(path))[1])
    for number in range(5):
        files.write_text(tmp_path / f"{number}", "whole")
    files.write_text(tmp_path / "x[1]*", "whole")
    assert lists.count(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.glob("*.part-*")) == ["xx[1]*.part-99", "y.part-99", "z.part-99"]
    with files.whole_folder(tmp_path / "z") as part:
        (part / "a").write_text("whole")
    files.unfinished_name(tmp_path / "z").mkdir()
    with files.whole_folder(tmp_path / "z") as part:
        (part / "b").write_text("whole")
    assert [path.name for path in (tmp_path / "z").iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.glob("*.part-*")) == ["xx[1]*.part-99", "y.part-99"]


def test_a_process_that_has_too_many_files_open_is_allowed_more(tmp_path: Path) -> None:
    """A split of 36 large views has a thousand files, all of which stay open."""
    (tmp_path / "x").write_text("x")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    handles: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, before[1]))
        handles += [files.open_for_reading(tmp_path / "x") for _ in range(20)]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        with pytest.raises(FileNotFoundError):
            files.open_for_reading(tmp_path / "y")
    finally:
        for handle in handles:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
