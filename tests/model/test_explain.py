"""Documentation of keys, and training with every allowed value of the structural keys."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from test_idif import ALL, noise, pictures, spec, tiny
from training import untrained_teacher

from mvad.datasets.shards.pack import PackOptions
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import PRESETS
from mvad.model.explain import FIXED, explain
from mvad.model.idif.network import Network
from mvad.model.registry import all_keys, backbone_label, configure, methods, recorded_config
from mvad.render.options import RenderOptions
from mvad.settings import RENAMED, RenamedKey, describe, flatten


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return untrained_teacher()


def test_every_key_has_a_reason_and_a_statement_on_the_paper() -> None:
    for info in all_keys().values():
        assert info.why, f"{info.name} has no reason"
        assert info.paper, f"{info.name} does not say what the paper says"
    assert all(info.paper for info in FIXED.values())
    for options in (RenderOptions, PackOptions):
        assert all(info.why for info in describe(options).values())


def test_presets_and_methods_set_keys_that_exist() -> None:
    known = set(all_keys())
    for method in methods().values():
        own = set(flatten(method.config()))
        assert own <= known
        assert set(method.keys) <= own
        for preset in PRESETS:
            assert set(method.preset(preset)) <= known
            assert set(method.presets.get(preset, {})) <= own
            if preset != "destseg" or preset not in method.presets or method.name == preset:
                configure(preset, method.name, [])


def test_a_renamed_key_is_accepted_with_a_warning() -> None:
    with pytest.warns(RenamedKey, match=r"--set: score\.top was renamed to score\.top_k"):
        config, origins = configure("small", "padim", [("--set", {"score.top": 7})])
    assert (config.score.top_k, origins["score.top_k"]) == (7, "--set")
    assert set(RENAMED.values()) <= set(all_keys())
    assert recorded_config({"model": "patchcore", "patchcore.least": 5}).patchcore.min_patches == 5  # type: ignore[attr-defined]


def test_a_key_of_another_method_is_ignored_and_an_unknown_one_is_rejected() -> None:
    config, _ = configure("small", "padim", [("--set", {"uniad.width": 7})])
    assert "uniad.width" not in flatten(config)
    with pytest.raises(BadInput, match=r"unknown key 'uniad\.wdth'; did you mean uniad\.width"):
        configure("small", "padim", [("--set", {"uniad.wdth": 7})])


def test_explain_lists_presets_methods_and_allowed_values() -> None:
    found = explain("bottleneck.kind")
    assert found.default == "variational"
    assert found.allowed == ("variational", "none")
    assert found.set_by["--model ivc"] == found.set_by["preset destseg"] == "none"
    assert explain("dropout.p").paper == "0.2 per view"
    assert explain("label.missing").default == "fixed"
    with pytest.raises(BadInput, match=r"did you mean .*bottleneck\.kind"):
        explain("bottleneck.kin")


@pytest.mark.thorough(2)
def test_the_command_explains_keys_and_rejects_unknown_ones() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "mvad.cli", "explain", *words], capture_output=True, text=True)

    explained = run("encoder.init")
    assert explained.returncode == 0
    assert "imagenet, scratch" in explained.stdout
    assert "DeSTSeg's student starts from scratch" in explained.stdout
    assert run("encoder.nit").returncode == 3
    assert "voxel.patch" in run().stdout


def test_command_line_keys_take_precedence_over_method_and_preset() -> None:
    config, origins = configure("small", "destseg", [("--set", {"dropout.p": 0.5})])
    assert config.model == "destseg"
    assert config.encoder.share == config.head.share == "view"
    assert origins["encoder.share"] == "model destseg"
    assert config.dropout.p == 0.5
    assert origins["dropout.p"] == "--set"
    with pytest.raises(BadInput, match="--model unet"):
        configure("small", "unet", [])
    with pytest.raises(BadInput, match="--preset large"):
        configure("large", "idif", [])


def test_every_row_of_tables_has_its_backbone_and_the_papers() -> None:
    assert backbone_label("patchcore", "efficientnet_lite0") == "efficientnet_lite0 (paper: WideResNet-50)"
    assert backbone_label("uniad", "resnet18") == "resnet18 (paper: EfficientNet-B4)"
    assert backbone_label("idif", "resnet18") == "resnet18 (paper: ResNet-18)"


STRUCTURES: list[dict[str, Any]] = [
    {"encoder.level": 8}, {"encoder.level": 32}, {"encoder.share": "view"}, {"encoder.channels": 0},
    {"bottleneck.kind": "none"}, {"bottleneck.aggregate": "attention"}, {"bottleneck.decoder": "learned"},
    {"bottleneck.kl": 1e-3}, {"bottleneck.detach_target": False}, {"fusion.kind": "conv3d"}, {"fusion.kind": "none", "bottleneck.kind": "none"},
    {"fusion.norm": "post"}, {"fusion.position": "sine"}, {"fusion.position": "geometric"}, {"fusion.self_layers": 2}, {"stn.transform": "single"},
    {"stn.transform": "affine"}, {"stn.init": "zeros", "stn.transform": "single"}, {"stn.init": "random"},
    {"stn.depth_reduction": "mean"}, {"stn.depth_reduction": "max"}, {"stn.depth_reduction": "composite"}, {"decoder.share": "shared"},
    {"decoder.skip": True}, {"decoder.project": False, "decoder.widths": ()}, {"voxel.patch": 2},
]  # fmt: skip


@pytest.mark.parametrize("keys", STRUCTURES, ids=lambda keys: ",".join(f"{k}={v}" for k, v in keys.items()))
def test_every_structure_has_gradients_everywhere_and_no_influence_of_a_missing_view(
    keys: dict[str, Any], teacher: Teacher
) -> None:
    torch.manual_seed(0)
    network = Network(tiny(**{"encoder.freeze_early": False, **keys}), spec(), teacher).train()
    student = network(pictures(), ALL, noise())
    assert [tuple(level.shape) for level in student.levels] == [
        (2, 3, c, 64 // s, 64 // s) for c, s in zip(teacher.channels, (4, 8, 16), strict=True)
    ]
    (sum(level.pow(2).mean() for level in student.levels) + student.bottleneck_loss).backward()  # type: ignore[union-attr]
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    if keys.get("encoder.level") == 8:  # the backbone's last stage has nothing to do there
        without = [name for name in without if "layer3" not in name]
    assert not without, without
    network.eval()
    present = ALL.clone()
    present[:, 1] = False
    one, two = pictures(), pictures()
    two[:, 1] = torch.rand_like(two[:, 1]) * 255
    for first, second in zip(network(one, present).levels, network(two, present).levels, strict=True):
        assert torch.equal(first[present], second[present])
    alone = network(one[:1], ALL[:1]).levels[2]
    assert torch.allclose(alone, network(one, ALL).levels[2][:1], atol=1e-4), "scores do not depend on the batch"


def test_sampling_at_test_does_not_depend_on_the_batch(teacher: Teacher) -> None:
    torch.manual_seed(0)
    network = Network(tiny(**{"bottleneck.at_test": "sample"}), spec(), teacher).eval()
    both = network(pictures(), ALL).levels[2]
    assert torch.allclose(both[1:], network(pictures()[1:], ALL[1:]).levels[2], atol=1e-4)
    mean = Network(tiny(), spec(), teacher).eval()
    mean.load_state_dict(network.state_dict())
    assert not torch.allclose(mean(pictures(), ALL).levels[2], both, atol=1e-4)
