"""Write docs/formats.md and docs/keys.md from the code that defines them; --check only compares."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

from mvad.datasets.renders import layout
from mvad.datasets.shards.schema import FIELDS, ROOT_ATTRIBUTES
from mvad.model import config as model_config
from mvad.model.config import PRESETS, ModelConfig
from mvad.render import options as render_options
from mvad.render.options import RenderOptions
from mvad.settings import flatten

DOCS = Path(__file__).parents[1] / "docs"


def formats() -> str:
    """Return the page on file formats."""
    lines = [
        "# File formats",
        "",
        "Generated from the code by `tools/docs.py`; `make test` fails where it is stale.",
        "",
        "## Rendered folders",
        "",
        f"`renders/<dataset>/<category>/<split>/<defect>/<id>/`, one folder a scan, complete or not there; `{layout.RECORD}`",
        "holds the SHA-256 of every input and output, the configuration, the counts of points, the audit of the ground truth,",
        "and `rig_shift_m`: metres to add to the positions of the rig's poses for this scan (0 unless `--center scan`).",
        "",
        "| file, K the view | content |",
        "|---|---|",
        "| `rgb_K.png` | 8-bit colour of the sensor, unlit, mean of 3 x 3 samples a pixel; black where nothing is |",
        "| `depth_K.png` | 16 bit: metres = offset_m + step_m * (value - 1), 0 is nothing; step and offset in the record |",
        "| `normal_K.png` | 8 bit: n = value / 127.5 - 1 in the view's frame (x right, y down, z forward); (0, 0, 0) is nothing |",
        "| `mask_K.png` | 255 on the defect, else 0: the ground truth at the pixel's scan point |",
        "| `source_K.tiff` | int32 row * W + column of the raw scan, -1 where nothing is; zstd with predictor (tifffile, imagecodecs, libtiff 4.0.10) |",
        "",
        "Depth, normal, mask and source are those of the surface point at the pixel's centre; nothing is blended.",
        "",
        f"Beside the splits: `{layout.MANIFEST}` (the sorted union of the records, with the rig and the rasteriser's device),",
        f"`{layout.RIG}`, `{layout.AUDIT}` (what became of the ground truth and what was removed as background, per view and scan),",
        f"`{layout.FAILED}` (scans that failed, with reasons), `{layout.TIMINGS}` (seconds by stage; a log, so that everything else",
        "is the same bytes in every run).",
        "",
        "## Shards",
        "",
        "`shards/<dataset>/<category>/<split>-00000.h5`, `manifest.json`, `README.md`. HDF5; read with h5py after",
        "`import hdf5plugin`, or pack with `--filter gzip` for plain readers. Every chunk has a fletcher32 sum.",
        "",
        "| dataset | shape | dtype | meaning |",
        "|---|---|---|---|",
        *(f"| `{name}` | {field.shape} | {field.dtype} | {field.meaning} |" for name, field in FIELDS.items()),
        "",
        "| root attribute | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in ROOT_ATTRIBUTES.items()),
        "",
        "## Runs",
        "",
        "`runs/NAME/`: `config.json` (resolved keys with their origins, teacher and shards by hash), `metrics.jsonl`,",
        "`checkpoints/step-N.safetensors` with `.json`, `model.safetensors`, `results.json`, `maps/`.",
    ]
    return "\n".join(lines) + "\n"


def keys() -> str:
    """Return the page on configuration keys."""
    lines = ["# Keys", "", "Generated from the code by `tools/docs.py`. `--set key=value` reaches each of them.", ""]
    for title, module, config in (
        ("Rendering", render_options, RenderOptions()),
        ("Training", model_config, ModelConfig()),
    ):
        reasons = _reasons(module, type(config).__name__)
        lines += [f"## {title}", "", "| key | default | why |", "|---|---|---|"]
        lines += [
            f"| `{key}` | {value!r} | {reasons.get(key, '').replace('|', chr(92) + '|')} |"
            for key, value in flatten(config).items()
        ]
        lines.append("")
    lines += ["## Presets", ""]
    lines += [
        f"`{name}`: " + (", ".join(f"{k}={v}" for k, v in preset.items()) or "the defaults") + "\n"
        for name, preset in PRESETS.items()
    ]
    return "\n".join(lines).rstrip() + "\n"


def _reasons(module: object, root: str) -> dict[str, str]:
    """Return the text below each field of the configuration classes, by dotted key."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[str, str] = {}

    def walk(name: str, prefix: str) -> None:
        body = classes[name].body
        for place, node in enumerate(body):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            kind = node.annotation.id if isinstance(node.annotation, ast.Name) else ""
            if kind in classes:
                walk(kind, f"{prefix}{node.target.id}.")
                continue
            after = body[place + 1] if place + 1 < len(body) else None
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[prefix + node.target.id] = " ".join(str(after.value.value).split())

    walk(root, "")
    return found


def main() -> int:
    """Write or check the pages."""
    pages = {"formats.md": formats(), "keys.md": keys()}
    if "--check" in sys.argv:
        stale = [name for name, text in pages.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != text]
        if stale:
            print(f"stale: {', '.join(stale)}; run tools/docs.py")
        return len(stale)
    DOCS.mkdir(exist_ok=True)
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
