"""Reader of MANTA-Tiny (Fan et al. 2025): five views of a tiny object, side by side in one picture of 1280 x 256 pixels.

    <domain>/<category>/train/good/NAME.png
    <domain>/<category>/test/{good,<defect>}/NAME.png
    <domain>/<category>/ground_truth/<defect>/NAME.png

In mvad a category's name is ``<domain>-<category>``, such as ``mechanics-gear``, since it must be the name of a folder. Defective
parts without a mask are packed with a notice, and all of their views count as showing the defect. There is no validation split.
"""

from __future__ import annotations

from pathlib import Path

from mvad.datasets.folders import category_folders, visible_folders
from mvad.datasets.photographs.layouts import Layout
from mvad.datasets.photographs.sets.protocol import TreeSet

SEPARATOR = "-"
"""Between the names of domain and category; no domain has it in its name."""

CATEGORIES_OF = {
    "agriculture": ("maize", "paddy", "soybean", "wheat"),
    "electronics": (
        "block_inductor", "copper_standoff", "flat_nut", "led", "led_pad", "long_button", "power_inductor", "short_button",
        "thin_resistor", "type_c", "wafer_resistor",
    ),
    "groceries": ("coffee_beans", "goji_berries", "pistachios"),
    "mechanics": (
        "button", "gear", "nut", "nut_cap", "red_washer", "round_button_cap", "screw", "square_button_cap", "terminal", "wire_cap",
        "yellow_green_washer",
    ),
    "medicine": (
        "capsule", "coated_tablet", "embossed_tablet", "lettered_tablet", "oblong_tablet", "pink_tablet", "red_tablet",
        "white_tablet", "yellow_tablet",
    ),
}  # fmt: skip
"""The 38 published categories by domain."""


class MANTATiny(TreeSet):
    """Reader of MANTA-Tiny."""

    name = "mantatiny"
    known_categories = tuple(f"{domain}{SEPARATOR}{name}" for domain, names in CATEGORIES_OF.items() for name in names)
    views = 5
    layout = Layout(montage=(5, 1))
    picture_size: tuple[int, int] | None = (1280, 256)
    has_all_masks = False

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders two levels below that hold a folder ``train``, sorted."""
        return sorted(
            f"{domain.name}{SEPARATOR}{folder.name}"
            for domain in category_folders(raw)
            if SEPARATOR not in domain.name
            for folder in visible_folders(domain)
            if (folder / "train").is_dir()
        )

    def folder(self, raw: Path, category: str) -> Path:
        """Return the folder of a category."""
        domain, _, name = category.partition(SEPARATOR)
        return raw / domain / name


SET = MANTATiny()
