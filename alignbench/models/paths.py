"""Which fast paths a model is computed on; `trials` finds them at load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Batch = Literal["padded", "equal lengths", "one by one"]


@dataclass(frozen=True)
class Paths:
    """Which fast paths a model is computed on. The default is right for every causal model."""

    batch: Batch = "one by one"
    """Which texts share a forward: any, with padding on the left; those of one length; or none."""
    cache: bool = False
    """Whether the model's own cache goes from token to token; otherwise whole texts are computed again."""
    mask: bool = True
    """Whether a step behind a cache takes the mask of all positions; some recurrent models take none."""
    cut: bool = False
    """Whether ended answers are removed from a batch's cache; otherwise they stay in it."""
    one_row: bool = False
    """Whether sequences are trained on and scored as one row without padding."""
    padding: bool = False
    """Whether sequences in rows with padding on the right are; otherwise one by one."""
    last_layer: bool = False
    """Whether the last layer is computed only for the tokens that are read."""
    trees: Literal["one row", "rows", "whole texts"] = "whole texts"
    """How searches and judges compute what texts share: once, in one row or a row for each tree; or not."""

    def slower(self) -> list[str]:
        """Return what is slower than it could be, because the faster way gave other numbers."""
        notes = {
            "texts of unequal length are answered apart": self.batch == "equal lengths",
            "texts are answered one by one": self.batch == "one by one",
            "every token of an answer reads the whole text again, without a cache": not self.cache,
            "answers that have ended stay in their batch": self.cache
            and not self.cut
            and self.batch != "one by one",
            "sequences are trained on and scored with padding": not self.one_row and self.padding,
            "sequences are trained on and scored one by one": not self.one_row and not self.padding,
            "searches and judges compute a row for each tree": self.trees == "rows",
            "searches and judges compute every path as a whole text": self.trees == "whole texts",
        }
        return [note for note, holds in notes.items() if holds]
