"""What a method says of itself, without torch: names, keys and presets are listed without loading a detector."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvad.model.config import PRESETS, ModelConfig, TexturedConfig

if TYPE_CHECKING:
    from mvad.model.detector import Detector

    DetectorFactory = Callable[..., Detector]
    """Makes an unfitted detector of (config, spec, teacher, device)."""


@dataclass(frozen=True)
class Method:
    """The declaration of a method; one stands in each folder of ``model/baselines`` and in ``model/idif/methods.py``.

    Attributes
    ----------
    name
        What ``--model`` takes, and what tables show.
    title, summary
        Its full name, and what it does in half a sentence.
    paper, paper_backbone
        Where it was published, and the backbone that the authors used.
    config
        Its configuration: a frozen dataclass derived from ``ModelConfig`` (``TexturedConfig`` where it learns from pseudo
        anomalies).
    detector
        Makes the detector: a callable, or ``module:name`` of one, which is imported when it is needed.
    keys
        Keys that it sets above the preset.
    presets
        What presets mean for its own keys, by preset.
    one_pass
        Whether it learns in one pass over the training samples, without steps and checkpoints.
    shares_batches
        Whether several processes can train it together (torchrun).
    paper_name
        Its name in the tables of the IDIF paper, if it is in them.

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

    @property
    def needs_textures(self) -> bool:
        """Whether it learns from pseudo anomalies."""
        return issubclass(self.config, TexturedConfig)

    def preset(self, name: str) -> dict[str, Any]:
        """Return the keys of a preset, those of all methods and its own."""
        return {**PRESETS[name], **self.presets.get(name, {})}

    def factory(self) -> DetectorFactory:
        """Return what makes the detector, importing it if need be."""
        if not isinstance(self.detector, str):
            return self.detector
        module, _, name = self.detector.partition(":")
        factory: DetectorFactory = getattr(importlib.import_module(module), name)
        return factory
