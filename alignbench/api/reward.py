"""Reward models, trained on comparisons, and reward functions, which somebody wrote.

Group of entry points for reward functions: `alignbench.rewards`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from alignbench.api.config import API, Settings
from alignbench.api.policy import TrainablePolicy
from alignbench.rows import Prompt, Sequence

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


class RewardConfig(Settings):
    """Fields that every reward function has."""

    weight: float = 1.0
    """Factor of its reward, where several are added."""


class Reward(ABC):
    """A function of a prompt and an answer that a method raises.

    Law: equal (config, prompt, answer) give equal rewards, whatever else is in the batch; where it does not apply
    it returns None, never a neutral number.
    """

    api: ClassVar[int] = API

    Config: ClassVar[type[RewardConfig]] = RewardConfig
    """Its fields in a recipe; an own one is an inner class that inherits `RewardConfig`."""

    def __init__(self, config: RewardConfig | None = None, *, root: Path = Path()):
        self.config: Any = self.Config() if config is None else config
        self.root = root
        """The folder that relative paths of the recipe start from."""

    @classmethod  # noqa: B027  (most functions read answers alone)
    def check_prompts(cls, config: Any, prompts: Many[Prompt]) -> None:
        """Raise AlignbenchError where it applies to the answers of none of these prompts.

        `alignbench check --data` calls it, and a run before anything is trained.
        """

    @abstractmethod
    def score(self, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
        """Return the reward of each answer to its prompt, higher is better. `prompts` and `answers` are aligned.

        A prompt's `extra` holds every column of its row that is neither a prompt nor an answer.
        """
