"""A loop over the parts of a job, in which a part that fails does not end the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mvad.errors import DEVICE_REMEDIES, OUT_OF_MEMORY, BadInput, MissingComponent, PartlyDone, UnknownName


class Failures:
    """Counts the parts that fail, and tells why each did.

    An error ends the loop all the same where it would come again for every part: the job has one part only; a name does not
    exist; the disk is full; or parts of two groups fail with the same words before any part succeeds: words that name nothing of them.
    Where all parts are of one group, two parts suffice.

    Parameters
    ----------
    parts, groups
        Number of parts of the job, and of the groups that they are in; None: each part is a group.
    tell
        Receives one line for each part that fails.
    names_are_general
        Whether a name that does not exist is one that all parts use.

    Examples
    --------
    >>> failures = Failures(3, print)
    >>> for part in ("a", "b", "c"):
    ...     with failures.of(part):
    ...         if part == "b":
    ...             raise BadInput("b.h5: is damaged; pack it again")
    failed: b: b.h5: is damaged; pack it again
    >>> failures.count, failures.done
    (1, 2)
    """

    def __init__(
        self, parts: int, tell: Callable[[str], None], names_are_general: bool = True, groups: int | None = None
    ) -> None:
        self.parts, self.count, self.done = parts, 0, 0
        self._one_group = groups == 1
        self._tell, self._names_are_general = tell, names_are_general
        self._groups: dict[str, str] = {}

    @contextlib.contextmanager
    def of(self, part: str, group: str = "") -> Iterator[None]:
        """Run the body of a ``with`` statement for one part; its error is told and counted, or raised where it ends the loop.

        Parameters
        ----------
        part
            Name of the part in the line on its error.
        group
            What several parts share, such as the category of several methods: they may fail with the same words. Default: the part.

        Raises
        ------
        BadInput, MissingComponent, RuntimeError
            Where the error would come again for every part. Of the errors of a device only lack of memory is counted.
        """
        try:
            yield
        except (BadInput, MissingComponent) as error:
            if self._is_general(error, group or part):
                raise
            self._count(part, str(error))
        except RuntimeError as error:
            if self.parts == 1 or type(error).__name__ != OUT_OF_MEMORY:
                raise
            self._count(part, f"{str(error).splitlines()[0]}; {DEVICE_REMEDIES[OUT_OF_MEMORY]}")
        else:
            self.done += 1

    def raise_if_any(self, message: str) -> None:
        """Raise the error for a job of which some parts failed.

        Raises
        ------
        PartlyDone
            If a part failed.
        """
        if self.count:
            raise PartlyDone(f"{message}; see the messages above")

    def _is_general(self, error: BadInput | MissingComponent, group: str) -> bool:
        if self.parts == 1 or getattr(error, "is_general", False):
            return True
        if isinstance(error, UnknownName) and self._names_are_general:
            return True
        is_second = str(error) in self._groups
        return self.done == 0 and (self._groups.setdefault(str(error), group) != group or (is_second and self._one_group))

    def _count(self, part: str, message: str) -> None:
        self.count += 1
        self._tell(f"failed: {part}: {message}")
