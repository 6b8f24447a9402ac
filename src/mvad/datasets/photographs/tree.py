"""Find photographed parts in the recommended tree, and in that of MVTec's sets of single pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mvad.datasets.folders import below, category_folders, means_good, visible, visible_folders
from mvad.datasets.photographs.layouts import (
    ONE_VIEW,
    SPLIT_OF,
    Layout,
    Listing,
    View,
    is_picture,
    is_unread_picture,
    montage_of,
    pictures_by_stem,
    pictures_in,
)
from mvad.datasets.scan import GOOD, SampleRef
from mvad.errors import BadInput
from mvad.words import counted


def find_tree(root: Path, dataset: str, category: str, layout: Layout, skipped: Collection[str] = ()) -> Listing:
    """Find the parts of ``{train,validation,test}/{good,<defect>}/<sample>/<view>.*``, or without the folders of the splits.

    A folder of a defect that holds pictures and no folders has parts of one picture; their masks may lie in
    ``ground_truth/<defect>/`` beside the split or in it, as MVTec's sets have them. Folders named in ``skipped`` are left to others.
    """
    listing = Listing()
    splits: dict[str, Path] = {}
    defects: list[tuple[str, Path]] = []
    for folder in visible_folders(root):
        split = SPLIT_OF.get(folder.name.lower())
        if folder.name in skipped:
            continue
        if split is None:
            if folder.name != "ground_truth" and _holds_pictures(folder):
                defects.append((folder.name, folder))
        elif split in splits:
            listing.problems.append(f"{folder}: {splits[split].name} beside it is the same split; merge them")
        else:
            splits[split] = folder
    loose = [path for path in visible(root.iterdir()) if path.is_file() and is_picture(path, root)]
    if loose:
        listing.problems.append(
            f"{loose[0]}: {counted(len(loose), 'picture')} beside the splits; expected train/good/<sample>/<view>.*, or give --pattern"
        )
    if splits:
        listing.problems += [
            f"{folder}: holds pictures, but is no split; name it train, validation or test, or move it away"
            for _, folder in defects
        ]
        for split, folder in splits.items():
            inner = [path for path in visible_folders(folder) if path.name != "ground_truth"]
            inside = [path for path in visible(folder.iterdir()) if path.is_file() and is_picture(path, folder)]
            if inside:
                listing.problems.append(
                    f"{folder}: holds {counted(len(inside), 'picture')} that are in no folder of good parts or of a defect; expected {folder.name}/good/<sample>/<view>.*"
                )
            _add_defects(listing, dataset, category, split, inner, root, layout)
    else:
        _add_defects(listing, dataset, category, "", [folder for _, folder in defects], root, layout)
    return listing


def _add_defects(
    listing: Listing, dataset: str, category: str, split: str, folders: Iterable[Path], root: Path, layout: Layout
) -> None:
    """Add the parts of the folders of a split (``""``: no splits are given), each of which is good or a defect."""
    good: Path | None = None
    for folder in folders:
        defect = GOOD if means_good(folder.name) else folder.name
        if defect == GOOD:
            if good is not None:
                listing.problems.append(f"{folder}: {good.name} beside it holds good parts, too; merge them")
                continue
            good = folder
            if folder.name != GOOD:
                listing.notes.append(f"{folder.name} read as good")
        elif split in ("train", "validation"):
            listing.problems.append(
                f"{folder}: {split} takes good parts only; move it to test/{folder.name}, or name it good if its parts are"
            )
            continue
        _add_parts(listing, dataset, category, split, defect, folder, root, layout)


def _add_parts(
    listing: Listing, dataset: str, category: str, split: str, defect: str, folder: Path, root: Path, layout: Layout
) -> None:
    parts = [path for path in visible_folders(folder) if _holds_pictures(path)]
    single, wrong = pictures_in(folder)
    if parts and single:
        listing.problems.append(
            f"{folder}: holds folders of parts, and {counted(len(single), 'picture')} of none ({single[0].image.name}); give each part a folder"
        )
        return
    listing.problems += wrong
    montage = layout.montage != (1, 1)
    masks = _ground_truth(root, folder)
    for view in single:
        mask = None if "mask" in view.beside else masks.get(view.image.stem)
        views = [View(ONE_VIEW, view.image, view.beside).ref(defect, mask)]
        listing.samples.append(
            SampleRef(dataset, category, split, defect, view.image.stem, montage_of(views, layout) if montage else views)
        )
    for part in parts:
        views_found, wrong = pictures_in(part)
        nested = [inner for inner in visible_folders(part) if _holds_pictures(inner)]
        wrong += [f"{inner}: a folder with pictures in a part; expected <sample>/<view>.*" for inner in nested]
        if montage and len(views_found) > 1:
            wrong.append(f"{part}: holds {len(views_found)} pictures; with --montage a part is one")
        if wrong:
            listing.problems += wrong
        elif views_found:
            refs = [view.ref(defect) for view in views_found]
            listing.samples.append(
                SampleRef(dataset, category, split, defect, part.name, montage_of(refs, layout) if montage else refs)
            )


def _ground_truth(root: Path, folder: Path) -> dict[str, Path]:
    """Return MVTec's masks of the pictures in a folder, by their stems: ``NAME_mask`` or ``NAME``, beside the folder or the splits."""
    found: dict[str, Path] = {}
    for base in (folder.parent / "ground_truth", root / "ground_truth"):
        masks = pictures_by_stem(base / folder.name)
        found |= masks | {stem.removesuffix("_mask"): path for stem, path in masks.items() if stem.endswith("_mask")}
    return found


def _holds_pictures(folder: Path) -> bool:
    return any(is_picture(path, folder) or is_unread_picture(path) for path in below(folder))


def find_categories(root: Path) -> dict[str, Path]:
    """Return the categories in a folder by name: those folders in it that have splits, or the folder itself.

    Raises
    ------
    BadInput
        If the folder is missing.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: not found; give the folder of the photographs")
    if any(_is_category(root)):
        return {root.resolve().name: root}
    inner = {folder.name: folder for folder in category_folders(root) if any(_is_category(folder))}
    return inner or {root.resolve().name: root}


def folders_beside(root: Path, categories: Mapping[str, Path]) -> list[str]:
    """Return a line for each folder beside categories that holds pictures, and would not be packed."""
    return [
        f"{folder}: holds pictures, but neither train nor good beside the categories {', '.join(list(categories)[:3])}; name its folders so, "
        "or move it away"
        for folder in category_folders(root)
        if folder.name not in categories and _holds_pictures(folder)
    ]


def _is_category(folder: Path) -> Iterable[bool]:
    return (path.name.lower() in SPLIT_OF or means_good(path.name) for path in visible_folders(folder))
