"""Plan the samples of a generated dataset: split, defect, number and variation of each."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from mvad.datasets.scan import GOOD
from mvad.datasets.synth.defects import add_defect
from mvad.datasets.synth.shapes import Part, Variation, make_part
from mvad.errors import BadInput


@dataclass(frozen=True)
class PlannedSample:
    """One sample to generate.

    Attributes
    ----------
    shape
        Name of the shape, which is the category.
    split, defect
        Names of split and defect; several defects are joined by ``+``.
    number
        Number in the file name; numbers are shuffled over the defects of a split.
    seed
        Seed of everything random in the sample.
    variation
        Parameters in which good parts differ.
    """

    shape: str
    split: str
    defect: str
    number: int
    seed: int
    variation: Variation

    def part(self) -> Part:
        """Build the part with its defect; ``gt`` is the union over all kinds."""
        return self.stages()[-1]

    def stages(self) -> list[Part]:
        """Build the good part, and the part after each further kind of defect in ``defect``."""
        rng = np.random.default_rng(self.seed)
        stages = [make_part(self.shape, self.variation, rng)]
        for kind in [] if self.defect == GOOD else self.defect.split("+"):
            stages.append(add_defect(stages[-1], kind, rng))
        return stages

    def sensor_rng(self) -> np.random.Generator:
        """Return the random numbers of the sensor's noise, independent of those of the part."""
        return np.random.default_rng([self.seed, 1])


def plan(
    shape: str, seed: int, train: int, validation: int, good: int, per_defect: int, defects: tuple[str, ...]
) -> list[PlannedSample]:
    """Plan one category.

    Every class of a split gets variations that are spread evenly over their ranges (one in each of n equal strata), so that
    in a small dataset no global quantity separates the classes by chance.

    Raises
    ------
    BadInput
        If there is no training sample.
    """
    if train < 1:
        raise BadInput("--train must be at least 1")
    digest = hashlib.sha256(f"{shape} {seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    samples = []
    for split, classes in (
        ("train", {GOOD: train}),
        ("validation", {GOOD: validation}),
        ("test", {GOOD: good} | dict.fromkeys(defects, per_defect)),
    ):
        numbers = iter(rng.permutation(sum(classes.values())))
        for defect, count in classes.items():
            for variation in _spread(count, rng):
                seed_of_sample = int(rng.integers(1 << 62))
                samples.append(PlannedSample(shape, split, defect, int(next(numbers)), seed_of_sample, variation))
    return samples


def _spread(count: int, rng: np.random.Generator) -> list[Variation]:
    names = [field.name for field in dataclasses.fields(Variation)]
    columns = [(rng.permutation(count) + rng.random(count)) / max(count, 1) for _ in names]
    return [Variation(*(float(column[k]) for column in columns)) for k in range(count)]
