"""What a trained reward model offers a method."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any, Protocol

from alignbench.api.policy import TrainablePolicy
from alignbench.rows import Sequence

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear


class RewardModel(Protocol):
    """Scores whole answers: 0 for a typical demonstration, 1 more for each standard deviation above it."""

    @property
    def adapter(self) -> TrainablePolicy:
        """The frozen adapter whose hidden states the head reads."""
        ...

    @property
    def head(self) -> Linear:
        """float32, [hidden] to [1]; centring and scale are in it."""
        ...

    @property
    def quality(self) -> Mapping[str, Any]:
        """What held-out comparisons say about it: `accuracy`, `log_loss`, `calibration`, ..."""
        ...

    def score(self, sequences: Many[Sequence]) -> Tensor:
        """Return float32 [N]: one number for each sequence, read at its last real token."""
        ...
