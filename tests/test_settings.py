"""Configuration: layers, origins, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvad.errors import BadInput
from mvad.model.config import PRESETS, ModelConfig, TexturedConfig
from mvad.settings import flatten, parse_assignments, read_toml, resolve


def test_later_layers_win_and_every_key_knows_its_origin() -> None:
    config, origins = resolve(ModelConfig, [("preset small", PRESETS["small"]), ("--set", {"train.batch": 3})])
    assert config.train.batch == 3
    assert origins["train.batch"] == "--set"
    assert origins["input.size"] == "preset small"
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
