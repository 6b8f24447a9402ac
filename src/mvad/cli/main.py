"""The program ``mvad``: its commands, and the conversion of errors to messages and exit codes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import typer
import typer.core

from mvad.cli import (
    doctor,
    evaluate,
    explain,
    export,
    import_maps,
    inspect,
    pack,
    predict,
    render,
    report,
    reproduce,
    serve,
    status,
    synth,
    train,
    verify,
    watch,
)
from mvad.cli.streams import outlive_readers
from mvad.errors import DEVICE_REMEDIES, BadInput, MissingComponent, MvadError
from mvad.model.config import ONE_ORDER
from mvad.model.registry import PLUGINS
from mvad.settings import RenamedKey

_SUMMARIES = {
    "synth": "Generate a small dataset in a published on-disk format.",
    "render": "Render scans or meshes to views; continues where it stopped.",
    "pack": "Pack renders and photographs into HDF5 shards.",
    "train": "Train IDIF, an ablation or a baseline, per category.",
    "evaluate": "Evaluate runs on their test splits.",
    "report": "Write one HTML page on evaluated runs.",
    "reproduce": "Reproduce a table of the paper, with ours beside it.",
    "predict": "Score new photographs, scans or shards.",
    "watch": "Decide on parts as they arrive in a folder.",
    "serve": "Decide on parts over HTTP.",
    "status": "List what a workspace holds.",
    "inspect": "Show the content of a shard.",
    "verify": "Check every stored byte; --repair rebuilds what is damaged.",
    "export": "Export views as pictures, or a detector as ONNX.",
    "import": "Evaluate another tool's maps of exported views.",
    "explain": "Explain a key: what the paper says, the choice, the reason.",
    "doctor": "Check what works on this machine.",
}
"""One line for each command, in the order in which ``mvad --help`` lists them."""


class _InOrder(typer.core.TyperGroup):
    """Commands in the order of the work, not of their registration."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=list(_SUMMARIES).index)


app = typer.Typer(
    name="mvad",
    cls=_InOrder,
    context_settings={"max_content_width": 110},
    help="Multi-view anomaly detection: render scans into views, pack shards, train IDIF and its baselines, evaluate, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Example: mvad synth mvtec3d, then mvad render mvtec3d, mvad pack, mvad train --textures procedural, mvad evaluate, mvad report. Each command has its own --help.",
)
for verb in (
    synth,
    render,
    pack,
    inspect,
    verify,
    export,
    train,
    evaluate,
    import_maps,
    predict,
    watch,
    serve,
    reproduce,
    report,
    status,
    explain,
    doctor,
):
    verb.register(app)
for _registered in app.registered_commands:
    _registered.short_help = _SUMMARIES[str(_registered.name)]
for _added in app.registered_groups:
    _added.short_help = _SUMMARIES[str(_added.name)]


def _home_resolved(value: Any) -> Any:
    """Return a path of an option with the home in the place of ``~``, which the shell leaves in ``--raw=~/x`` and in variables."""
    if isinstance(value, list):
        return [_home_resolved(each) for each in value]
    if not isinstance(value, Path) or not str(value).startswith("~"):
        return value
    found = Path(os.path.expanduser(value))
    if str(found).startswith("~") and not found.exists():
        raise typer.BadParameter(f"{value}: no home folder is known for {value.parts[0]}; give the whole path")
    return found


def _with_paths(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def called(**given: Any) -> None:
        command(**{name: _home_resolved(value) for name, value in given.items()})

    return called


for _group in (app, *(each.typer_instance for each in app.registered_groups)):
    for _command in (*(_group or app).registered_commands, *((_group or app).registered_callback,)):
        if _command is not None and _command.callback is not None:
            _command.callback = _with_paths(_command.callback)

_TERMINATED = 143
_INTERRUPTED = 130
_state = {"debug": False, "terminated": False}


def _version(requested: bool) -> None:
    if requested:
        from mvad import __version__

        typer.echo(f"mvad {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    _state["debug"] = debug


def _terminate(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as an interruption with another exit code; a second one ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _state["terminated"] = True
    raise KeyboardInterrupt


@contextlib.contextmanager
def _notices_in_one_line() -> Iterator[None]:
    """Show notices on renamed keys as lines of this command; other warnings as Python does."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
            line: str | None = None,
        ) -> None:  # fmt: skip
            if issubclass(category, RenamedKey):
                print(f"mvad: notice: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _import_plugins() -> None:
    """Import the modules that ``MVAD_PLUGINS`` names; they register methods, datasets or metrics."""
    for name in filter(None, os.environ.get(PLUGINS, "").split(",")):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BadInput(f"{PLUGINS}: {name} cannot be imported ({error}); name modules on PYTHONPATH") from error


def _in_one_line(error: MvadError | OSError) -> str:
    """Return the message of an error; one of the operating system that nothing expected has the file that it is about."""
    if isinstance(error, MvadError):
        return str(error)
    if error.filename is None:
        return f"{error.strerror or error}; mvad --debug shows where"
    return f"{os.fsdecode(error.filename)}: {error.strerror}; mvad --debug shows what needed it"


def run() -> None:
    """Run the command line; never returns."""
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault(*ONE_ORDER)
    outlive_readers()
    try:
        _import_plugins()
        with _notices_in_one_line():
            app(prog_name="mvad")
    except (MvadError, OSError) as error:
        if _state["debug"]:
            raise
        print(f"mvad: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(_TERMINATED if _state["terminated"] else getattr(error, "exit_code", BadInput.exit_code))
    except RuntimeError as error:
        remedy = DEVICE_REMEDIES.get(type(error).__name__)
        if remedy is None or _state["debug"]:
            raise
        print(f"mvad: {str(error).splitlines()[0]}; {remedy}", file=sys.stderr)
        sys.exit(MissingComponent.exit_code)
    except KeyboardInterrupt:
        sys.exit(_TERMINATED if _state["terminated"] else _INTERRUPTED)
    except SystemExit as leaving:
        if _state["terminated"] and leaving.code == _INTERRUPTED:
            sys.exit(_TERMINATED)
        raise


if __name__ == "__main__":
    run()
