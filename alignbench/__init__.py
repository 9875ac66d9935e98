"""alignbench: which alignment method is best on your model, your data and your one GPU."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Read by huggingface_hub and others as they are imported; a value that is already set stays.
for _switch in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "1")
# pydantic would read all entry points for plugins of its own, and stop at a file that cannot be read.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Names are resolved on first use: `import alignbench` costs nothing.
_HOME = {
    "alignbench.errors": (
        "AlignbenchError DataError Diverged Exit ModelError PluginError Problem RecipeError SecurityError StorageError"
    ),
    "alignbench.rows": "Demonstration Message Pair Prompt Ranking Row Sequence Text UnpairedPreference",
    "alignbench.api.config": (
        "API AdapterLabel Budget Label Labelling NamedJudge NamedMethod NamedReward NamedSource Revising Sampling "
        "Select Settings Training"
    ),
    "alignbench.api.policy": "Answer Can Decoder LowRank Policy Setting TokenScores TrainablePolicy",
    "alignbench.api.method": (
        "Departure GroupScores Loss Method MethodConfig Numbers PerToken Record Rows Run ScoringGroup"
    ),
    "alignbench.api.judge": "Judge Models PairwiseJudgment Score",
    "alignbench.api.metric": (
        "Cell Difference Evidence Figure Measure Metric Missing PairLogprobs Request by_prompt histograms matches"
    ),
    "alignbench.api.data": "RowFilter Source",
    "alignbench.api.reward": "Reward RewardConfig RewardModel",
    "alignbench.api.launcher": "Event Finished Launcher LauncherConfig Needs Task",
    "alignbench.hooks": "hookimpl",
    "alignbench.models": "DecodingBase Query Reply TokenTree TokenTrees",
}
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'alignbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from alignbench.api.config import API as API
    from alignbench.api.config import AdapterLabel as AdapterLabel
    from alignbench.api.config import Budget as Budget
    from alignbench.api.config import Label as Label
    from alignbench.api.config import Labelling as Labelling
    from alignbench.api.config import NamedJudge as NamedJudge
    from alignbench.api.config import NamedMethod as NamedMethod
    from alignbench.api.config import NamedReward as NamedReward
    from alignbench.api.config import NamedSource as NamedSource
    from alignbench.api.config import Revising as Revising
    from alignbench.api.config import Sampling as Sampling
    from alignbench.api.config import Select as Select
    from alignbench.api.config import Settings as Settings
    from alignbench.api.config import Training as Training
    from alignbench.api.data import RowFilter as RowFilter
    from alignbench.api.data import Source as Source
    from alignbench.api.judge import Judge as Judge
    from alignbench.api.judge import Models as Models
    from alignbench.api.judge import PairwiseJudgment as PairwiseJudgment
    from alignbench.api.judge import Score as Score
    from alignbench.api.launcher import Event as Event
    from alignbench.api.launcher import Finished as Finished
    from alignbench.api.launcher import Launcher as Launcher
    from alignbench.api.launcher import LauncherConfig as LauncherConfig
    from alignbench.api.launcher import Needs as Needs
    from alignbench.api.launcher import Task as Task
    from alignbench.api.method import Departure as Departure
    from alignbench.api.method import GroupScores as GroupScores
    from alignbench.api.method import Loss as Loss
    from alignbench.api.method import Method as Method
    from alignbench.api.method import MethodConfig as MethodConfig
    from alignbench.api.method import Numbers as Numbers
    from alignbench.api.method import PerToken as PerToken
    from alignbench.api.method import Record as Record
    from alignbench.api.method import Rows as Rows
    from alignbench.api.method import Run as Run
    from alignbench.api.method import ScoringGroup as ScoringGroup
    from alignbench.api.metric import Cell as Cell
    from alignbench.api.metric import Difference as Difference
    from alignbench.api.metric import Evidence as Evidence
    from alignbench.api.metric import Figure as Figure
    from alignbench.api.metric import Measure as Measure
    from alignbench.api.metric import Metric as Metric
    from alignbench.api.metric import Missing as Missing
    from alignbench.api.metric import PairLogprobs as PairLogprobs
    from alignbench.api.metric import Request as Request
    from alignbench.api.metric import by_prompt as by_prompt
    from alignbench.api.metric import histograms as histograms
    from alignbench.api.metric import matches as matches
    from alignbench.api.policy import Answer as Answer
    from alignbench.api.policy import Can as Can
    from alignbench.api.policy import Decoder as Decoder
    from alignbench.api.policy import LowRank as LowRank
    from alignbench.api.policy import Policy as Policy
    from alignbench.api.policy import Setting as Setting
    from alignbench.api.policy import TokenScores as TokenScores
    from alignbench.api.policy import TrainablePolicy as TrainablePolicy
    from alignbench.api.reward import Reward as Reward
    from alignbench.api.reward import RewardConfig as RewardConfig
    from alignbench.api.reward import RewardModel as RewardModel
    from alignbench.errors import AlignbenchError as AlignbenchError
    from alignbench.errors import DataError as DataError
    from alignbench.errors import Diverged as Diverged
    from alignbench.errors import Exit as Exit
    from alignbench.errors import ModelError as ModelError
    from alignbench.errors import PluginError as PluginError
    from alignbench.errors import Problem as Problem
    from alignbench.errors import RecipeError as RecipeError
    from alignbench.errors import SecurityError as SecurityError
    from alignbench.errors import StorageError as StorageError
    from alignbench.hooks import hookimpl as hookimpl
    from alignbench.models import DecodingBase as DecodingBase
    from alignbench.models import Query as Query
    from alignbench.models import Reply as Reply
    from alignbench.models import TokenTree as TokenTree
    from alignbench.models import TokenTrees as TokenTrees
    from alignbench.rows import Demonstration as Demonstration
    from alignbench.rows import Message as Message
    from alignbench.rows import Pair as Pair
    from alignbench.rows import Prompt as Prompt
    from alignbench.rows import Ranking as Ranking
    from alignbench.rows import Row as Row
    from alignbench.rows import Sequence as Sequence
    from alignbench.rows import Text as Text
    from alignbench.rows import UnpairedPreference as UnpairedPreference
