"""Bars for raters: who reaches one of them is kept, who does not is left out and named."""

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


class Bars(BaseModel):
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
        """The bars that can leave somebody out, by name."""
        return {name: least for name, least in self if least}

    def left_out(self, raters: Mapping[str, Any]) -> dict[str, str]:
        """Return raters below a bar with the reason; `raters` as `alignbench.label.quality.quality` gives them.

        A rater who could not be measured against a bar is kept.
        """
        found = {}
        for rater, known in raters.items():
            for bar, least in self.set.items():
                reached = known[bar]
                if reached is not None and reached["value"] < least:
                    found[rater] = f"{bar} {reached['value']:.0%} is below {least:.0%}"
        return found

    def unmeasured(self, raters: Mapping[str, Any]) -> list[str]:
        """Return the bars that some rater could not be measured against, each with the rater."""
        return [
            f"{bar}: {rater}" for bar in self.set for rater, known in raters.items() if known[bar] is None
        ]


def applied(
    design: Design, annotations: Sequence[Annotation], bars: Bars
) -> tuple[dict[str, Any], list[Annotation]]:
    """Return what is known of a labelling by the raters who are kept, and their annotations.

    As `alignbench.label.quality.quality`, whose `raters` are all, with the `bars` that are set, who is `left_out` with
    the reason, and what could not be measured (`unmeasured`).
    """
    found = quality(design, annotations)
    out = bars.left_out(found["raters"])
    kept = [one for one in annotations if one.rater in found["raters"] and one.rater not in out]
    together = quality(design, kept) if out else found
    limits = {"bars": bars.set, "left_out": out, "unmeasured": bars.unmeasured(found["raters"])}
    return {**together, "raters": found["raters"], **limits}, kept


def parsed(texts: list[str]) -> dict[str, float]:
    """Return bars from texts like `checks=0.8`. Raises RecipeError where one is not a bar."""
    found = {}
    for text in texts:
        name, _, share = text.partition("=")
        try:
            found[name] = float(share)
            Bars(**found)
        except ValueError as error:
            names = ", ".join(Bars.model_fields)
            raise RecipeError(
                f"--bar {text}: expected a name ({names}), = and a share from 0 to 1", "--bar checks=0.8"
            ) from error
    return found


def read(folder: Path) -> Bars:
    """Return the bars of a labelling; none are set where nobody set any."""
    file = folder / layout.BARS
    return Bars(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Bars()


def write(bars: Bars, folder: Path) -> None:
    """Keep the bars of a labelling."""
    store.write_json(folder / layout.BARS, bars.model_dump())


def digest(folder: Path) -> str:
    """Return a digest of all rankings in `folder` and of its bars; "" where there are none."""
    recorded, bars = journal.digest(folder), read(folder).set
    return store.digest([recorded, bars]) if recorded and bars else recorded
