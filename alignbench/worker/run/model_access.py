"""What a judge may read with: `alignbench.api.judge.Models`, inside `align`, before it and in the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alignbench.api.policy import Policy, TrainablePolicy
from alignbench.store import Store

if TYPE_CHECKING:
    from alignbench.api.reward import RewardModel
    from alignbench.models import Base


class HasBase(Protocol):
    """Where base, root and store come from; the base is loaded when it is first asked for."""

    root: Path
    store: Store

    @property
    def base(self) -> Base: ...


@dataclass(frozen=True)
class ModelAccess:
    """What a judge may read with."""

    of: HasBase
    starts: Callable[[], Policy] | None
    """The start of the method that asks; None: the base."""
    own_reward_model: Callable[..., RewardModel]

    @property
    def base(self) -> TrainablePolicy:
        return self.of.base.policy()

    @property
    def start(self) -> Policy:
        return self.base if self.starts is None else self.starts()

    @property
    def root(self) -> Path:
        return self.of.root

    @property
    def store(self) -> Store:
        return self.of.store


def refuse(rows: Any, **how: Any) -> Any:
    """Stand in for `own_reward_model` where rows are filtered: there is none yet."""
    from alignbench.errors import RecipeError

    raise RecipeError("a judge that filters rows cannot be trained on them", "name one that is trained")
