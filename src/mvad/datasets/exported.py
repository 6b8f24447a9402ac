"""The format of an export: the table of each view, and what the export records of itself (``docs/exchange.md``)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from mvad import files
from mvad.errors import BadInput

TABLE = "samples.csv"
FACTS = "export.json"
COLUMNS = ("image_path", "label_index", "split", "mask_path", "key", "view", "defect", "sample_label")
"""The first four are what anomalib's ``Tabular`` reads; paths are relative to the view's folder."""


def read_export(folder: Path) -> dict[str, Any]:
    """Read what an export says of itself.

    Raises
    ------
    BadInput
        If the folder is no export.
    """
    return files.read_sealed_json(folder / FACTS, 'an export; "mvad export" writes it', "remove the folder and export again")


def read_table(folder: Path, view: str) -> list[dict[str, str]]:
    """Return the rows of a view's table, or none where no sample has the view.

    Raises
    ------
    BadInput
        If the table is damaged.
    """
    path = files.below(folder, view) / TABLE
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not readable as a table ({error}); export again") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise BadInput(f"{path}: expected the columns {', '.join(COLUMNS)}; export again")
    return rows
