"""``mvad explain``: documentation of a configuration key."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain", epilog="Example: mvad explain bottleneck.channels")(explain)


def explain(key: Annotated[str | None, typer.Argument(help="A key of training. Default: list all keys.")] = None) -> None:
    """Explain a key: what the paper says, the default and its reason, alternatives, presets and methods that change it."""
    from rich.console import Console

    from mvad.cli.tables import choices_table
    from mvad.model.explain import FIXED
    from mvad.model.explain import explain as explanation_of
    from mvad.model.registry import all_keys

    console = Console(highlight=False)
    if key is None:
        console.print(choices_table([explanation_of(name) for name in (*all_keys(), *FIXED)]))
        return
    explanation = explanation_of(key)
    lines = [("paper", explanation.paper), ("default", _shown(explanation.default)), ("why", explanation.why)]
    lines += [("allowed", ", ".join(explanation.allowed)), ("else", explanation.alternatives)]
    lines += [(origin, _shown(value)) for origin, value in explanation.set_by.items()]
    width = max(len(name) for name, _ in lines)
    console.print(explanation.name, style="bold", markup=False)
    for name, text in lines:
        if text:
            console.print(f"  {name.ljust(width)}  {text}", markup=False, soft_wrap=True)


def _shown(value: object) -> str:
    return "none" if value in ((), [], "") else str(value)
