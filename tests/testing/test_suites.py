"""The suites on the plugins that come with alignbench: what keeps the laws passes."""

from __future__ import annotations

from alignbench.testing import JudgeSuite, MetricSuite, SourceSuite


class TestGold(JudgeSuite):
    judge = "gold"


class TestSelf(JudgeSuite):
    judge = "self"
    config = {"wording": "sandbox"}


class TestReward(MetricSuite):
    metric = "reward"


class TestWinRate(MetricSuite):
    metric = "win_rate"


class TestKL(MetricSuite):
    metric = "kl"


class TestLength(MetricSuite):
    metric = "length"


class TestPreference(MetricSuite):
    metric = "preference"


class TestDiversity(MetricSuite):
    metric = "diversity"


class TestSandbox(SourceSuite):
    source = "sandbox"
