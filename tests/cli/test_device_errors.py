"""Errors of a device end in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
import torch

from mvad.cli import main


def failing(error: Exception) -> Callable[..., NoReturn]:
    def app(prog_name: str) -> NoReturn:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nstack"), "choose a smaller train.batch"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure\nstack"), "the same command continues"),
    ],
)
def test_an_error_of_a_device_is_one_line_and_exit_5(
    error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", failing(error))
    monkeypatch.setattr(main.signal, "signal", lambda *given: None)
    monkeypatch.setattr(main, "outlive_readers", lambda: None)
    with pytest.raises(SystemExit) as left:
        main.run()
    assert left.value.code == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mvad: CUDA ")
    assert remedy in line


def test_another_runtime_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(RuntimeError("a fault of mvad")))
    monkeypatch.setattr(main.signal, "signal", lambda *given: None)
    monkeypatch.setattr(main, "outlive_readers", lambda: None)
    with pytest.raises(RuntimeError, match="a fault of mvad"):
        main.run()
