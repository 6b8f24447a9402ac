"""Export of a trained detector to one ONNX file, whose outputs in onnxruntime are compared with those of torch."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvad import __version__, files
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput, MissingComponent
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import Detector
from mvad.model.devices import float32_only
from mvad.model.evaluation.data import check_training
from mvad.model.runs import RunFolder
from mvad.progress import Progress

OPSET = 20
"""The first opset with three-dimensional GridSample, which the spatial transformer uses to rotate the voxel."""

TOLERANCE = 2e-3
"""Largest difference between onnxruntime and torch at which a file is written, as a share of the largest absolute output, or of
the location of normal scores in deviations where that is larger.
Sums in another order in float32 give about 1e-5."""

_CHECKED = 8
_FIELDS = {"rgb": "rgb", "normal": "normal", "depth": "depth_code"}


@dataclass(frozen=True)
class OnnxExport:
    """Description of an exported file and its inputs and outputs; written beside it as JSON.

    Attributes
    ----------
    run, model, model_sha256
        The run, its method, and the SHA-256 of its model.
    onnx_sha256, opset, mvad_version, torch
        SHA-256 of the file, and the versions that made it.
    views, size
        Number of views, and their side in pixels.
    inputs
        ``shape`` and ``dtype`` of each input, by name.
    outputs
        Names of the outputs, in order.
    depth_metres
        Formula from depth codes to metres, or None.
    checked
        ``samples`` and ``largest_difference`` of the comparison of torch and onnxruntime, as for ``TOLERANCE``.
    """

    run: str
    model: str
    model_sha256: str
    onnx_sha256: str
    opset: int
    mvad_version: str
    torch: str
    views: int
    size: int
    inputs: Mapping[str, Any]
    outputs: Sequence[str]
    depth_metres: str | None
    checked: Mapping[str, float]


def export_onnx(run: Path, shards: Path, target: Path, weights: WeightsSource, progress: Progress) -> OnnxExport:
    """Write ``target`` (.onnx) and ``target``.json, which describes inputs and outputs (``OnnxExport``).

    Inputs are one sample with all views as in the shards: ``rgb`` and ``normal`` (1, V, H, W, 3) uint8, ``depth``
    (1, V, H, W) int32 codes, ``seen`` (1, V, H, W) bool. Outputs are ``maps`` (1, V, S, S), ``view_scores`` (1, V),
    -inf where no pixel of a view counts, ``sample_scores`` (1,), and for a detector with a window ``fits`` (1,) bool: false where the object is larger than any in
    training, so that only a part of it is scored. The graph computes in float32 whatever the training's precision was.

    Raises
    ------
    BadInput
        If the run is not finished, its method cannot be exported, or the outputs of the exported detector differ.
    MissingComponent
        If onnx or onnxruntime are not installed.
    """
    absent = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingComponent(
            f"mvad export --format onnx needs {absent[0]}; pip install onnx onnxscript onnxruntime (the extra mvad[onnx])"
        )
    folder = RunFolder(run)
    detector, method = folder.load(weights, torch.device("cpu")), folder.record.model
    packed = folder.category_folder(shards)
    check_training(folder, packed)
    data = ShardSet(packed, "test", fields=detector.spec.modalities)
    samples = _whole_samples(data, detector.spec.views)
    graph = _Graph(detector, samples[0]).eval().requires_grad_(False)
    inputs = [_inputs(sample, detector.spec.modalities) for sample in samples]
    names = [*detector.spec.modalities, "seen"]
    outputs = ["maps", "view_scores", "sample_scores", *(["fits"] if graph.windowed else [])]
    progress.say(f"{folder.name}: exporting {method}")
    with tempfile.TemporaryDirectory() as scratch, float32_only():
        path = Path(scratch) / "model.onnx"
        _trace(graph, inputs[0], path, names, outputs, method)
        content = path.read_bytes()
        worst, compared = _compare(content, graph, inputs, names, outputs, progress, method)
    shapes = {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in zip(names, inputs[0], strict=True)
    }
    about = OnnxExport(
        folder.name, method, folder.model_sha256, files.sha256_bytes(content), OPSET, __version__, torch.__version__,
        detector.spec.views, data.size, shapes, outputs, _depth_formula(data),
        {"samples": compared, "largest_difference": worst},
    )  # fmt: skip
    files.write_bytes(target, content)
    files.write_sealed_json(target.with_name(target.name + ".json"), about.__dict__)
    return about


def _depth_formula(data: ShardSet) -> str | None:
    if data.coding is None:
        return None
    return f"{data.coding.offset_m!r} + {data.coding.step_m!r} * (code - 1); code 0 is nothing"


class _Graph(nn.Module):
    """Module from input tensors to a detector's outputs; the other fields of a batch are constant."""

    def __init__(self, detector: Detector, like: Batch) -> None:
        super().__init__()
        self.detector, self.like = detector, like
        self.windowed = detector.fits(like.seen) is not None
        self.parts = nn.ModuleList(detector.modules())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs; the inputs are the modalities in order, then ``seen``."""
        seen, spec = inputs[-1], self.detector.spec
        fields: dict[str, Any] = dict.fromkeys(("rgb", "depth_code", "normal"))
        fields |= {_FIELDS[name]: tensor for name, tensor in zip(spec.modalities, inputs[:-1], strict=True)}
        batch = Batch(
            keys=("",), defects=("",), mask=torch.zeros_like(seen, dtype=torch.uint8), seen=seen, source=None,
            present=torch.ones(1, spec.views, dtype=torch.bool), view_label=torch.zeros(1, spec.views, dtype=torch.bool),
            label=torch.zeros(1, dtype=torch.bool), coding=self.like.coding, **fields,
        )  # fmt: skip
        scored = self.detector.score(batch)
        outputs: tuple[Tensor, ...] = (scored.maps, scored.view_scores, scored.sample_scores)
        fits = self.detector.fits(seen)
        return outputs if fits is None else (*outputs, fits)


def _inputs(sample: Batch, modalities: Sequence[str]) -> tuple[Tensor, ...]:
    tensors = [getattr(sample, _FIELDS[name]) for name in modalities]
    return (*(t.to(torch.int32) if t.dtype == torch.uint16 else t for t in tensors), sample.seen)


def _whole_samples(data: ShardSet, views: int) -> list[Batch]:
    """Return up to 8 samples that have all views, evenly spread over the split."""
    whole = np.flatnonzero(data.present.all(axis=1))
    if not len(whole):
        raise BadInput(f"{data.folder}: no test sample has all {views} views to check the exported detector with")
    rows = np.unique(np.linspace(0, len(whole) - 1, min(len(whole), _CHECKED)).round().astype(int))
    return [data.batch([int(row)]) for row in whole[rows]]


def _trace(
    graph: _Graph, inputs: tuple[Tensor, ...], path: Path, names: Sequence[str], outputs: Sequence[str], method: str
) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about constants, which are intended, and about the exporter being the older one
            torch.onnx.export(
                graph, inputs, str(path), dynamo=False, opset_version=OPSET, input_names=list(names), output_names=list(outputs)
            )
    except Exception as error:  # the exporter raises many kinds
        raise BadInput(f"--format onnx: {method} cannot be exported ({_short(error)})") from error


def _compare(
    content: bytes, graph: _Graph, inputs: Sequence[tuple[Tensor, ...]], names: Sequence[str], outputs: Sequence[str],
    progress: Progress, method: str,
) -> tuple[float, int]:  # fmt: skip
    """Return the largest difference between torch and onnxruntime as a share, see ``TOLERANCE``, and of how many samples."""
    import onnxruntime

    progress.start("check with onnxruntime", len(inputs))
    worst, compared, scale_of_scores = 0.0, 0, graph.detector.scale
    # Standardising takes the location away, but not the rounding errors of scores that are as large as it.
    removed = 0.0 if scale_of_scores is None else float((scale_of_scores.location / scale_of_scores.deviation).abs().max())
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for tensors in inputs:
            exported = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
            with torch.no_grad():
                expected = [output.numpy() for output in graph(*tensors)]
            progress.advance()
            if "fits" in outputs and not expected[-1].all():
                continue  # torch scores the whole image then
            compared += 1
            for actual, reference in zip(exported[:3], expected[:3], strict=True):
                known = np.isfinite(reference)  # a view without an object has the score -inf
                if not np.array_equal(known, np.isfinite(actual)):
                    worst = np.inf
                    continue
                scale = max(float(np.abs(reference[known]).max(initial=0)), removed, 1e-6)
                worst = max(worst, float(np.abs(actual[known] - reference[known]).max(initial=0)) / scale)
    except Exception as error:  # onnxruntime raises many kinds
        raise BadInput(f"--format onnx: {method} cannot be run by onnxruntime ({_short(error)})") from error
    if not compared:
        raise BadInput(
            f"--format onnx: no test sample fits the head's window to check {method} with, since all are larger than those of training; the "
            "file was not written"
        )
    if not worst <= TOLERANCE:
        raise BadInput(
            f"--format onnx: {method} gives other outputs as ONNX (they differ by {worst:.2g} of the range); the file was not written"
        )
    return worst, compared


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
