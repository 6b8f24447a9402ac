"""Shards as torch samples: files are opened late, once a process, and never travel in a pickle."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvad import files
from mvad.datasets.shards.pack import MANIFEST
from mvad.datasets.shards.schema import IMAGES, depth_coding, open_checked, view_names
from mvad.errors import BadInput


@dataclass(frozen=True)
class Batch:
    """B samples of V views, coded as in the shards.

    Attributes
    ----------
    rgb, normal
        (B, V, H, W, 3) uint8; ``normal`` may be None.
    depth
        (B, V, H, W) float32 metres, 0 where nothing, or None.
    mask
        (B, V, H, W) uint8.
    seen
        (B, V, H, W) bool: the object is there; all true for photographs.
    present, view_label
        (B, V) bool.
    label
        (B,) bool.
    """

    keys: tuple[str, ...]
    defects: tuple[str, ...]
    rgb: Tensor
    depth: Tensor | None
    normal: Tensor | None
    mask: Tensor
    seen: Tensor
    present: Tensor
    view_label: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved: dict[str, Any] = {f.name: t.to(device) for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


class ShardSet(Dataset[Batch]):
    """All samples of a split of a category, in the order of their keys.

    Raises
    ------
    BadInput
        If the manifest is missing, has no such split, or a file is not what the manifest lists.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.split = split
        manifest = files.read_json(folder / MANIFEST, 'a manifest of shards; "mvad pack" writes it')
        entries = [entry for entry in manifest["shards"] if entry["split"] == split]
        if not entries:
            raise BadInput(f"{folder}: has no {split} split; pack it first")
        self.dataset, self.category = str(manifest["dataset"]), str(manifest["category"])
        self.sha256 = {str(entry["file"]): str(entry["sha256"]) for entry in entries}
        self._places: list[tuple[str, int]] = []
        self._open: dict[str, h5py.File] = {}
        self.keys: list[str] = []
        self.defects: list[str] = []
        for entry in entries:
            path = files.inside(folder, entry["file"])
            if not path.exists() or files.sha256_file(path) != entry["sha256"]:
                raise BadInput(f"{path}: is not what {MANIFEST} lists (SHA-256 differs); pack again to rebuild it")
            with open_checked(path) as file:
                count = len(file["label"])
                self._places += [(path.name, k) for k in range(count)]
                self.keys += [text.decode() for text in file["key"][:]]
                self.defects += [text.decode() for text in file["defect"][:]]
                self.views = view_names(file)
                self.fields = [name for name in IMAGES if name in file]
                self.size = int(file["rgb"].shape[2])
                self.coding = depth_coding(file)
                self.poses = np.array(file["rig/poses"]) if "rig" in file else None
        self.labels = self._read_all("label").astype(bool)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample as a batch of one."""
        return self.batch(np.array([index]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def batch(self, indices: Any) -> Batch:
        """Read samples by number, in the given order.

        Raises
        ------
        BadInput
            If a chunk fails its checksum.
        """
        arrays: dict[str, list[Any]] = {name: [] for name in (*self.fields, "present", "view_label", "label")}
        for index in indices:
            name, row = self._places[int(index)]
            file = self._file(name)
            for field in arrays:
                try:
                    arrays[field].append(file[field][row])
                except OSError as error:
                    raise BadInput(f"{self.folder / name}: sample {row} of {field} fails its checksum; pack again") from error
        stacked = {name: torch.from_numpy(np.stack(values)) for name, values in arrays.items()}
        depth = None
        if self.coding is not None:
            depth = torch.from_numpy(self.coding.decode(np.stack(arrays["depth"])))
        seen = stacked["source"] >= 0 if "source" in stacked else torch.ones_like(stacked["mask"], dtype=torch.bool)
        return Batch(
            keys=tuple(self.keys[int(i)] for i in indices),
            defects=tuple(self.defects[int(i)] for i in indices),
            rgb=stacked["rgb"], depth=depth, normal=stacked.get("normal"), mask=stacked["mask"], seen=seen,
            present=stacked["present"].bool(), view_label=stacked["view_label"].bool(), label=stacked["label"].bool(),
        )  # fmt: skip

    def _file(self, name: str) -> h5py.File:
        if name not in self._open:
            self._open[name] = open_checked(self.folder / name)
        return self._open[name]

    def _read_all(self, field: str) -> Any:
        return np.concatenate([self._file(name)[field][:] for name in self.sha256])
