"""A CUDA device that computes on the processor, and counts what a real one would be asked for.

Tensors of the class ``Emulated`` say that they lie on ``cuda:0`` and hold a tensor of the processor; every operation of torch
(after autograd and autocast) goes through ``__torch_dispatch__``, which computes it, and raises what a CUDA device would raise
where tensors of both devices meet. Counted, by the line of mvad that asked:

- **launches** of kernels, by a table of what torch's CUDA build launches for an operation (``_LAUNCHES``); within a tenth or so,
  since cuDNN and cuBLAS choose by shape;
- **host stops**: the process waits for the device. These are reads of values (``item``, ``tolist``, ``cpu``), operations whose
  result has a size that depends on values (``nonzero``, boolean indices), copies from memory that is not page-locked, and waits
  for an event or the device.

``install`` changes torch for the whole process and must be called before mvad is imported, so tests start a process for it
(``steps.py``). Torch's builds for processors lack the guard of CUDA devices, which ``guard.py`` compiles and loads.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)

_FREE = {
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "slice", "select", "squeeze", "unsqueeze", "detach",
    "alias", "as_strided", "split", "split_with_sizes", "unbind", "unfold", "lift_fresh", "_reshape_alias", "diagonal", "chunk",
    "narrow", "is_pinned", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "is_same_size", "set_",
    "record_stream", "_fused_sdp_choice", "_local_scalar_dense", "resize_",
}  # fmt: skip
"""Operations that launch nothing."""

_LAUNCHES = {
    "native_batch_norm": 2, "native_batch_norm_backward": 2, "convolution": 1, "convolution_backward": 2, "nonzero": 4, "topk": 3,
    "sort": 3, "native_layer_norm_backward": 2, "native_group_norm": 2, "native_group_norm_backward": 3, "cumsum": 1,
    "_unique2": 5, "_scaled_dot_product_efficient_attention_backward": 3, "index_put": 2, "index_put_": 2, "_index_put_impl_": 2,
}  # fmt: skip
"""Kernels of operations that launch more than one; all others launch one."""

_TENSORS_PER_LAUNCH, _ELEMENTS_PER_LAUNCH = 48, 320 * 65536
"""What torch's multi-tensor kernels take at once, about."""

_CROSSING = {"_to_copy", "copy_", "copy", "_copy_from", "index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take tensors of both devices."""

_SIZES_BY_VALUE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
_READS = {"_local_scalar_dense", "is_nonzero", "equal"}


class Counts:
    """Launches by operation and by line; host stops by kind and line."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.operations: Counter[tuple[str, str]] = Counter()
        self.stops: Counter[tuple[str, str]] = Counter()

    def taken(self) -> dict[str, Any]:
        """Return the counts since the last call."""
        found = {
            "launches": sum(self.launches.values()), "stops": sum(self.stops.values()),
            "pairs": [[name, line, number] for (name, line), number in self.operations.most_common(120)],
            "by_operation": dict(self.launches.most_common(40)), "by_line": dict(self.lines.most_common(60)),
            "stops_by_line": {f"{kind} at {line}": number for (kind, line), number in self.stops.most_common()},
        }  # fmt: skip
        self.launches.clear()
        self.lines.clear()
        self.operations.clear()
        self.stops.clear()
        return found

    def stop(self, kind: str) -> None:
        if EmulatedGraph.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {kind} at {_line()}")
        self.stops[kind, _line()] += 1

    def launch(self, name: str, number: int = 1) -> None:
        self.launches[name] += number
        self.lines[_line()] += number
        self.operations[name, _line()] += number


COUNTS = Counts()
_pinned: dict[int, Any] = {}
"""Page-locked storages by address; they are kept alive, so that an address is not given to another."""


class Emulated(torch.Tensor):
    """Tensor that lies on ``cuda:0`` by what it says, and in ``held`` by what it is."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Emulated:
        made: Emulated = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, layout=held.layout,
            device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Emulated({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        COUNTS.stop("tolist")
        return self.held.tolist()


def _leaves(values: Any) -> list[Any]:
    """Return what lists, tuples and dicts hold, in order; torch's own pytrees take a quarter of an emulated step."""
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return [values]
    return [leaf for value in values for leaf in (_leaves(value) if isinstance(value, list | tuple | dict) else (value,))]


def _mapped(change: Any, values: Any) -> Any:
    """Return lists, tuples and dicts of the same form with all else changed."""
    if isinstance(values, list | tuple):
        return type(values)([_mapped(change, value) for value in values])
    if isinstance(values, dict):
        return {name: _mapped(change, value) for name, value in values.items()}
    return change(values)


def told(error: Exception) -> str:
    """Return an error in one line, with the lines of mvad from which it came."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mvad/" in frame.filename]
    where = [f"{frame.filename.rpartition('/mvad/')[2]}:{frame.lineno}" for frame in reversed(frames[-6:])]
    return f"{type(error).__name__}: {error} <- {' <- '.join(where)}"


class EmulatedMode(TorchDispatchMode):
    """Sends what makes new tensors on ``cuda`` to the emulation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Event:
    """Event of a stream, at which the process can wait."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def wait(self, *args: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        COUNTS.stop("wait for an event")


class _Stream:
    """Stands in for ``torch.cuda.Stream``."""

    def __init__(self, device: Any) -> None:
        self.device = torch.device(device)


class EmulatedGraph:
    """CUDA graph: the operations of a recording, computed again on the same memory.

    A device does not compute what is recorded, so what a recording changed of older tensors is put back at its end.
    """

    recording: EmulatedGraph | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.made: set[int] = set()

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Record an operation with its tensors of the processor."""
        self.calls.append((func, args, kwargs, out))
        self.made |= {t.untyped_storage()._cdata for t in _leaves(out) if isinstance(t, torch.Tensor)}

    def keep(self, changed: Any) -> None:
        """Remember tensors that an operation is about to change, unless they are of this recording."""
        for tensor in _leaves(changed):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.made:
                self.before.setdefault(tensor.untyped_storage()._cdata, (tensor, tensor.clone()))

    def replay(self) -> None:
        """Compute all again: views follow their memory, the others are copied to their places."""
        COUNTS.launch("graph")
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for place, value in zip(_leaves(out), _leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


class _Recording:
    """Stands in for ``torch.cuda.graph``."""

    def __init__(self, graph: EmulatedGraph, pool: Any = None, stream: Any = None, **options: Any) -> None:
        if stream is None:
            raise AssertionError("a recording on the current device's stream holds nothing of another device")
        self.graph = graph

    def __enter__(self) -> None:
        EmulatedGraph.recording = self.graph

    def __exit__(self, *error: Any) -> None:
        EmulatedGraph.recording = None
        for tensor, before in self.graph.before.values():
            tensor.copy_(before)


def _line() -> str:
    node = torch._C._current_autograd_node()
    if node is not None:
        return f"backward: {node.name()}"
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/mvad/" in name:
            return f"{name.rpartition('/mvad/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the processor as a CUDA device would, and count it."""
    name = func._schema.name.split("::")[1]
    tensors = [x for x in _leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_device = [x for x in tensors if isinstance(x, Emulated)]
    on_host = [x for x in tensors if not isinstance(x, Emulated)]
    asked = kwargs.get("device")
    to_device = bool(on_device) if asked is None else torch.device(asked).type == "cuda"
    if not to_device and not on_device:
        return func(*args, **kwargs)
    if name in ("index", "_unsafe_index"):
        to_device = isinstance(args[0], Emulated)
    _check(name, on_device, on_host, args, kwargs, to_device)
    _count_stops(name, args, kwargs, on_device, on_host, to_device)
    _count_launches(name, args)
    plain_args, plain = _mapped(_held, args), _mapped(_held, kwargs)
    if asked is not None:
        plain["device"] = torch.device("cpu")
    if plain.get("pin_memory"):
        plain["pin_memory"] = False
    graph = EmulatedGraph.recording
    if graph is not None:
        graph.keep(_mapped(_held, _changed_arguments(func, args, kwargs)))
        if name in ("native_batch_norm", "_native_batch_norm_legit") and plain_args[5]:
            graph.keep(plain_args[3:5])
    compute = _ATTENTION.get(name, func) if name not in _SLOW else partial(_in_float32, func)
    out = compute(*plain_args, **plain)
    if graph is not None:
        graph.note(compute, plain_args, plain, out)
    changed = _changed_arguments(func, args, kwargs)
    if changed:
        return changed[0] if len(changed) == 1 else tuple(changed)
    if name == "_local_scalar_dense" or (not to_device and name != "copy_"):
        if name == "_to_copy":  # the processor's own tensor must not share memory with the device's
            return _mapped(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, out)
        return out
    return _mapped(lambda x: Emulated(x) if isinstance(x, torch.Tensor) and not isinstance(x, Emulated) else x, out)


def _scaled_dot_product(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0) -> Any:
    """Return attention by the memory-efficient kernel, which a CUDA build takes, and a build for processors would not."""
    if not isinstance(query, Emulated):
        return _ON_PROCESSOR(query, key, value, attn_mask, dropout_p)
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, -torch.inf)
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout_p)[0]


_ON_PROCESSOR = torch.nn.functional.scaled_dot_product_attention


def _attention(query: Any, key: Any, value: Any, bias: Any, *rest: Any, **named: Any) -> Any:
    """Return the output and the sums of the memory-efficient kernel, which processors lack; what it drops is not emulated."""
    out = _by_tokens(torch.ops.aten._scaled_dot_product_attention_math(query, key, value, bias)[0])
    empty = torch.zeros((), dtype=torch.int64)
    return out, torch.zeros(query.shape[:3]), empty, empty


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, bias: Any, *rest: Any, **named: Any) -> Any:
    scale = query.shape[-1] ** -0.5
    logits = (query @ key.transpose(-1, -2)).float() * scale
    share = torch.softmax(logits if bias is None else logits + bias, dim=-1).to(query)
    into_share = grad @ value.transpose(-1, -2)
    into_logits = share * (into_share - (into_share * share).sum(dim=-1, keepdim=True)) * scale
    gradients = into_logits @ key, into_logits.transpose(-1, -2) @ query, share.transpose(-1, -2) @ grad
    return (*map(_by_tokens, gradients), None)


def _by_tokens(heads: torch.Tensor) -> torch.Tensor:
    """Return (B, heads, N, d) in the kernel's layout: the heads of a token lie side by side."""
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


_ATTENTION = {
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_efficient_attention_backward": _attention_backward,
}


_SLOW = {"convolution", "convolution_backward"}
"""Operations in bfloat16 that take a processor without such arithmetic ten times as long as in float32."""


def _in_float32(func: Any, *args: Any, **kwargs: Any) -> Any:
    low = any(isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 for x in _leaves(args))
    wide = [x.float() if isinstance(x, torch.Tensor) else x for x in args] if low else args
    out = func(*wide, **kwargs)
    return _mapped(lambda x: x.bfloat16() if isinstance(x, torch.Tensor) else x, out) if low else out


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Emulated) else x


def _check(name: str, on_device: Any, on_host: Any, args: Any, kwargs: Any, to_device: bool) -> None:
    """Raise what CUDA raises where devices are mixed."""
    if kwargs.get("generator") is not None and to_device:
        raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
    if not on_device or not on_host:
        return
    if name in _CROSSING:
        if name.startswith(("index", "_unsafe_index", "_index")) and not isinstance(args[0], Emulated):
            raise RuntimeError(f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if "put" in name and not isinstance(args[2], Emulated) and args[2].ndim > 0:
            raise RuntimeError(f"{name}: expected self and source on the same device")
        return
    if name.startswith("_foreach") or name.startswith("_fused"):
        if any(x.ndim > 0 for x in on_host):
            raise RuntimeError(f"{name}: tensors of cuda and cpu in one list")
        return
    if any(x.ndim > 0 for x in on_host):
        shapes = [(tuple(x.shape), str(x.device)) for x in (*on_device, *on_host)]
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {shapes}")
    if name.endswith("_") and not isinstance(args[0], Emulated):
        raise RuntimeError(f"{name}: in place on a tensor of the cpu with one of cuda")


def _is_pinned(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _pinned


def _count_stops(name: str, args: Any, kwargs: Any, on_device: Any, on_host: Any, to_device: bool) -> None:
    if on_device and name in _READS:
        COUNTS.stop("item")
    if on_device and name in _SIZES_BY_VALUE:
        COUNTS.stop(name)
    if name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_") and isinstance(args[0], Emulated):
        for index in args[1]:
            if isinstance(index, Emulated) and index.dtype in (torch.bool, torch.uint8):
                COUNTS.stop("boolean index")
                COUNTS.launch("nonzero", 4)
            elif isinstance(index, torch.Tensor) and not isinstance(index, Emulated):
                if EmulatedGraph.recording is not None:
                    raise RuntimeError(f"an index from the host would be recorded with its address at {_line()}")
                COUNTS.stop("index from the host")
    if name == "_to_copy":
        source = args[0]
        if to_device and not isinstance(source, Emulated):
            if EmulatedGraph.recording is not None:
                raise RuntimeError(f"a copy from the host would be recorded with its address at {_line()}")
            COUNTS.launch("copy to the device")
            if not (kwargs.get("non_blocking") and _is_pinned(source)):
                COUNTS.stop("copy to the device")
        elif not to_device and isinstance(source, Emulated):
            COUNTS.launch("copy to the host")
            COUNTS.stop("copy to the host")
    if name == "copy_" and len(on_device) == 1 and len(on_host) == 1:
        COUNTS.launch("copy between devices")
        if not ((kwargs.get("non_blocking") or (len(args) > 2 and args[2])) and _is_pinned(on_host[0])):
            COUNTS.stop("copy between devices")


def _count_launches(name: str, args: Any) -> None:
    if name in _FREE or (
        name in ("_to_copy", "copy_") and any(isinstance(x, torch.Tensor) and not isinstance(x, Emulated) for x in args)
    ):
        return
    if name.startswith(("_foreach", "_fused_sgd", "_fused_adam", "_amp_foreach")):
        first = next(a for a in args if isinstance(a, (list, tuple)))
        elements = sum(t.numel() for t in first)
        COUNTS.launch(name, max(1, -(-len(first) // _TENSORS_PER_LAUNCH), -(-elements // _ELEMENTS_PER_LAUNCH)))
        return
    COUNTS.launch(name, _LAUNCHES.get(name, 1))


def _changed_arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the arguments that an operation changes and returns (in place, or ``out=``)."""
    returned = []
    for value in func._schema.returns:
        if value.alias_info is None or not value.alias_info.is_write:
            return []
        for number, argument in enumerate(func._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and argument.alias_info.before_set & value.alias_info.before_set:
                returned.append(kwargs.get(argument.name, args[number] if number < len(args) else None))
    return returned


def install() -> None:
    """Make this process believe in one CUDA device."""
    torch.autograd.set_multithreading_enabled(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    cuda: Any = torch.cuda
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True, "_lazy_init": lambda: None, "is_bf16_supported": lambda *a, **k: True,
        "get_device_name": lambda *a: "emulated", "mem_get_info": lambda *a: (70_000_000_000, 80_000_000_000),
        "current_device": lambda: 0, "device_count": lambda: 1, "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None, "set_device": lambda *a: None, "empty_cache": lambda: None,
        "current_stream": lambda *a: None, "get_device_capability": lambda *a: (9, 0), "is_current_stream_capturing": lambda: False,
        "CUDAGraph": EmulatedGraph, "graph": _Recording,
        "Stream": _Stream, "stream": contextlib.nullcontext, "device": contextlib.nullcontext,
        "graph_pool_handle": lambda: None, "synchronize": lambda *a: COUNTS.stop("wait for the device"), "Event": _Event,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, answer)
    cuda.amp.common.amp_definitely_not_available = lambda: False
    pinning: Any = torch.Tensor
    pinning.pin_memory = _pin
    pinning.is_pinned = lambda self, *a: _is_pinned(_held(self))
    import torch.optim.optimizer as optimizers
    import torch.utils._foreach_utils as foreach

    for module in (foreach, optimizers):
        supported = getattr(module, "_foreach_supported_types", None)
        if supported is not None and Emulated not in supported:
            supported.append(Emulated)
    torch.nn.functional.scaled_dot_product_attention = _scaled_dot_product  # type: ignore[assignment]
    for name in ("tensor", "empty"):
        setattr(torch, name, _made_on_host(getattr(torch, name)))


def _pin(self: torch.Tensor, *ignored: Any) -> torch.Tensor:
    if isinstance(self, Emulated):
        raise RuntimeError("cannot pin a tensor of cuda")
    if _is_pinned(self):
        return self
    out = torch.empty_strided(self.size(), self.stride(), dtype=self.dtype).copy_(self)  # with the strides, as torch does
    _pinned[out.untyped_storage().data_ptr()] = out.untyped_storage()
    return out


def _made_on_host(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.tensor`` or ``torch.empty`` for both devices; the first copies values from the host, the second pins."""

    def made(*args: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            out = original(*args, **options) if device is None else original(*args, device=device, **options)
            return _pin(out) if pin_memory else out
        if original.__name__ == "empty":
            return original(*args, device=device, **options)
        return original(*args, **options).to(device)

    return made
