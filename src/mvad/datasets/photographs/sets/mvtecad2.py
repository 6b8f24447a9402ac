"""Reader of MVTec AD 2 (Heckler-Kram et al. 2025): one photograph of each part, under several lights.

    <category>/{train,validation}/good/NNN_regular.png
    <category>/test_public/{good,bad}/NNN_<light>.png
    <category>/test_public/ground_truth/bad/NNN_<light>_mask.png
    <category>/{test_private,test_private_mixed}/*.png

The parts of the private test sets have no labels. They are packed as the split ``private``, on which no figures are computed; the
names of parts of ``test_private_mixed`` get the prefix ``mixed_``. Figures on these parts come from the publisher's evaluation
server.
"""

from __future__ import annotations

from pathlib import Path

from mvad.datasets.folders import below
from mvad.datasets.photographs.layouts import ONE_VIEW, Listing, is_picture
from mvad.datasets.photographs.sets.mvtecad import MVTEC_LICENCE
from mvad.datasets.photographs.sets.protocol import TreeSet
from mvad.datasets.scan import UNKNOWN, ImageRef, SampleRef
from mvad.words import counted

_PRIVATE = {"test_private": "", "test_private_mixed": "mixed_"}
"""Folders without labels, and the prefix of the names of their parts."""


class MVTecAD2(TreeSet):
    """Reader of MVTec AD 2."""

    name = "mvtecad2"
    licence = MVTEC_LICENCE
    known_categories = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
    splits = ("train", "validation", "test")
    skipped = tuple(_PRIVATE)

    def add_more(self, root: Path, category: str, listing: Listing) -> None:
        """Add the parts of the private tests."""
        count = 0
        for name, prefix in _PRIVATE.items():
            folder = root / name
            for path in sorted(below(folder)) if folder.is_dir() else ():
                if is_picture(path, folder):
                    views = [ImageRef(ONE_VIEW, path, None, UNKNOWN)]
                    part = f"{prefix}{path.relative_to(folder).with_suffix('').as_posix().replace('/', '_')}"
                    listing.samples.append(SampleRef(self.name, category, "private", UNKNOWN, part, views))
                    count += 1
        if count:
            listing.notes.append(f"{counted(count, 'part')} of the private tests have no labels and are the split private")


SET = MVTecAD2()
