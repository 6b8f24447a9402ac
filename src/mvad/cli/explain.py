"""``mvad explain``: documentation of a configuration key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mvad.model.explain import Explanation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain", epilog="Example: mvad explain bottleneck.channels")(explain)


def explain(
    key: Annotated[str | None, typer.Argument(help="A key of mvad train, render or pack. Default: list all keys.")] = None,
) -> None:
    """Explain a key: what the paper says, the default and its reason, alternatives, presets and methods that change it."""
    from mvad.cli.console import console_on_stdout, print_table
    from mvad.cli.tables import choices_table
    from mvad.pipeline.explain import all_explanations, explanations_of

    console = console_on_stdout()
    if key is None:
        for verb, explanations in all_explanations().items():
            print_table(console, choices_table(verb, explanations))
        return
    for verb, explanation in explanations_of(key):
        _print(console, verb, explanation)


def _print(console: Console, verb: str, explanation: Explanation) -> None:
    lines = [("key of", f"mvad {verb}")]
    lines += [("paper", explanation.paper), ("default", _shown(explanation.default)), ("why", explanation.why)]
    lines += [("allowed", ", ".join(explanation.allowed)), ("alternatives", explanation.alternatives)]
    lines += [(origin, _shown(value)) for origin, value in explanation.set_by.items()]
    width = max(len(name) for name, _ in lines)
    console.print(explanation.name, style="bold", markup=False, soft_wrap=True)
    for name, text in lines:
        if text:
            console.print(f"  {name.ljust(width)}  {text}", markup=False, soft_wrap=True)


def _shown(value: object) -> str:
    return "none" if value in ((), [], "") else str(value)
