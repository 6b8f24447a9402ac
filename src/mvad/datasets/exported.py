"""Format of an export: one table per view, and a record of the export's options (``docs/exchange.md``)."""

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
"""Columns of the table; anomalib's ``Tabular`` reads the first four. Paths are relative to the view's folder."""


def read_export(folder: Path) -> dict[str, Any]:
    """Return the record of an export.

    Raises
    ------
    BadInput
        If the folder is not an export, or its record is damaged.
    """
    return files.read_sealed_json(folder / FACTS, 'an export; "mvad export" writes it', "remove the folder and export again")


def read_table(folder: Path, view: str) -> list[dict[str, str]]:
    """Return the rows of a view's table; empty where no sample has the view.

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
