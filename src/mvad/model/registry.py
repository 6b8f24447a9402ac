"""Registry of methods: those of this package, found by their declarations, and those that a caller registers.

The module does not import torch; ``make_detector`` imports the module of a detector.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from mvad.errors import BadInput
from mvad.model import baselines
from mvad.model.config import EARLIER, PRESETS, ModelConfig
from mvad.model.idif.methods import METHODS as IDIF_METHODS
from mvad.model.method import Method
from mvad.model.missing.methods import METHODS as MISSING_VIEW_METHODS
from mvad.settings import RECORDED, KeyInfo, describe, resolve
from mvad.words import no_such

if TYPE_CHECKING:
    import torch

    from mvad.model.backbones.protocol import Teacher
    from mvad.model.detector import Detector
    from mvad.model.input_spec import InputSpec

PLUGINS = "MVAD_PLUGINS"
"""Environment variable with the modules, separated by commas, that the commands import first, since they register something."""

_registered: dict[str, Method] = {}


@cache
def _built_in() -> dict[str, Method]:
    """Return IDIF with its variants, then the ``METHOD`` of each folder of ``model/baselines``, by name."""
    folders = sorted(module.name for module in pkgutil.iter_modules(baselines.__path__) if module.ispkg)
    declared = [importlib.import_module(f"{baselines.__name__}.{name}").METHOD for name in folders]
    return {method.name: method for method in (*IDIF_METHODS, *MISSING_VIEW_METHODS, *declared)}


def methods() -> dict[str, Method]:
    """Return all methods by name."""
    return {**_built_in(), **_registered}


def register_method(method: Method) -> None:
    """Add a method, so that training, evaluation and all tables know it.

    The commands know it if the variable ``MVAD_PLUGINS`` names the module that registers it.

    Parameters
    ----------
    method
        Declaration of the method; its ``detector`` may be the detector's class itself.

    Raises
    ------
    BadInput
        If there is another method with this name.

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
    """Remove a registered method."""
    _registered.pop(name, None)
    all_keys.cache_clear()


def method_named(name: str) -> Method:
    """Return a method's declaration.

    Raises
    ------
    BadInput
        If there is no such method; the message lists the known ones.
    """
    method = methods().get(name)
    if method is None:
        raise no_such("--model", name, methods())
    return method


@cache
def all_keys() -> dict[str, KeyInfo]:
    """Return the keys of all methods, those that every method has first."""
    keys = describe(ModelConfig)
    for method in methods().values():
        keys |= {name: info for name, info in describe(method.config).items() if name not in keys}
    return keys


def paper_backbone(model: str) -> str:
    """Return the backbone of a method's own paper; it is not known for imported maps."""
    known = methods().get(model)
    return known.paper_backbone if known else "its own"


def backbone_label(model: str, teacher: str) -> str:
    """Return the label of a row in tables: the teacher that was used, and the backbone of the method's own paper."""
    return f"{teacher} (paper: {paper_backbone(model)})"


def configure(preset: str, model: str, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[ModelConfig, dict[str, str]]:
    """Return a method's configuration and the origin of each key: preset, then the method's keys, then ``layers``.

    Raises
    ------
    BadInput
        If the preset, the method or a key is unknown, or a value has the wrong type, or the preset would make another method of it.
    """
    if preset not in PRESETS:
        raise no_such("--preset", preset, PRESETS)
    layers = list(layers)
    for _, keys in layers:
        model = str(keys.get("model", model))
    method = method_named(model)
    if preset in methods() and preset != model and preset in method.presets:
        raise BadInput(f"--preset {preset}: makes {preset} of {model}; take --model {preset}, or another --preset")
    fixed = {**method.keys, "model": model}
    base_layers = [(f"preset {preset}", method.preset(preset)), (f"model {model}", fixed)]
    return resolve(method.config, [*base_layers, *layers], all_keys())


def recorded_config(recorded: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of the dotted keys in a run's ``config.json``.

    Raises
    ------
    BadInput
        If its method is unknown, or the method has no such key.
    """
    name = str(recorded.get("model"))
    if name not in methods():
        raise BadInput(
            f"the method {name} is not known here; import the module that registers it ({PLUGINS}=MODULE for the commands)"
        )
    method = method_named(name)
    return resolve(method.config, [(RECORDED, EARLIER), (RECORDED, recorded)], all_keys())[0]


def make_detector(config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> Detector:
    """Return a new, unfitted detector of ``config.model`` on a device.

    Raises
    ------
    BadInput
        If there is no such method.
    """
    return method_named(config.model).factory()(config, spec, teacher, device)
