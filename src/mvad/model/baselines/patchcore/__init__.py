"""Declaration and keys of PatchCore (Roth et al., CVPR 2022); ``detector.py`` holds the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvad.model.config import OURS, ModelConfig, smoothing_sigma
from mvad.model.method import OWN_SCORES, Method
from mvad.settings import key


@dataclass(frozen=True)
class PatchCoreKeys:
    """PatchCore (Roth et al. 2022), one memory bank per view."""

    coreset: float = key(
        0.1,
        "Share of the patches that the memory bank keeps, chosen by greedy k-centre.",
        paper="Roth et al. 2022: 1, 10 or 25 %",
        least=0,
        most=1,
    )
    min_patches: int = key(
        0,
        "Lower limit of the number of patches in a memory bank: a bank is never reduced below it, since few training samples give few patches.",
        paper=OURS,
        alternatives="0: the share of patches as in the paper, however few patches that leaves",
        least=0,
    )
    projection: int = key(
        128, "Dimensions of the random projection in which the coreset is searched for.", paper="Roth et al. 2022: 128", least=1
    )
    neighbours: int = key(
        9,
        "Number of neighbours for the reweighting (eq. 7). 1: no reweighting; an image's score is its largest distance.",
        paper="Roth et al. 2022: b nearest; their code does not reweight (1 here), anomalib uses 9",
        least=1,
    )
    sigma: float = smoothing_sigma("Roth et al. 2022: 4")
    max_patches: int = key(
        100000,
        "Largest number of patches per view in the coreset search. If there are more, this many are drawn at random.",
        paper=OURS,
        least=1,
    )


@dataclass(frozen=True)
class PatchCoreConfig(ModelConfig):
    """Configuration of a PatchCore run."""

    patchcore: PatchCoreKeys = field(default_factory=PatchCoreKeys)


METHOD = Method(
    name="patchcore",
    title="PatchCore",
    summary="nearest neighbour in a coreset of normal patches, one bank per view",
    paper="Roth et al., CVPR 2022",
    paper_backbone="WideResNet-50",
    paper_name="PatchCore",
    config=PatchCoreConfig,
    detector="mvad.model.baselines.patchcore.detector:PatchCore",
    one_pass=True,
    ignores=OWN_SCORES,
    presets={"small": {"patchcore.min_patches": 12_000}},
)
