"""Tables of what a command would pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mvad.datasets.scan import SampleRef
    from mvad.datasets.shards.contents import SplitCounts


def plain_table(title: str, *columns: str) -> Table:
    """Return an empty table of some columns."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(Text(name), overflow="fold", no_wrap=name in ("category", "n"))
    return table


def contents_table(rows: Sequence[SplitCounts]) -> Table:
    """Return the splits to be packed; with counts per view where they are known without opening images."""
    views = list(dict.fromkeys(view for row in rows for view in row.anomalous_views))
    table = plain_table("To pack; bad: samples with a defect" + (", then views that show it" if views else ""), "category")
    table.add_column("split", no_wrap=True)
    for name in ("n", "images", "bad", *views):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        counts = [str(row.anomalous_views.get(view, "")) for view in views]
        table.add_row(
            Text(f"{row.dataset}/{row.category}"), row.split, str(row.samples), str(row.images), str(row.anomalous), *counts
        )
    return table


def parts_table(category: str, samples: Sequence[SampleRef]) -> Table:
    """Return photographed parts by split and defect: how many, the pictures of each view, and their masks."""
    from mvad.datasets.photographs.framing import view_names
    from mvad.datasets.scan import SPLITS

    views = view_names(samples)
    table = plain_table(f"{category}: parts, pictures of each view, masks", "split", "defect")
    for name in ("parts", *views, "masks"):
        table.add_column(Text(name), justify="right")
    groups: dict[tuple[int, str, str], list[SampleRef]] = {}
    for sample in samples:
        groups.setdefault((SPLITS.index(sample.split), sample.split, sample.defect), []).append(sample)
    for (_, split, defect), members in sorted(groups.items()):
        pictures = [view for sample in members for view in sample.views]
        counts = [sum(view.camera == name for view in pictures) for name in views]
        masks = sum(view.mask is not None for view in pictures)
        table.add_row(Text(split), Text(defect), str(len(members)), *map(str, counts), str(masks))
    return table
