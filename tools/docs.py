"""Generate docs/api.md, formats.md, keys.md, methods.md, sets.md and shard-format.md from the code; --check only compares."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_sets import sets

import mvad
from mvad.datasets.folders import GOOD_NAMES, OTHER_NAMES
from mvad.datasets.renders import layout
from mvad.datasets.renders.record import WHY
from mvad.datasets.scan import GOOD
from mvad.datasets.shards.chunks import FILTERS, PIPELINES, Filter
from mvad.datasets.shards.pack import PackOptions
from mvad.datasets.shards.schema import (
    CARD,
    FIELD_ATTRIBUTES,
    FIELDS,
    IMAGES,
    MANIFEST,
    MAX_ATTRIBUTE_BYTES,
    MAX_CHUNK_BYTES,
    MAX_SAMPLES,
    MAX_SIDE,
    MAX_VIEWS,
    MODALITIES,
    ROOT_ATTRIBUTES,
    SCHEMA,
    SCHEMA_VERSION,
)
from mvad.model.config import PRESETS
from mvad.model.explain import FIXED
from mvad.model.registry import all_keys, methods
from mvad.render.options import RenderOptions
from mvad.settings import RENAMED, KeyInfo, describe

DOCS = Path(__file__).parents[1] / "docs"


def formats() -> str:
    """Return the page on file formats."""
    lines = [
        "# File formats",
        "",
        "Generated from the code by `tools/docs.py`; `make test` fails if it is out of date.",
        "",
        "## Rendered folders",
        "",
        "Each scan has a folder `renders/<dataset>/<category>/<split>/<defect>/<id>/`, which is either complete or absent. Its file",
        f"`{layout.RECORD}` holds the SHA-256 of every input and output, the configuration, the counts of points, the audit of the ground truth,",
        "`scan_size` (height and width of the scan), `pose` (4 x 4, metres: from the sensor's camera frame to the frame of the rig), `pose_number`,",
        "`pose_fit` (0 to 1; null without a template), `turn_deg` and `cut` (the views beyond which the object reaches).",
        "",
        "| file (K is the number of the view) | content |",
        "|---|---|",
        "| `rgb_K.png` | 8 bits: colour of the sensor, without shading, mean of 3 x 3 samples per pixel; black where nothing is seen |",
        "| `depth_K.png` | 16 bits: metres = offset_m + step_m * (value - 1), 0 where nothing is seen; step and offset are in the record |",
        "| `normal_K.png` | 8 bits: n = value / 127.5 - 1 in the view's frame (x right, y down, z forward); (0, 0, 0) where nothing is seen |",
        "| `mask_K.png` | 255 on the defect, otherwise 0: ground truth of the scan point at the pixel |",
        "| `source_K.tiff` | int32 row * W + column of the raw scan, -1 where nothing is seen; zstd with predictor (tifffile, imagecodecs, libtiff 4.0.10) |",
        "",
        "Depth, normal, mask and source are taken from the surface point at the pixel's centre, without blending.",
        "",
        f"The folder of the splits also holds `{layout.MANIFEST}` (the sorted union of the records, with the rig and the rasteriser's device),",
        f"`{layout.RIG}`, `{layout.AUDIT}` (visibility of the ground truth and points removed as background, per view and scan),",
        f"`{layout.FAILED}` (scans that failed, with reasons) and `{layout.TIMINGS}` (seconds by stage; in a separate log, so that all other",
        "files have the same bytes in every run).",
        "",
        "JSON files of mvad have a member `seal`: the SHA-256 of the file's text in which the 64 digits of the seal are zeros. Lines of",
        "logs (`*.jsonl`) have a member `crc32`: the CRC-32 of the line's JSON without this member, with sorted keys.",
        "",
        "Some members are present only if they have content: `notes` of a record (decisions made in reading the scan, one line each),",
        "`notes` of a manifest (each with the number of its samples and the first of them), `missing` of a manifest (samples that should be",
        "there, each with `reason` and `why`), and `unread_training_scans` of `rig.json`. `why` is one of",
        "",
        *(f"- `{why}`: {meaning}" + (";" if why != list(WHY)[-1] else ".") for why, meaning in WHY.items()),
        "",
        "`mvad pack` copies `notes` and `missing` to the manifest and the card of the shards. If scans are missing for the reason `raw`, it",
        "packs the others, and ends with exit code 6 unless `--partial` is given. If scans are missing for another reason, it packs only with `--partial`.",
        "",
        "## Raw data",
        "",
        "Datasets are read as their publishers pack them, and in the variants that occur in practice:",
        "",
        "- Every file name that any of a scan's folders (xyz, rgb, gt; depth, image, ...) holds counts as a scan; extensions may be in upper or lower",
        "  case. A scan that lacks one of its files fails and is named. Names that begin with a dot are never data.",
        f"- Other names of folders are read with a note: {', '.join(f'`{name}` as {split}' for split, names in OTHER_NAMES.items() for name in names)};",
        f"  names with capitals; and, for folders of good parts, {', '.join(sorted(GOOD_NAMES - {GOOD}))}. Two folders that would be read as the same one are",
        "  refused, and so are folders of scans that are not a split. Scans with defects among the training or validation scans fail and are named.",
        "- A good test scan without a mask is normal. The following scans fail and are named: a good scan whose mask marks something, an Eyecandies test",
        "  scan without `metadata.yaml`, and a scan with a defect but without a mask. A scan with a defect whose mask marks nothing keeps its label, with a note.",
        *MASKS,
        "- Points must be float32 or float64 metres. Files with the channels first, with one page per channel or per row, or with a constant fourth",
        "  channel can be read. Colours must have 8 bits; an opaque alpha channel, a palette, and 8 bits stored as 16 can be read. Pointer files of",
        "  git-lfs and git-annex, web pages, and points in millimetres or micrometres are refused with a message that says what they are.",
        "- Scans whose support was removed by other tools (recognised by an empty border) are rendered as they are, with a note. The sensor's axis then",
        "  replaces the support's normal, so that poses equal those of whole scans only if the sensor looks straight down.",
        "- If a training scan is repaired or added later, the cameras are not fitted again: a note names the scan, and `--overwrite` fits them again.",
        "- Real-IAD: folders and files may be links, and names in split files may have backslashes. `mvad pack --splits sv` (or another folder",
        "  `realiad_jsons_*`) uses other splits, and `--validation 0.2` holds out training samples ([sets.md](sets.md)). A sample with a damaged",
        "  picture is left out and listed.",
        "",
        "For your own scans and meshes see [own-scans.md](own-scans.md).",
        "",
        "## Shards",
        "",
        "See [shard-format.md](shard-format.md).",
        "",
        "## Runs",
        "",
        "`runs/NAME/` holds the files of a run:",
        "",
        "- `config.json` (resolved keys with their origins; teacher and shards by hash), `metrics.jsonl`, `model.safetensors`,",
        "  `checkpoints/step-N.safetensors` with a `.json` that refers to `checkpoints/frozen-N.safetensors` (what the phase does not train);",
        "- after `mvad evaluate`: `results.json` and `maps/`; with `--views 0,2`: `results-views-0-2.json` and `maps-views-0-2/`; with",
        "  `--project-to-scan`: `scan/KEY.tiff` (float32, on the scan's grid) and `scan/KEY.ply`; with `--missing-views`: `missing-views.json`;",
        "- after `mvad predict`: `threshold.json` and `predictions/`;",
        "- after `mvad export --format onnx`: `model.onnx` and `model.onnx.json`.",
        "",
        "See [evaluation.md](evaluation.md).",
    ]
    return "\n".join(lines) + "\n"


MASKS = (
    "- Masks. A mask with two values, one of which is 0, and a mask of class numbers mark the pixels over 0. Class numbers are at most 15 in the whole",
    "  mask, or they are at most 16 values of a PNG, each of which fills a block of 3 x 3 pixels. Any other mask has soft edges, because it was resized or",
    "  is a JPEG. Its regions are the connected pixels over a 16th of the mask's greatest value (JPEG: a 4th), and in each region the pixels over half of",
    "  the region's own greatest value are marked. If a mask has another size than its picture, but the same proportions, it marks each pixel of the picture",
    "  of which it marks a part. If a view has another size than its picture, a pixel of the view is marked if its centre is marked; if nothing would be left,",
    "  each pixel of which a part is marked.",
)
"""What ``masks.RULE`` says, in more words; the rule itself is recorded in shards, so that its text must not change without need."""


READ = """import h5py, hdf5plugin, json

with h5py.File("test-00000.h5") as file:
    rgb, depth = file["rgb"][0], file["depth"][0]
    metres = (file["depth"].attrs["offset"] + file["depth"].attrs["step"] * (depth - 1.0)) * (depth > 0)
    print(json.loads(file.attrs["views"]), file["key"].asstr()[0], rgb.shape, metres.max(), file["mask"][0].sum(axis=(1, 2)))
"""


CAMERAS = """import h5py, hdf5plugin, numpy

with h5py.File("test-00000.h5") as file:
    cameras = numpy.linalg.inv(file["pose"][0]) @ file["rig/poses"][:]
    near, far, radius = file["rig/range"][:]
    rows, columns = numpy.divmod(file["source"][0], file["scan_size"][0, 1])
    number, fit, turn = file["pose_number"][0], file["pose_fit"][0], file["turn_deg"][0]
    numpy.savez("cameras.npz", cameras=cameras, rows=rows, columns=columns, pose_number=number, fit=fit, turn=turn)
"""


def _levels(chosen: Filter) -> str:
    by_field = ", ".join(f"{level} for {name}" for name, level in chosen.field_levels.items())
    return str(chosen.default_level) + (f" ({by_field})" if by_field else "")


def shard_format() -> str:
    """Return the page on shards."""
    shapes = {name: field.shape for name, field in FIELDS.items()}
    lines = [
        f"# Shards: `{SCHEMA}` {SCHEMA_VERSION}",
        "",
        "Generated from the code by `tools/docs.py`; `make test` fails if it is out of date, and runs the code below.",
        "",
        "One HDF5 file holds some of the samples of a category's split: `shards/<dataset>/<category>/<split>-00000.h5`. The folder also",
        f"holds `{MANIFEST}` (counts, sizes and SHA-256 of each file, configuration, audit of the ground truth, notes, missing samples) and `{CARD}`, the",
        "dataset card. `mvad inspect FILE` prints the content of a file and draws a contact sheet; `mvad verify` checks every byte.",
        "",
        "## Read it without mvad",
        "",
        "Run `pip install h5py hdf5plugin`, then:",
        "",
        "```python",
        *READ.splitlines(),
        "```",
        "",
        "After `mvad pack --filter gzip` (or `none`) the same works without `hdf5plugin`.",
        "",
        "The cameras are given in the frame of the rig, the same for all samples of a category. The following lines compute where the cameras",
        "are in a sample's sensor frame, which is the frame of its raw scan, and which row and column of the scan each pixel shows:",
        "",
        "```python",
        *CAMERAS.splitlines(),
        "```",
        "",
        "If an object was drawn mirrored, its pose has determinant -1, and so have its cameras in the sensor's frame.",
        "",
        "## Fields",
        "",
        'N samples, V views, H x W pixels. Fields marked "renders only" are in all shards of renders and in no others; all other fields are in every',
        f"file. The exceptions are `seen`, which shards of photographs need not have, and {', '.join(MODALITIES)} and source: a file may have been packed with",
        f"only some of these, but at least one of {', '.join(MODALITIES)}.",
        "",
        "| dataset | shape | dtype | unit | meaning |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {shapes[name]} | {'fixed-length UTF-8' if field.dtype == 'S' else field.dtype} | {field.unit or '-'} | {field.meaning} |"
            for name, field in FIELDS.items()
        ),
        "",
        "| attribute of a dataset | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in FIELD_ATTRIBUTES.items()),
        "",
        "| attribute of the file | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in ROOT_ATTRIBUTES.items()),
        "",
        "Strings are fixed-length UTF-8 (h5py returns them as `bytes`).",
        "",
        "## Invariants",
        "",
        "- Only views that are present and labelled anomalous have a mask. A sample with such a view is labelled anomalous; a sample whose defect is",
        "  `good` is not. A sample may be labelled anomalous although no view shows its defect.",
        "- All pixels of a missing view are 0. `seen`, `depth > 0`, `normal != 0` and `source >= 0` hold for the same pixels.",
        "- `pose` is a rigid motion or a mirrored one, and `rig/poses` are rigid motions; their last rows are 0 0 0 1.",
        "- `pose_number` is at least -1; `pose_fit` is 0 to 1, or -1 if the category has no template; `turn_deg` is -180 to 180; `cut` is 0 or 1;",
        "  `source` is below the product of the two numbers of `scan_size`.",
        "- In `rig/range`, 0 < near < far and radius > 0; the levels of `depth` span near to far.",
        "",
        "## Version 1",
        "",
        "Version 1 of the format had `shift` (N 3) in place of the fields from `pose` to `scan_size`, and no `rig/range`. It is not read. Every command",
        "says so, and names the commands that create the shards again: `mvad render DATASET --category CATEGORY --overwrite` and `mvad pack",
        "--dataset DATASET --category CATEGORY --overwrite` (for photographs only the second).",
        "",
        "## Storage",
        "",
        f"{', '.join(f'`{name}`' for name in IMAGES)} have one chunk per sample, (1, V, H, W, ...), and the chunks of a sample are",
        "adjacent. Every other dataset is a single chunk. The filters of a dataset are one of these rows:",
        "",
        "| `--filter` | HDF5 filters, in order | level |",
        "|---|---|---|",
        *(
            f"| `{f.name}` | {' then '.join(str(n) for n in pipeline)} | {f'1 to {f.greatest_level}, default {_levels(f)}' if f.greatest_level else '-'} |"
            for pipeline, f in ((pipeline, FILTERS[name]) for pipeline, name in PIPELINES.items())
        ),
        "",
        "The numbers mean: 1 deflate, 3 fletcher32, 32004 lz4, 32015 zstd. Every chunk has a fletcher32 checksum of its stored bytes. No times are",
        "stored, and the file format is limited to HDF5 1.10, so that equal inputs give equal bytes.",
        "",
        "## What the reader of mvad rejects",
        "",
        "The reader rejects the following, and checks all of it before any pixel is read:",
        "",
        "- links (external, soft), external storage, and virtual, contiguous or compact datasets;",
        "- references, and variable-length, compound, enumerated or committed types;",
        "- other filters or chunks, and chunks that skip their filters or are missing;",
        f"- chunks over {MAX_CHUNK_BYTES >> 20} MiB, attributes over {MAX_ATTRIBUTE_BYTES >> 20} MiB, and more than {MAX_SAMPLES} samples, {MAX_VIEWS} views or {MAX_SIDE} pixels a side;",
        "- unknown fields, attributes and versions.",
        "",
        "The HDF5 library itself has had memory errors on crafted files. A file whose SHA-256 is in a manifest is parsed in",
        "the same process; any other file is parsed in a child process without plugins and with limits on memory, time and files. A manifest proves that",
        "nothing changed since it was written, but not who wrote it. Therefore check shards from other sources with `mvad verify --untrusted`,",
        "which parses each file in such a child process. Pixels are not read by the HDF5 library: mvad reads the bytes of a chunk from the file,",
        "compares the checksum, and decodes into a buffer of exactly the size that the shape requires.",
    ]
    return "\n".join(lines) + "\n"


def keys() -> str:
    """Return the page on configuration keys."""
    lines = [
        "# Keys",
        "",
        "Generated from the code by `tools/docs.py`; `make test` fails if it is out of date. `--set key=value` sets keys of",
        "rendering and training, and `mvad.train(..., input__size=128)` sets keys of training. Keys of packing are options of `mvad pack`.",
        "",
    ]
    groups: dict[str, Mapping[str, KeyInfo]] = {
        "Rendering": describe(RenderOptions), "Packing": describe(PackOptions), "Training": all_keys(),
    }  # fmt: skip
    for title, group in groups.items():
        lines += [f"## {title}", "", "| key | default | meaning or reason |", "|---|---|---|"]
        lines += [f"| `{info.name}` | {_default(info.default)} | {_cell(info.why)} |" for info in group.values()]
        lines.append("")
    lines += [
        "The next table lists what the paper (IDIF, AAAI-25, or the paper that is named) says about each key of training, and alternatives.",
        '`mvad explain KEY` shows the same. "silent" means that the paper does not say; DeSTSeg is the published code (apple/ml-destseg) on which',
        "IDIF builds.",
        "",
        "| key | the paper | alternatives |",
        "|---|---|---|",
        *(f"| `{i.name}` | {_cell(i.paper)} | {_cell(i.alternatives)} |" for i in (*all_keys().values(), *FIXED.values())),
        "",
        "## Presets",
        "",
        "This section lists the keys that each preset sets for IDIF. Other methods use those of these keys that they have, and in addition their own keys, which are listed at the end.",
        "",
    ]
    for name in PRESETS:
        shown = methods()["idif"].preset(name)
        lines += [f"`{name}`: " + (", ".join(f"{k}={v}" for k, v in shown.items()) or "the defaults"), ""]
    other_presets = [
        f"`{name}`, {method.name}: " + ", ".join(f"{k}={v}" for k, v in method.presets[name].items())
        for method in methods().values()
        for name in method.presets
        if "idif" not in method.config.__module__ and "missing" not in method.config.__module__
    ]
    lines += [line for text in other_presets for line in (text, "")]
    lines += ["## Renamed keys", "", "The old names are accepted until the next version, with a notice.", ""]
    lines += ["| old name | new name |", "|---|---|", *(f"| `{before}` | `{now}` |" for before, now in RENAMED.items())]
    return "\n".join(lines).rstrip() + "\n"


def _default(value: Any) -> str:
    return "none" if value in (None, [], "") else f"`{', '.join(map(str, value))}`" if isinstance(value, list) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def methods_page() -> str:
    """Return the page on methods."""
    lines = [
        "# Methods",
        "",
        "Generated from the declarations by `tools/docs.py`; `make test` fails if it is out of date. See also",
        "[training.md](training.md).",
        "",
        "| `--model` | method | principle | publication | backbone of the publication | training |",
        "|---|---|---|---|---|---|",
    ]
    for m in methods().values():
        trained = "in one pass" if m.one_pass else "in steps" + (", by several processes" if m.shares_batches else "")
        trained += ", from pseudo anomalies" if m.needs_textures else ""
        lines.append(f"| `{m.name}` | {m.title} | {m.summary} | {m.paper} | {m.paper_backbone} | {trained} |")
    return "\n".join(lines) + "\n"


def api() -> str:
    """Return the page on the public API."""
    from mvad import api as public

    remarks = " ".join((public.__doc__ or "").split("\n\n", 1)[1].split()).replace("``", "`")
    lines = [
        "# API",
        "",
        "Generated from the docstrings by `tools/docs.py`; `make test` fails if it is out of date, and runs every example.",
        "",
        remarks,
        "",
        "```python",
        "import mvad",
        "",
        'run = mvad.train("mvad-data/shards/mvtec3d/cable_gland", "padim", preset="small")',
        'results = run.evaluate("mvad-data/shards/mvtec3d/cable_gland")',
        'print(results.figures["s_auroc"], results.figures.intervals["s_auroc"])',
        'maps = run.predict("downloads/mvtec3d/cable_gland/test")',
        "```",
        "",
    ]
    functions = [name for name in mvad.__all__ if inspect.isfunction(getattr(mvad, name))]
    described: dict[str, Any] = {name: getattr(mvad, name) for name in functions}
    described |= {"Run.evaluate": mvad.Run.evaluate, "Run.predict": mvad.Run.predict}
    for name, function in described.items():
        lines += [f"## `mvad.{name}`", "", "```python", _signature(name, function), "```", "", *_described(function), ""]
    lines += ["# Types", ""]
    for name in mvad.__all__:
        if inspect.isclass(kind := getattr(mvad, name)):
            lines += [f"## `mvad.{name}`", "", *_described(kind), *_options(kind), ""]
    return "\n".join(lines).rstrip() + "\n"


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parts = [str(p) for p in signature.parameters.values() if p.name != "self"]
    return f"{name}({', '.join(parts)}) -> {signature.return_annotation}".replace("'", "").replace(
        " -> <class inspect._empty>", ""
    )


def _described(function: Any) -> list[str]:
    """Convert a numpy docstring to Markdown lines: sections in bold, definitions as a list, the example as code."""
    lines: list[str] = []
    text = inspect.getdoc(function) or ""
    body, _, example = text.partition("Examples\n--------\n")
    rows = body.splitlines()
    for k, row in enumerate(rows):
        following = rows[k + 1] if k + 1 < len(rows) else ""
        if set(row) == {"-"}:
            lines.append("")
        elif set(following) == {"-"} and following:
            lines.append(f"**{row}**")
        elif row.startswith("    "):
            lines[-1] += " " + row.strip()
        elif lines and row and any(line.startswith("**") for line in lines):
            lines.append(f"- `{row.strip()}`:")
        else:
            lines.append(row)
    plain = [line.replace("``", "`") for line in lines]
    return [*plain, "```python", *example.strip().splitlines(), "```"] if example else plain


def _options(kind: type) -> list[str]:
    """Return the fields of a dataclass of keys as a list, with defaults and descriptions."""
    if not dataclasses.is_dataclass(kind) or not any("why" in field.metadata for field in dataclasses.fields(kind)):
        return []
    return ["", "**Fields**", "", *(f"- `{info.name}` = `{info.default}`: {info.why}" for info in describe(kind).values())]


def main() -> int:
    """Write the pages, or compare them with ``--check``; return the number of pages that are out of date."""
    pages = {
        "api.md": api(), "formats.md": formats(), "keys.md": keys(), "methods.md": methods_page(), "sets.md": sets(),
        "shard-format.md": shard_format(),
    }  # fmt: skip
    if "--check" in sys.argv:
        stale = [name for name, text in pages.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != text]
        if stale:
            print(f"out of date: {', '.join(stale)}; run tools/docs.py")
        return len(stale)
    DOCS.mkdir(exist_ok=True)
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
