"""New samples are read in order; on a GPU several at the same time, and what cannot be read is told in its turn."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mvad.errors import BadInput, CannotWrite
from mvad.model.evaluation import read_ahead as module
from mvad.model.evaluation.decide import NewSample, Read
from mvad.model.evaluation.read_ahead import Earlier, read_ahead


def detector(device: str) -> Any:
    return SimpleNamespace(device=torch.device(device))


def samples(count: int) -> list[NewSample]:
    return [NewSample(str(number), f"hash {number}", lambda: None) for number in range(count)]  # type: ignore[arg-type,return-value]


def made(sample: NewSample) -> Earlier:
    return Earlier([sample.fingerprint()], {"row": 2} if sample.key == "2" else None)


def refuse_3(sample: NewSample) -> None:
    if sample.key == "3":
        raise BadInput("3: has the name of another")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_samples_come_in_order_with_what_was_read_of_them(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Any, sample: NewSample) -> Any:
        if sample.key == "4":
            raise BadInput("4: cannot be read")
        return SimpleNamespace(of=sample.key)

    monkeypatch.setattr(module, "read_new", read)
    found = list(read_ahead(detector(device), samples(6), refuse_3, made))
    assert [one.sample.key for one in found] == list("012345")
    assert [one.read is not None and one.read.of for one in found] == ["0", "1", False, False, False, "5"]  # type: ignore[attr-defined]
    assert found[2].row == {"row": 2}
    assert [str(found[n].row) for n in (3, 4)] == ["3: has the name of another", "4: cannot be read"]
    assert found[5].made_from == ["hash 5"]


def test_on_a_gpu_several_are_read_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=20)

    def read(_: Any, sample: NewSample) -> Any:
        together.wait()
        return object()

    monkeypatch.setattr(module, "read_new", read)
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    found = list(read_ahead(detector("cuda"), samples(2), refuse_3, made))
    assert all(one.read is not None for one in found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_full_disk_ends_all(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Any, sample: NewSample) -> Read:
        raise CannotWrite("full", is_general=True)

    monkeypatch.setattr(module, "read_new", read)
    with pytest.raises(CannotWrite):
        list(read_ahead(detector(device), samples(6), refuse_3, made))
