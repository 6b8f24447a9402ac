"""Methods by name: those of this package, found by their declarations, and those that a caller registers.

Nothing here imports torch; ``make_detector`` loads a detector's module when one is made.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from mvad.errors import BadInput
from mvad.model import baselines
from mvad.model.config import PRESETS, ModelConfig
from mvad.model.idif.methods import METHODS as IDIF_METHODS
from mvad.model.method import Method
from mvad.model.missing.methods import METHODS as MISSING_VIEW_METHODS
from mvad.settings import RECORDED, KeyInfo, describe, resolve

if TYPE_CHECKING:
    import torch

    from mvad.model.backbones.protocol import Teacher
    from mvad.model.detector import Detector
    from mvad.model.input_spec import InputSpec

_registered: dict[str, Method] = {}


@cache
def _built_in() -> dict[str, Method]:
    """Return IDIF with its variants, then every folder of ``model/baselines`` by its ``METHOD``."""
    folders = sorted(module.name for module in pkgutil.iter_modules(baselines.__path__) if module.ispkg)
    declared = [importlib.import_module(f"{baselines.__name__}.{name}").METHOD for name in folders]
    return {method.name: method for method in (*IDIF_METHODS, *MISSING_VIEW_METHODS, *declared)}


def methods() -> dict[str, Method]:
    """Return every method by its name."""
    return {**_built_in(), **_registered}


def register_method(method: Method) -> None:
    """Add a method, so that ``train``, ``evaluate``, ``--model`` and every table take it.

    Parameters
    ----------
    method
        Its declaration; ``detector`` may be the class itself.

    Raises
    ------
    BadInput
        If another method has this name.

    Examples
    --------
    >>> import dataclasses
    >>> register_method(dataclasses.replace(method_named("mean_feature"), name="my_method"))
    >>> "my_method" in methods()
    True
    >>> unregister_method("my_method")
    """
    known = methods().get(method.name)
    if known is not None and known != method:
        raise BadInput(f"register_method: there is a method {method.name!r} already; choose another name")
    _registered[method.name] = method
    all_keys.cache_clear()


def unregister_method(name: str) -> None:
    """Take a registered method out again."""
    _registered.pop(name, None)
    all_keys.cache_clear()


def method_named(name: str) -> Method:
    """Return a method's declaration.

    Raises
    ------
    BadInput
        If there is no such method; the known ones are listed.
    """
    found = methods().get(name)
    if found is None:
        raise BadInput(f"--model {name}: choose from {', '.join(methods())}")
    return found


@cache
def all_keys() -> dict[str, KeyInfo]:
    """Return every key of every method, those that all have first."""
    found = describe(ModelConfig)
    for method in methods().values():
        found |= {name: info for name, info in describe(method.config).items() if name not in found}
    return found


def paper_backbone(model: str) -> str:
    """Return the backbone of a method's own paper; of imported maps nothing is known."""
    known = methods().get(model)
    return known.paper_backbone if known else "its own"


def backbone_label(model: str, teacher: str) -> str:
    """Return what stands beside every row of figures: the teacher used, and the backbone of the method's own paper."""
    return f"{teacher} (paper: {paper_backbone(model)})"


def configure(preset: str, model: str, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[ModelConfig, dict[str, str]]:
    """Return a method's configuration and the origin of each key: preset, then the method's keys, then ``layers``.

    Raises
    ------
    BadInput
        If preset, method or a key is unknown, or a value has the wrong type.
    """
    if preset not in PRESETS:
        raise BadInput(f"--preset {preset}: choose from {', '.join(PRESETS)}")
    method = method_named(model)
    fixed = {**method.keys, "model": model}
    own_layers = [(f"preset {preset}", method.preset(preset)), (f"model {model}", fixed)]
    return resolve(method.config, [*own_layers, *layers], all_keys())


def recorded_config(recorded: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a run's ``config.json`` holds as dotted keys.

    Raises
    ------
    BadInput
        If its method is not known here, or a key is not one of it.
    """
    method = method_named(str(recorded.get("model")))
    return resolve(method.config, [(RECORDED, recorded)], all_keys())[0]


def make_detector(config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> Detector:
    """Return a new, unfitted detector of ``config.model`` on a device.

    Raises
    ------
    BadInput
        If there is no such method.
    """
    return method_named(config.model).factory()(config, spec, teacher, device)
