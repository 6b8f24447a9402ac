"""``mvad explain``: what the paper says of a key, what we chose, why, and what else there is."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain", epilog="Example: mvad explain bottleneck.channels")(explain)


def explain(key: Annotated[str | None, typer.Argument(help="A key of training; none lists all.")] = None) -> None:
    """Explain a choice: the paper's words, the default and its reason, the alternatives, who changes it."""
    from rich.console import Console

    from mvad.cli.tables import choices_table
    from mvad.model.explain import FIXED
    from mvad.model.explain import explain as explanation_of
    from mvad.model.registry import all_keys

    console = Console(highlight=False)
    if key is None:
        console.print(choices_table([explanation_of(name) for name in (*all_keys(), *FIXED)]))
        return
    found = explanation_of(key)
    lines = [("paper", found.paper), ("default", _shown(found.default)), ("why", found.why)]
    lines += [("allowed", ", ".join(found.allowed)), ("else", found.alternatives)]
    lines += [(who, _shown(value)) for who, value in found.set_by.items()]
    width = max(len(name) for name, _ in lines)
    console.print(found.name, style="bold", markup=False)
    for name, text in lines:
        if text:
            console.print(f"  {name.ljust(width)}  {text}", markup=False, soft_wrap=True)


def _shown(value: object) -> str:
    return "none" if value in ((), [], "") else str(value)
