"""Choose which items of a pool are worth a label before any is labelled. Needs numpy only.

    from reflect_rl.selection import FacilityLocation

    picks = FacilityLocation().select(X, budget=1000)
    picks.indices, picks.gains, picks.objective, picks.certificate

Every strategy is a `Selector`; STRATEGIES has them by name.
"""

from reflect_rl.selection.equal_budget import EqualBudget
from reflect_rl.selection.facility_location import FacilityLocation
from reflect_rl.selection.inverse_confidence import InverseConfidence
from reflect_rl.selection.k_center import KCenter
from reflect_rl.selection.least_confidence import LeastConfidence
from reflect_rl.selection.max_token_uncertainty import MaxTokenUncertainty
from reflect_rl.selection.mean_entropy import MeanEntropy
from reflect_rl.selection.mean_margin import MeanMargin
from reflect_rl.selection.min_margin import MinMargin
from reflect_rl.selection.picks import Picks, Selector
from reflect_rl.selection.quality_facility_location import QualityFacilityLocation
from reflect_rl.selection.tokens import Tokens, Uncertainty
from reflect_rl.selection.uncertain_then_diverse import UncertainThenDiverse
from reflect_rl.selection.uniform import Random

STRATEGIES: dict[str, type[Selector]] = {
    strategy.name: strategy
    for strategy in (
        Random,
        MeanEntropy,
        LeastConfidence,
        MeanMargin,
        MinMargin,
        MaxTokenUncertainty,
        KCenter,
        FacilityLocation,
        EqualBudget,
        InverseConfidence,
        QualityFacilityLocation,
        UncertainThenDiverse,
    )
}
"""Every strategy by its name."""

__all__ = [
    "STRATEGIES",
    "EqualBudget",
    "FacilityLocation",
    "InverseConfidence",
    "KCenter",
    "LeastConfidence",
    "MaxTokenUncertainty",
    "MeanEntropy",
    "MeanMargin",
    "MinMargin",
    "Picks",
    "QualityFacilityLocation",
    "Random",
    "Selector",
    "Tokens",
    "UncertainThenDiverse",
    "Uncertainty",
]
