"""The suites on the plugins that come with alignbench: what keeps the laws passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.api.config import Sampling
from alignbench.testing import JudgeSuite, MetricSuite, RewardSuite, SourceSuite
from alignbench.testing.launchers import RECIPE
from alignbench.testing.sessions import open_session
from alignbench.worker.tasks import cell as cells


def test_no_method_need_be_installed_to_try_a_plugin_of_another_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    everything = plugins.installed
    monkeypatch.setattr(plugins, "installed", lambda group: {} if group == "methods" else everything(group))
    session = open_session(tmp_path, RECIPE)
    (tmp_path / "cell").mkdir()
    policy = cells.align(session, "base", 0, tmp_path / "cell")[1]
    prompts = session.table.prompts("test", 2)
    assert len(policy.answer(prompts, Sampling(max_new_tokens=4), 0)) == 2


class TestGold(JudgeSuite):
    judge = "gold"


class TestSelf(JudgeSuite):
    judge = "self"
    config = {"wording": "sandbox"}


class TestAnnotators(JudgeSuite):
    judge = "annotators"


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


class TestRegularExpression(RewardSuite):
    reward = "regex"


class TestExactAnswer(RewardSuite):
    reward = "exact"
    columns = {"answer": "yes"}


class TestLengthReward(RewardSuite):
    reward = "length"


class TestSandbox(SourceSuite):
    source = "sandbox"
