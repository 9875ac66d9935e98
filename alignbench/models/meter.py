"""What a base reports of its work, so that its cost is recorded where it is computed."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.rows import Prompt


class Meter:
    """Receives what a base computes outside of training steps. This one records nothing."""

    def answered(self, prompts: Sequence[Prompt], tokens: int, seconds: float) -> None:
        """`prompts` were answered with `tokens` new tokens in all."""

    def searched(self, tokens: int, forwards: int, seconds: float) -> None:
        """Token trees computed so many positions; `forwards` counts each tree of each forward."""

    def scored(self, sequences: int) -> None:
        """So many sequences were scored without gradient."""
