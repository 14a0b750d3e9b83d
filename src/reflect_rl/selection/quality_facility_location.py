"""Quality-weighted facility location."""

from __future__ import annotations

from typing import Any, ClassVar

from reflect_rl.errors import SelectionError
from reflect_rl.selection.facility_location import FacilityLocation


class QualityFacilityLocation(FacilityLocation):
    r"""Facility location that also rewards the quality of what is chosen.

    $$(1 - a) \frac{1}{N} \sum_i \max_{j \in S} s_{ij} + a \frac{1}{N} \sum_{j \in S} q_j$$

    Source: QDIT, arXiv 2311.14736. `FacilityLocation` with scores, which are required here. Left open, and settled
    here: scores are scaled to [0, 1] over the pool, so that an item of the best quality is worth as much as raising
    one item's similarity from 0 to 1; the share a is `quality`, one half by default.
    """

    name: ClassVar[str] = "quality-facility-location"

    def check(self, scores: Any, groups: Any) -> None:
        if scores is None:
            raise SelectionError(f"{self.name} needs scores: the quality of each item.")
