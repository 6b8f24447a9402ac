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

app = typer.Typer(
    name="mvad",
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
    for _registered in (*(_group or app).registered_commands, *((_group or app).registered_callback,)):
        if _registered is not None and _registered.callback is not None:
            _registered.callback = _with_paths(_registered.callback)

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
