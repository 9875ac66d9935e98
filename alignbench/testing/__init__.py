"""The author's kit: a suite for each kind of plugin holds the laws of its contract; a test is an empty subclass.

from alignbench.testing import MethodSuite

class TestMine(MethodSuite):
    method = "mine"
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "MethodSuite": "alignbench.testing.suite",
    "JudgeSuite": "alignbench.testing.judges",
    "LauncherSuite": "alignbench.testing.launchers",
    "MetricSuite": "alignbench.testing.metrics",
    "RewardSuite": "alignbench.testing.rewards",
    "SourceSuite": "alignbench.testing.sources",
}
__all__ = ["JudgeSuite", "LauncherSuite", "MethodSuite", "MetricSuite", "RewardSuite", "SourceSuite"]

if TYPE_CHECKING:
    from alignbench.testing.judges import JudgeSuite as JudgeSuite
    from alignbench.testing.launchers import LauncherSuite as LauncherSuite
    from alignbench.testing.metrics import MetricSuite as MetricSuite
    from alignbench.testing.rewards import RewardSuite as RewardSuite
    from alignbench.testing.sources import SourceSuite as SourceSuite
    from alignbench.testing.suite import MethodSuite as MethodSuite


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(name)
