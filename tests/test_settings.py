"""Configuration: layers, origins, refusals."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mvad.errors import BadInput
from mvad.model.config import PRESETS, ModelConfig, TexturedConfig
from mvad.settings import describe, flatten, key, parse_assignments, read_toml, resolve


def test_later_layers_win_and_every_key_knows_its_origin() -> None:
    config, origins = resolve(ModelConfig, [("preset small", PRESETS["small"]), ("--set", {"train.batch": 3})])
    assert config.train.batch == 3
    assert origins["train.batch"] == "--set"
    assert origins["train.student_steps"] == "preset small"
    assert origins["seed"] == "default"
    assert set(origins) == set(flatten(config))


def test_an_unknown_key_names_the_nearest_real_one() -> None:
    with pytest.raises(BadInput, match=r"did you mean train\.batch\?"):
        resolve(ModelConfig, [("--set", {"train.batsh": 3})])


@pytest.mark.parametrize(
    ("key", "value"), [("train.batch", "many"), ("train.batch", True), ("score.map", "all"), ("input.size", "x")]
)
def test_a_value_of_a_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(BadInput, match=key):
        resolve(ModelConfig, [("--set", {key: value})])


@dataclasses.dataclass(frozen=True)
class Limited:
    side: int = key(3, "x", least=1, most=9, odd=True)
    span: tuple[float, ...] = key((0.5, 2.0), "x", least=0, length=2)


@pytest.mark.parametrize("values", [{}, {"side": 1}, {"side": 9}, {"span": [0, 7]}], ids=str)
def test_values_within_the_limits_of_a_key_are_accepted(values: dict[str, object]) -> None:
    resolve(Limited, [("--set", values)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 0}, "--set: side = 0 must be at least 1 and at most 9 and odd"),
        ({"side": 11}, "at most 9"),
        ({"side": 4}, "odd"),
        ({"span": [1]}, "span = 1.0 must be at least 0 and a list of 2"),
        ({"span": [1, -1]}, "at least 0"),
    ],
    ids=str,
)
def test_a_value_outside_the_limits_of_a_key_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        resolve(Limited, [("--set", values)])
    assert describe(Limited)["side"].allowed == ("at least 1", "at most 9", "odd")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_only_real_keys(preset: str) -> None:
    resolve(TexturedConfig, [(preset, PRESETS[preset])])


def test_assignments_read_numbers_lists_and_words() -> None:
    read = parse_assignments(["a=1", "b=0.5", "c=rgb", 'd=["x", "y"]', "e=true"])
    assert read == {"a": 1, "b": 0.5, "c": "rgb", "d": ["x", "y"], "e": True}
    with pytest.raises(BadInput, match="key=value"):
        parse_assignments(["a"])


def test_toml_gives_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("seed = 4\n[train]\nbatch = 2\n")
    assert read_toml(path) == {"seed": 4, "train.batch": 2}
    path.write_text("seed = ")
    with pytest.raises(BadInput, match="TOML"):
        read_toml(path)
