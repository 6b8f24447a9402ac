"""Templates of the pages, which share one head: style, theme, and a policy that forbids network access."""

from __future__ import annotations

from importlib import resources
from string import Template


def text_of(name: str) -> str:
    """Return the text of a file of this package."""
    return (resources.files("mvad.model.report") / name).read_text(encoding="utf-8")


def filled(name: str, title: str, **values: str) -> str:
    """Return a page: a template with its head, whose title is escaped already, and other values in their places."""
    head = Template(text_of("head.html")).substitute(title=title)
    return Template(text_of(name)).substitute(head=head, **values)
