"""Declaration of a method. It does not import torch: names, keys and presets are listed without loading a detector."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvad.model.config import PRESETS, ModelConfig, TexturedConfig

if TYPE_CHECKING:
    from mvad.model.detector import Detector

    DetectorFactory = Callable[..., Detector]
    """Returns an unfitted detector for (config, spec, teacher, device)."""


OWN_SCORES = ("score.map", "score.pool_px", "score.top_k", "score.calibrate")
"""Keys without effect in a method that computes maps and scores as its own paper does."""


@dataclass(frozen=True)
class Method:
    """Declaration of a method: one per folder of ``model/baselines``; IDIF's are in ``idif/methods.py`` and ``missing/methods.py``.

    Attributes
    ----------
    name
        Value of the option ``--model``, and name in tables.
    title, summary
        Full name, and a phrase that says what the method does.
    paper, paper_backbone
        Publication, and the backbone that its authors used.
    config
        Class of its configuration: a frozen dataclass derived from ``ModelConfig``, or from ``TexturedConfig`` if it is trained
        with pseudo anomalies.
    detector
        Factory of the detector: a callable, or ``module:name`` of one, which is imported when it is needed.
    keys
        Values of keys that the method sets; they take precedence over the preset.
    presets
        Values of the method's own keys, by preset.
    one_pass
        Whether it is fitted in one pass over the training samples, without steps and checkpoints.
    shares_batches
        Whether several processes can train it together (torchrun).
    paper_name
        Name in the tables of the IDIF paper; empty if the method is not in these tables.
    ignores
        Keys of its configuration that have no effect, such as ``score.top_k`` in a method that computes its own scores.

    Examples
    --------
    >>> from mvad.model.registry import method_named
    >>> method_named("padim").paper_backbone
    'WideResNet-50'
    """

    name: str
    title: str
    summary: str
    paper: str
    paper_backbone: str
    config: type[ModelConfig]
    detector: str | DetectorFactory
    keys: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    one_pass: bool = False
    shares_batches: bool = False
    paper_name: str = ""
    ignores: Collection[str] = ()

    @property
    def needs_textures(self) -> bool:
        """Whether the method is trained with pseudo anomalies, which need textures."""
        return issubclass(self.config, TexturedConfig)

    def preset(self, name: str) -> dict[str, Any]:
        """Return the keys of a preset, those of all methods and its own."""
        return {**PRESETS[name], **self.presets.get(name, {})}

    def factory(self) -> DetectorFactory:
        """Return the factory of the detector; imports its module if need be."""
        if not isinstance(self.detector, str):
            return self.detector
        module, _, name = self.detector.partition(":")
        factory: DetectorFactory = getattr(importlib.import_module(module), name)
        return factory
