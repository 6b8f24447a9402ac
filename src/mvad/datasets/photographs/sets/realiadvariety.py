"""Reader of Real-IAD Variety (Zhu et al. 2025): five photographs of each part, 160 categories, listed in JSON splits.

    realiadvariety_jsons/<category>.json               or realiadvariety_jsons/Real-IAD_Variety_jsons/<category>.json
    realiadvariety_1024/<category>/{OK/Sdddd, NG/<class>/Sdddd}/...      scaled pictures, used if present
    realiadvariety_raw/<category>/...                  or realiadvariety_raw/<category>/<category>/..., as the archives unpack

The JSON files have Real-IAD's format, with names relative to the category's folder. Pictures may have any size and need not be
square. A part of a defective class may have pictures without a mask. If another of its pictures has a mask, these views do not
show the defect. If none has, the part counts as anomalous in all views, and packing says so; published loaders treat it as normal.
There is no validation split.
"""

from __future__ import annotations

from pathlib import Path

from mvad.datasets import realiad
from mvad.datasets.folders import visible
from mvad.datasets.own.options import NOT_STATED
from mvad.datasets.photographs.layouts import Layout, Listing
from mvad.datasets.photographs.sets.protocol import refuse_archive
from mvad.errors import BadInput

JSON_FOLDERS = ("realiadvariety_jsons", "realiadvariety_jsons/Real-IAD_Variety_jsons")
IMAGE_FOLDERS = ("realiadvariety_1024", "realiadvariety_raw")
"""Folders of pictures; the first that holds a category is taken."""


class RealIADVariety:
    """Reader of Real-IAD Variety."""

    name = "realiadvariety"
    licence = NOT_STATED
    modalities: tuple[str, ...] = ("rgb",)
    known_categories: tuple[str, ...] = ()
    views = 5
    layout = Layout(r"(?P<sample>.+)_(?P<view>C\d+)(?:_[^/]*)?\.[A-Za-z]+")
    picture_size: tuple[int, int] | None = None

    def categories(self, raw: Path) -> list[str]:
        """Return the categories that have a JSON file, sorted.

        Raises
        ------
        BadInput
            If there are pictures, and no JSON file.
        """
        names = sorted({path.stem for folder in JSON_FOLDERS for path in visible((raw / folder).glob("*.json"))})
        if not names and any((raw / folder).is_dir() for folder in (*IMAGE_FOLDERS, JSON_FOLDERS[0])):
            refuse_archive([raw, raw / JSON_FOLDERS[0]], JSON_FOLDERS[0])
            raise BadInput(f"{raw / JSON_FOLDERS[0]}: no split file; --raw must hold {JSON_FOLDERS[0]}/<category>.json")
        return names

    def listing(self, raw: Path, category: str) -> Listing:
        """See ``PhotographSet.listing``.

        Raises
        ------
        BadInput
            If the JSON file is missing or of another form, or the category's pictures are not there.
        """
        places = [raw / folder / f"{category}.json" for folder in JSON_FOLDERS]
        split_file = next((path for path in places if path.exists()), places[0])
        if not split_file.exists():
            refuse_archive([raw], JSON_FOLDERS[0])
            raise BadInput(f"{split_file}: not found; download {JSON_FOLDERS[0]} and unpack it there")
        base = self._pictures(raw, category)
        return Listing(realiad.listed(split_file, self.name, category, lambda prefix: base, lenient=True))

    def _pictures(self, raw: Path, category: str) -> Path:
        """Return the folder of a category's pictures."""
        for folder in IMAGE_FOLDERS:
            found = raw / folder / category
            if found.is_dir():
                return found / category if (found / category).is_dir() else found
        refuse_archive([raw / folder for folder in IMAGE_FOLDERS], category)
        raise BadInput(f"{raw / IMAGE_FOLDERS[-1] / category}: not found; download {category}.zip and unpack it there")


SET = RealIADVariety()
