"""``mvad export``: write views as folders of pictures for other tools, or a detector as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Offline, TeacherWeights, WorkspaceFolder, refuse_without_effect
from mvad.pipeline.workspace import Workspace, packed_categories

if TYPE_CHECKING:
    from mvad.cli.console import Bars
    from mvad.model.backbones.weights import WeightsSource


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog="Example: mvad export --layout anomalib --category cable_gland --out exports")(export)


def export(
    run: Annotated[Path | None, typer.Argument(help="With --format onnx: folder of the trained run.")] = None,
    format_: Annotated[str, typer.Option("--format", help="pictures, or onnx: a trained detector as one file.")] = "pictures",
    layout: Annotated[str | None, typer.Option(help="mvtec-ad (default) or anomalib; see docs/exchange.md.")] = None,
    modality: Annotated[str | None, typer.Option(help="rgb (default), normal or depth (8 bits, near is bright).")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; repeatable.")] = None,
    category: Category = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Folder of a packed or rendered category; repeatable. Default: the shards."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Default: exports/LAYOUT-MODALITY in the workspace, or RUN/model.onnx.")
    ] = None,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
) -> None:
    """Write one folder of pictures per view, for detectors of other tools; or, with --format onnx, a run's detector."""
    from mvad.cli.console import Bars
    from mvad.datasets.export import export as write
    from mvad.datasets.export import source_of
    from mvad.errors import BadInput
    from mvad.model.backbones.weights import WeightsSource
    from mvad.words import no_such

    places = Workspace(workspace)
    if format_ == "onnx":
        if run is None:
            raise BadInput("--format onnx: name the run, as in mvad export RUN --format onnx")
        of_pictures = {"--layout": layout, "--modality": modality, "--dataset": dataset, "--category": category, "--from": source}
        refuse_without_effect(of_pictures, True, "--format onnx; leave it out")
        with Bars() as bars:
            _onnx(run, places, out or run / "model.onnx", WeightsSource(teacher_weights, places.weights, offline), bars)
        return
    if format_ != "pictures":
        raise no_such("--format", format_, ("pictures", "onnx"))
    if run is not None:
        raise BadInput(f"{run}: a run has no effect on pictures; add --format onnx, or leave it out")
    folders = source or packed_categories(places.shards, dataset, category)
    layout, modality = layout or "mvtec-ad", modality or "rgb"
    target = out or workspace / "exports" / f"{layout}-{modality}"
    with Bars() as bars:
        for folder in folders:
            bars.tell(f"exported {write(source_of(folder), target, layout, modality, bars)}")


def _onnx(run: Path, places: Workspace, target: Path, weights: WeightsSource, bars: Bars) -> None:
    from mvad.model.exchange.onnx import export_onnx
    from mvad.words import counted

    checked = export_onnx(run, places.shards, target, weights, bars).checked
    bars.tell(
        f"written: {target}; on {counted(int(checked['samples']), 'sample')} onnxruntime differs from torch by {checked['largest_difference']:.1e} of the range"
    )
