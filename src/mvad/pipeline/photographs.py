"""New photographs for a trained run: read as those were that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mvad.datasets.photographs.arriving import find_new
from mvad.datasets.photographs.category import Photographs
from mvad.datasets.photographs.contents import sample_hash
from mvad.datasets.photographs.sample import coding_of, read_part
from mvad.datasets.scan import SampleRef
from mvad.datasets.shards.schema import PICTURES
from mvad.errors import BadInput
from mvad.model.evaluation.decide import LoadedSample, LoadedView, NewSample
from mvad.model.runs import RunFolder


def photographs_of(run: RunFolder) -> Photographs:
    """Return how the photographs that a run was trained on became views.

    Raises
    ------
    BadInput
        If it was trained on other data.
    """
    record = run.record
    found = Photographs.recorded(record.dataset, record.category, {PICTURES: record.pictures})
    if found is None:
        raise BadInput(f"{run.path}: was trained on {record.dataset}, not on a folder of photographs; give another run")
    used = (record.spec or {}).get("modalities", ())
    depth_range = found.framing.depth_range if "depth" in used else None
    return replace(
        found, framing=replace(found.framing, depth_range=depth_range, has_normals=found.framing.has_normals and "normal" in used)
    )


def new_parts(source: Path, run: RunFolder) -> list[NewSample]:
    """Return the photographed parts in a folder, to be read one by one later.

    What is wrong with a part is raised when it is read, so that the others are scored.

    Raises
    ------
    BadInput
        If the folder holds no picture.
    """
    photographs = photographs_of(run)
    if not source.is_dir():
        raise BadInput(f"{source}: is a file; give the folder of the parts' photographs")
    listing = find_new(source, photographs.category, photographs.dataset, photographs.layout, photographs.framing.views)
    if not listing.samples and not listing.problems:
        raise BadInput(f"{source}: holds no photograph; expected PART/{next(iter(photographs.framing.views))}.png and the like")
    return [
        *(_failing(line) for line in listing.problems),
        *(new_part(ref, photographs, str(place_of(ref))) for ref in listing.samples),
    ]


def new_part(
    ref: SampleRef, photographs: Photographs, path: str, contents: Mapping[Path, bytes] | None = None
) -> NewSample:  # fmt: skip
    """Return one photographed part to be scored; ``contents`` has the bytes of its pictures where they are no files."""

    def load() -> LoadedSample:
        part = read_part(ref, photographs.framing, contents)
        pictures = {view.camera: view.image for view in ref.views}
        names = list(photographs.framing.views)
        views = [
            LoadedView(name, str(pictures[name]), part.places[name].picture_place) if name in part.places else None
            for name in names
        ]
        return LoadedSample(part.sample, coding_of(photographs.framing), views, names)

    return NewSample(ref.id, lambda: sample_hash(ref, contents), load, path)


def place_of(ref: SampleRef) -> Path:
    """Return the folder of a part, or its one picture."""
    if not ref.views:  # of a part without a picture that is read its fault names one
        return Path(ref.fault.partition(": ")[0]).parent
    first = ref.views[0].image
    return first if len({view.image for view in ref.views}) == 1 else first.parent


def _failing(problem: str) -> NewSample:
    def load() -> LoadedSample:
        raise BadInput(problem)

    return NewSample(problem.partition(":")[0], "", load, problem.partition(":")[0])
