"""alignbench: which alignment method is best on your model, your data and your one GPU."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Read by huggingface_hub and others as they are imported; who says otherwise is heard.
for _switch in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "1")

# Names are resolved on first use: `import alignbench` costs nothing.
_HOME = {
    "alignbench.errors": (
        "AlignbenchError DataError Diverged Exit ModelError PluginError Problem RecipeError SecurityError StorageError"
    ),
    "alignbench.rows": "Demonstration Message Pair Prompt Ranking Row Sequence Text Verdict",
    "alignbench.method": (
        "API Answer Budget Can Departure Label Labelling Method MethodConfig NamedJudge NamedMethod "
        "NamedSource Policy Revising Rows Run Sampling Scored Select Sequences Settings TokenScores"
    ),
    "alignbench.hooks": "hookimpl",
    "alignbench.judges": "Judge Opinion Score",
    "alignbench.metrics": "Evidence Metric",
    "alignbench.data": "RowFilter Source",
    "alignbench.models": "Forest Generator Query Reply Tree",
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
    from alignbench.data import RowFilter as RowFilter
    from alignbench.data import Source as Source
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
    from alignbench.judges import Judge as Judge
    from alignbench.judges import Opinion as Opinion
    from alignbench.judges import Score as Score
    from alignbench.method import API as API
    from alignbench.method import Answer as Answer
    from alignbench.method import Budget as Budget
    from alignbench.method import Can as Can
    from alignbench.method import Departure as Departure
    from alignbench.method import Label as Label
    from alignbench.method import Labelling as Labelling
    from alignbench.method import Method as Method
    from alignbench.method import MethodConfig as MethodConfig
    from alignbench.method import NamedJudge as NamedJudge
    from alignbench.method import NamedMethod as NamedMethod
    from alignbench.method import NamedSource as NamedSource
    from alignbench.method import Policy as Policy
    from alignbench.method import Revising as Revising
    from alignbench.method import Rows as Rows
    from alignbench.method import Run as Run
    from alignbench.method import Sampling as Sampling
    from alignbench.method import Scored as Scored
    from alignbench.method import Select as Select
    from alignbench.method import Sequences as Sequences
    from alignbench.method import Settings as Settings
    from alignbench.method import TokenScores as TokenScores
    from alignbench.metrics import Evidence as Evidence
    from alignbench.metrics import Metric as Metric
    from alignbench.models import Forest as Forest
    from alignbench.models import Generator as Generator
    from alignbench.models import Query as Query
    from alignbench.models import Reply as Reply
    from alignbench.models import Tree as Tree
    from alignbench.rows import Demonstration as Demonstration
    from alignbench.rows import Message as Message
    from alignbench.rows import Pair as Pair
    from alignbench.rows import Prompt as Prompt
    from alignbench.rows import Ranking as Ranking
    from alignbench.rows import Row as Row
    from alignbench.rows import Sequence as Sequence
    from alignbench.rows import Text as Text
    from alignbench.rows import Verdict as Verdict
