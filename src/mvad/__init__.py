"""mvad: multi-view anomaly detection from raw 3-D scans to evaluated models.

The public API is loaded when one of its names is first used, so that ``import mvad`` loads no heavy library; see ``mvad.api``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvad.kernel_cache import choose_kernel_cache

if TYPE_CHECKING:
    from mvad.api import (
        AnomalyMaps,
        BadInput,
        Batch,
        Detector,
        InputSpec,
        Method,
        Metric,
        MissingComponent,
        ModelConfig,
        MvadError,
        PackOptions,
        PartlyDone,
        RenderOptions,
        Results,
        Rig,
        Run,
        Scan,
        ScanReader,
        ScanRef,
        ShardSet,
        Summary,
        ViewSet,
        collate,
        list_methods,
        load_run,
        pack,
        register_dataset,
        register_method,
        register_metric,
        render_category,
        render_scan,
        train,
    )  # fmt: skip

    __version__: str

__all__ = [
    "AnomalyMaps", "BadInput", "Batch", "Detector", "FitContext", "InputSpec", "Method", "Metric", "MissingComponent", "ModelConfig",
    "MvadError", "PackOptions", "PartlyDone", "Progress", "ReadOptions", "RenderOptions", "Results", "Rig", "RigOptions", "Run", "Scan",
    "ScanReader", "ScanRef", "ShardSet", "Summary", "Teacher", "TexturedConfig", "ViewImages", "ViewSet", "Workers", "collate",
    "finish_maps", "key", "list_methods", "load_run", "pack", "register_dataset", "register_method", "register_metric",
    "render_category", "render_scan", "train", "view_images",
]  # fmt: skip

choose_kernel_cache(Path(__file__).parent)  # before any module imports numba


def __getattr__(name: str) -> Any:
    """Load the API, or look up the version, when a name is first asked for (PEP 562)."""
    if name in __all__:
        found = getattr(importlib.import_module("mvad.api"), name)
    elif name == "__version__":
        found = _version()
    else:
        raise AttributeError(f"module 'mvad' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mvad")
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "0+unknown"
