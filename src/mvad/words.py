"""Words: counted nouns, names of folders, and the error for a name that does not exist, with those that are most like it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mvad.errors import UnknownName


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    Examples
    --------
    >>> counted(1, "scan"), counted(2, "scan"), counted(0, "category")
    ('1 scan', '2 scans', '0 categories')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def share(part: int, whole: int, noun: str) -> str:
    """Return how many of some things are something, with the verb.

    Examples
    --------
    >>> share(1, 3, "category"), share(2, 3, "category")
    ('1 of 3 categories is', '2 of 3 categories are')
    """
    return f"{part} of {counted(whole, noun)} {'is' if part == 1 else 'are'}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that are most like a name, upper and lower case alike, the nearest first.

    Examples
    --------
    >>> nearest("Tabel1", ["table1", "table2", "missing-views"])
    ['table1', 'table2']
    """
    by_lower = {other.lower(): other for other in known}
    return [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, 3, 0.55)]


def no_such(where: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownName:
    """Return the error for a name that is none of the known ones; its line names the nearest, then all.

    Parameters
    ----------
    where
        The option or place that holds the name, such as ``--preset``.
    name, known
        The name, and the names that exist.
    remedy
        What to do where none of them is meant.

    Examples
    --------
    >>> print(no_such("--preset", "smal", ["paper", "small"]))
    --preset smal: did you mean small? choose from paper, small
    """
    names = list(known)
    near = nearest(name, names)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return UnknownName(f"{where} {name}: {meant}choose from {', '.join(names)}" + (f"; {remedy}" if remedy else ""))


def check_known(where: str, names: Iterable[str] | None, known: Iterable[str], remedy: str = "") -> None:
    """Check that all names are known ones.

    Raises
    ------
    UnknownName
        If one is not; see ``no_such``.
    """
    there = list(dict.fromkeys(known))
    for name in names or ():
        if name not in there:
            raise no_such(where, name, there, remedy)


def folder_name(text: str) -> str:
    """Return a text as the name of one folder: what cannot stand in a name, or would hide the folder, becomes a hyphen.

    Examples
    --------
    >>> folder_name("M3DM w/o UFF"), folder_name(" .. ")
    ('M3DM w-o UFF', '-')
    """
    kept = "".join("-" if letter in "/\\" or not letter.isprintable() else letter for letter in text.strip())
    return kept if kept and not kept.startswith(".") else f"-{kept.lstrip('.')}"
