"""Verification of all files of a workspace: renders, shards, exports, runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvad.datasets.verify import DATA_RULES, Fault, verify_tree
from mvad.datasets.verify_inputs import verify_inputs
from mvad.errors import BadInput
from mvad.model.verification import RUN_RULES
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress


def verify_workspace(
    paths: Sequence[Path], progress: Progress, trusted: bool = True, workspace: Workspace | None = None, raw: Path | None = None
) -> tuple[int, list[Fault]]:
    """Check folders or files of a workspace; see ``verify_tree``.

    Parameters
    ----------
    paths, progress, trusted
        See ``verify_tree``.
    workspace, raw
        If both are given, raw files are also compared with the hashes taken when they were rendered or packed; ``raw`` holds
        one folder per dataset.

    Returns
    -------
    tuple
        Number of files checked, and the faults.

    Raises
    ------
    BadInput
        If a path does not exist.
    """
    checked, faults = verify_tree(paths, progress, trusted, (DATA_RULES, RUN_RULES))
    if raw is not None and workspace is not None:
        try:
            compared, changed = verify_inputs(workspace.renders, workspace.shards, raw, progress)
        except BadInput as error:
            if not faults:
                raise
            compared, changed = 0, [Fault(str(error), raw, "other", raw)]  # with what was found before
        checked, faults = checked + compared, faults + changed
    return checked, faults
