"""Loader of shards: batches of tensors, decoded by threads directly into the tensors, with the checksum of every chunk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvad import files
from mvad.cores import usable_cores
from mvad.datasets.shards.batch import Batch as Batch
from mvad.datasets.shards.batch import batch_of as batch_of
from mvad.datasets.shards.batch import collate as collate
from mvad.datasets.shards.buffers import Buffers
from mvad.datasets.shards.reader import ShardFile, read_manifest
from mvad.datasets.shards.schema import IMAGES, MODALITIES, PLACES
from mvad.errors import BadInput

_MOVED_TOGETHER = 64
"""Samples that are decoded at a time on their way to a device."""


class ShardSet(Dataset[Batch]):
    """Dataset of the samples of one split of a category, in the order of their keys.

    Files are opened on first use, once per process. A pickled copy or a worker process gets only the positions of the chunks.

    Parameters
    ----------
    folder
        Folder of a packed category.
    split
        train, validation, test or private.
    fields
        Which of the fields rgb, depth, normal and source to read; None: all stored modalities. Masks are always read.
    threads
        Number of samples that are decoded at the same time; 0: the number of cores.

    Attributes
    ----------
    keys, defects
        Keys of the samples, and names of their defects, in order.
    views, size
        Names of the views, and their side in pixels.
    config
        The configuration with which the samples were made, as listed in the manifest.
    poses
        (V, 4, 4) float64, metres: from each camera to the rig's frame; None for photographs.
    coding, rig_range
        Coding of depth; near and far limit of the coded depths, and radius of the objects, in metres; None for photographs.
    object_poses
        (N, 4, 4) float64, metres: from the sensor's camera frame to the rig's frame; None for photographs.
    pose_numbers, pose_fits, turns_deg
        (N,) int16, float64 and float64: number of the stable pose in which each scan's object lay, -1 if it fits none; its fit to
        the template, 0 to 1, -1 without a template; its turn about the support's normal, degrees; None for photographs.
    cut, scan_sizes
        (N, V) uint8, 1 if the object reaches beyond the view; (N, 2) int32, height and width of the raw scans, pixels.

    Raises
    ------
    BadInput
        If the manifest is missing, is of another version or has no such split, or if a file differs from the manifest.

    Examples
    --------
    >>> import mvad
    >>> data = mvad.ShardSet("mvad-data/shards/mvtec3d/gear", "test")
    >>> data.batch([0, 1])
    Batch(2 samples, 5 views, 64 px, rgb, depth, normal)
    >>> import torch
    >>> loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=mvad.collate)
    >>> next(iter(loader)).rgb.shape
    torch.Size([4, 5, 64, 64, 3])
    """

    def __init__(self, folder: str | Path, split: str, fields: Sequence[str] | None = None, threads: int = 0) -> None:
        folder = Path(folder)
        self.folder, self.split, self.threads = folder, split, threads or usable_cores()
        manifest = read_manifest(folder)
        entries = [entry for entry in manifest["shards"] if entry["split"] == split]
        if not entries:
            raise BadInput(f"{folder}: has no {split} split; pack it first")
        self.dataset, self.category = str(manifest["dataset"]), str(manifest["category"])
        self.config: dict[str, Any] = dict(manifest["config"])
        self.is_mesh = manifest["config"].get("read.kind") == "mesh"
        self.sha256 = {str(entry["file"]): str(entry["sha256"]) for entry in entries}
        self._files = [ShardFile(files.inside(folder, name), sha256) for name, sha256 in self.sha256.items()]
        self._places = [(number, row) for number, file in enumerate(self._files) for row in range(len(file))]
        self.keys = [key for file in self._files for key in file.texts("key")]
        self.defects = [defect for file in self._files for defect in file.texts("defect")]
        first = self._files[0]
        self.views, self.coding = first.views, first.coding
        self.size = int(first.layout.fields["mask"].shape[2])
        self.poses = first.read("rig/poses") if "rig/poses" in first.layout.fields else None
        self.rig_range = first.rig_range
        self._shapes = {name: (f.shape[1:], f.dtype) for name, f in first.layout.fields.items() if name in IMAGES}
        if any(
            {n: (f.shape[1:], f.dtype) for n, f in file.layout.fields.items() if n in IMAGES} != self._shapes
            for file in self._files
        ):
            raise BadInput(f"{folder}: the shards of {split} have different fields or sizes; pack again with --overwrite")
        self.stored = [name for name in (*MODALITIES, "source") if name in self._shapes]
        self._keep(
            {
                name: np.concatenate([file.read(name) for file in self._files])
                for name in ("present", "view_label", "label", *PLACES)
                if name in first.layout.fields
            }
        )
        self._memory: dict[str, Tensor] = {}
        self._buffers = Buffers()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self.fields = self._chosen(fields)
        for file in self._files:
            file.close()

    def __repr__(self) -> str:
        return f"ShardSet({self.dataset}/{self.category}, {self.split}, {len(self)} samples, {', '.join(self.fields)})"

    @property
    def labels(self) -> Any:
        """Labels of the samples, (N,) bool array."""
        return self._small["label"].astype(bool)

    @property
    def present(self) -> Any:
        """Views that each sample has, (N, V) bool array."""
        return self._small["present"].astype(bool)

    def subset(self, rows: Iterable[int]) -> ShardSet:
        """Return a dataset of some of the samples, by number, in the given order; ``sha256`` stays that of whole files."""
        chosen = [int(row) for row in rows]
        other = self._copy()
        other._places = [self._places[row] for row in chosen]
        other.keys, other.defects = [self.keys[row] for row in chosen], [self.defects[row] for row in chosen]
        other._keep({name: values[chosen] for name, values in self._small.items()})
        other._memory = self._from_memory(chosen) if self._memory else {}
        return other

    def select(self, fields: Sequence[str]) -> ShardSet:
        """Return a dataset of the same samples with other fields; ``fields`` as for the constructor, but not None."""
        other = self._copy()
        other.fields = self._chosen(fields)
        if any(name not in other._memory for name in other._read_names()):
            other._memory = {}
        return other

    @property
    def stored_bytes(self) -> int:
        """Bytes that the samples take in memory."""
        return sum(self._bytes(name) for name in self._read_names()) * len(self)

    @property
    def device(self) -> torch.device:
        """Device of the images in batches: the processor, unless ``in_memory`` moved them."""
        return next((t.device for name, t in self._memory.items() if name != "mask"), torch.device("cpu"))

    def in_memory(self, limit_mb: int = 4096, device: torch.device = torch.device("cpu")) -> ShardSet:  # immutable
        """Return the dataset with all samples decoded into memory; afterwards no file is read or checked again.

        On the processor it is this dataset, in memory that worker processes share. On another device it is a new one, whose
        batches have their images there, and masks on the host.

        Raises
        ------
        BadInput
            If the samples take more than ``limit_mb``.
        """
        needed = self.stored_bytes // 1_000_000
        if needed > limit_mb:
            raise BadInput(f"{self.folder}: {self.split} takes {needed} MB in memory, more than {limit_mb}; leave it on disk")
        if device.type == "cpu":
            # Buffers of a split's size are not kept for batches.
            arrays = self._memory or self._decode(range(len(self)), Buffers())
            self._memory = {name: tensor.share_memory_() for name, tensor in arrays.items()}  # type: ignore[no-untyped-call]
            return self
        other = self._copy()
        other._memory = self._moved_in_blocks(device)
        return other

    def _moved_in_blocks(self, device: torch.device) -> dict[str, Tensor]:
        """Return all samples on a device, masks on the host; a few at a time are on both, since a host may have less memory."""
        found: dict[str, Tensor] = {}
        for first in range(0, len(self), _MOVED_TOGETHER):
            rows = list(range(first, min(first + _MOVED_TOGETHER, len(self))))
            for name, block in (self._from_memory(rows) if self._memory else self._decode(rows, Buffers())).items():
                if name not in found:
                    place = torch.device("cpu") if name == "mask" else device
                    found[name] = torch.empty((len(self), *block.shape[1:]), dtype=block.dtype, device=place)
                found[name][first : first + len(rows)] = block.to(found[name].device)
        return found

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample as a batch of one; ``collate`` joins several."""
        return self.batch([index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def batch(self, indices: Iterable[int]) -> Batch:
        """Read samples by number, in the given order.

        Raises
        ------
        BadInput
            If a chunk fails its checksum; the message names file, sample and field.
        """
        rows = [int(index) for index in indices]
        arrays = self._from_memory(rows) if self._memory else self._decode(rows)
        present = torch.from_numpy(self._small["present"][rows]).bool()
        if "seen" in arrays:
            seen = arrays["seen"].view(torch.bool)
        else:
            seen = self._on_device(present)[:, :, None, None].expand(arrays["mask"].shape)
        return Batch(
            keys=tuple(self.keys[row] for row in rows), defects=tuple(self.defects[row] for row in rows),
            rgb=arrays.get("rgb"), depth_code=arrays.get("depth"), normal=arrays.get("normal"), mask=arrays["mask"], seen=seen,
            source=arrays.get("source"), present=present,
            view_label=torch.from_numpy(self._small["view_label"][rows]).bool(),
            label=torch.from_numpy(self._small["label"][rows]).bool(),
            coding=self.coding if "depth" in arrays else None,
        )  # fmt: skip

    def _copy(self) -> ShardSet:
        other = object.__new__(ShardSet)
        other.__dict__ |= self.__getstate__()
        return other

    def _keep(self, small: dict[str, Any]) -> None:
        """Set the fields that are held in memory, one row per sample."""
        self._small = small
        of_scans = (small.get(name) for name in PLACES)
        self.object_poses, self.pose_numbers, self.pose_fits, self.turns_deg, self.cut, self.scan_sizes = of_scans

    def _chosen(self, fields: Sequence[str] | None) -> list[str]:
        if fields is None:
            return [name for name in self.stored if name in MODALITIES]
        missing = [name for name in fields if name not in self.stored]
        if missing:
            raise BadInput(f"{self.folder}: has no {missing[0]}; choose from {', '.join(self.stored)}")
        return list(fields)

    def _read_names(self) -> list[str]:
        return [*self.fields, *(name for name in ("mask", "seen") if name in self._shapes)]

    def _bytes(self, name: str) -> int:
        shape, dtype = self._shapes[name]
        return int(np.prod(shape)) * np.dtype(dtype).itemsize

    def _on_device(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the host where the samples are, without waiting for the device."""
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _from_memory(self, rows: list[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(rows)
        on_device = self._on_device(chosen)
        found = {}
        for name in self._read_names():
            tensor = self._memory[name]
            # index_select is many times as fast as indexing with a list, but does not support uint16.
            taken = tensor.view(torch.uint8).index_select(0, chosen if tensor.device.type == "cpu" else on_device)
            found[name] = taken.view(tensor.dtype)
        return found

    def _decode(self, rows: Sequence[int], buffers: Buffers | None = None) -> dict[str, Tensor]:
        names, buffers = self._read_names(), self._buffers if buffers is None else buffers
        leased = {name: buffers.empty((len(rows), *self._shapes[name][0]), self._shapes[name][1]) for name in names}
        outs = {name: array for name, (_, array) in leased.items()}
        for number in {self._places[row][0] for row in rows}:
            self._files[number].open()

        def decode(position: int) -> None:
            number, row = self._places[rows[position]]
            for name in names:
                self._files[number].read_into(name, row, outs[name][position])

        if self.threads == 1 or len(rows) == 1:
            for position in range(len(rows)):
                decode(position)
        else:
            for _ in self._decoders().map(decode, range(len(rows))):
                pass
        return {name: tensor for name, (tensor, _) in leased.items()}

    def _decoders(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool[0] != os.getpid():  # a pool does not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(self.threads, "mvad-decode"))
        return self._pool[1]


def normal_rows(data: ShardSet) -> list[int]:
    """Return the numbers of the samples of a split that are normal and have a view."""
    return [int(row) for row in np.flatnonzero(~data.labels & data.present.any(axis=1))]
