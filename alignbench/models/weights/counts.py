"""How many of a model's weights are quantised, adapted, or left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Weights:
    """The weights of a base by what is done with them."""

    total: int
    quantised: Mapping[str, int]
    """The weights of each quantised layer or stack of experts, by its name."""
    adapted: Mapping[str, int]
    """The weights of each that gets an adapter."""

    def shares(self) -> dict[str, float]:
        """Return the shares of all weights that are quantised, that are adapted, and that are neither."""
        both = {**self.quantised, **self.adapted}
        counts = {"quantised": self.quantised, "adapted": self.adapted, "neither": both}
        shares = {name: sum(found.values()) / self.total for name, found in counts.items()}
        return shares | {"neither": 1 - shares["neither"]}

    def record(self) -> dict[str, Any]:
        """Return the number of all weights, and `shares`."""
        return {"weights": self.total, "shares": self.shares()}
