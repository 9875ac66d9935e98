"""Thresholds for raters: a rater below one is left out of the report and named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from alignbench import layout, store
from alignbench.errors import RecipeError
from alignbench.label import journal
from alignbench.label.design import Design
from alignbench.label.journal import Annotation
from alignbench.label.quality import quality


class Thresholds(BaseModel):
    """Least shares, from 0 to 1, that a rater must reach; 0 leaves nobody out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agreement: float = Field(default=0.0, ge=0, le=1)
    """Of pairs that a rater orders like the others."""
    consistency: float = Field(default=0.0, ge=0, le=1)
    """Of pairs of repeated items that a rater orders as before."""
    checks: float = Field(default=0.0, ge=0, le=1)
    """Of pairs with a known answer that a rater orders rightly."""

    @property
    def set(self) -> dict[str, float]:
        """The thresholds that can leave somebody out, by name."""
        return {name: least for name, least in self if least}

    def left_out(self, raters: Mapping[str, Any]) -> dict[str, str]:
        """Return raters below a threshold with the reason; `raters` as `alignbench.label.quality.quality` gives them.

        A rater who could not be measured against a threshold is kept.
        """
        found = {}
        for rater, known in raters.items():
            for threshold, least in self.set.items():
                reached = known[threshold]
                if reached is not None and reached["value"] < least:
                    found[rater] = f"{threshold} {reached['value']:.0%} is below {least:.0%}"
        return found

    def unmeasured(self, raters: Mapping[str, Any]) -> list[str]:
        """Return the thresholds that some rater could not be measured against, each with the rater."""
        return [
            f"{threshold}: {rater}"
            for threshold in self.set
            for rater, known in raters.items()
            if known[threshold] is None
        ]


def applied(
    design: Design, annotations: Sequence[Annotation], thresholds: Thresholds
) -> tuple[dict[str, Any], list[Annotation]]:
    """Return what is known of a labelling by the raters who are kept, and their annotations.

    As `alignbench.label.quality.quality`, whose `raters` are all, with the `thresholds` that are set, who is
    `left_out` with the reason, and what could not be measured (`unmeasured`).
    """
    found = quality(design, annotations)
    out = thresholds.left_out(found["raters"])
    kept = [one for one in annotations if one.rater in found["raters"] and one.rater not in out]
    together = quality(design, kept) if out else found
    limits = {
        "thresholds": thresholds.set,
        "left_out": out,
        "unmeasured": thresholds.unmeasured(found["raters"]),
    }
    return {**together, "raters": found["raters"], **limits}, kept


def parsed(texts: list[str]) -> dict[str, float]:
    """Return thresholds from texts like `checks=0.8`. Raises RecipeError where one is not a threshold."""
    found = {}
    for text in texts:
        name, _, share = text.partition("=")
        try:
            found[name] = float(share)
            Thresholds(**found)
        except ValueError as error:
            names = ", ".join(Thresholds.model_fields)
            raise RecipeError(
                f"--require {text}: expected a name ({names}), = and a share from 0 to 1",
                "--require checks=0.8",
            ) from error
    return found


def read(folder: Path) -> Thresholds:
    """Return the thresholds of a labelling; none are set where nobody set any."""
    file = folder / layout.THRESHOLDS
    return Thresholds(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Thresholds()


def write(thresholds: Thresholds, folder: Path) -> None:
    """Keep the thresholds of a labelling."""
    store.write_json(folder / layout.THRESHOLDS, thresholds.model_dump())


def digest(folder: Path) -> str:
    """Return a digest of all rankings in `folder` and of its thresholds; "" where there are none."""
    recorded, thresholds = journal.digest(folder), read(folder).set
    return store.digest([recorded, thresholds]) if recorded and thresholds else recorded
