"""The copy of tensors on the host, which is a safetensors file."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mvad.model.training.tensor_file import tensor_file


def tensors_of_all_kinds(device: str = "cpu") -> dict[str, Tensor]:
    torch.manual_seed(2)
    kinds = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    made = {str(kind): (torch.rand(3, 5) * 100).to(kind) for kind in (*kinds, torch.bool)}
    made["channels-last"] = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    made |= {
        "part": torch.rand(9, 9)[::2, 3:5],
        "scalar": torch.tensor(7),
        "empty": torch.rand(0, 3),
        "weight": torch.ones(2, requires_grad=True),
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


def test_the_copy_is_a_safetensors_file_of_the_same_tensors() -> None:
    tensors = tensors_of_all_kinds()
    found = safetensors.torch.load(bytes(tensor_file(tensors).content()))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert safetensors.torch.load(bytes(tensor_file({}).content())) == {}


def test_the_copy_stays_as_it_is_when_the_tensors_change() -> None:
    weight = torch.ones(4)
    copy = tensor_file({"w": weight})
    weight.zero_()
    assert safetensors.torch.load(bytes(copy.content()))["w"].tolist() == [1, 1, 1, 1]


@pytest.mark.gpu
def test_the_copy_from_a_gpu_is_that_of_the_moment_and_is_not_waited_for() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tensors = tensors_of_all_kinds("cuda") | {"large": torch.ones(4096, 4096, device="cuda")}
    before = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = tensor_file(tensors)
        tensors["large"].zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copy.buffer.is_pinned()
    found = safetensors.torch.load(bytes(copy.content()))
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())
