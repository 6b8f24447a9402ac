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
        "A memory bank is never reduced below this many patches, since few training samples give few patches.",
        paper=OURS,
        alternatives="0: the paper's share, however few patches that are",
        least=0,
    )
    projection: int = key(
        128, "Dimensions of the random projection in which the coreset is searched.", paper="Roth et al. 2022: 128", least=1
    )
    neighbours: int = key(
        9,
        "Number of neighbours of the reweighting (eq. 7); 1: an image's score is its largest distance, without reweighting.",
        paper="Roth et al. 2022: b nearest; their code does not reweight (1 here), anomalib takes 9",
        least=1,
    )
    sigma: float = smoothing_sigma("Roth et al. 2022: 4")
    max_patches: int = key(
        100000,
        "Largest number of patches per view in the coreset search; drawn at random if there are more.",
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
