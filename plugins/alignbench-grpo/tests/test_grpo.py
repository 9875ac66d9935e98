"""The laws of the contract for GRPO and RLOO, with a reward model, a judge, and reward functions."""

from __future__ import annotations

import json

import pytest
from alignbench_grpo import GRPO
from alignbench_grpo.training import Group, GroupTraining

from alignbench import layout
from alignbench.testing import MethodSuite

SMALL = {"answers": 3, "max_new_tokens": 8}


class TestGRPO(MethodSuite):
    method = "grpo"
    config = {**SMALL, "rollout_batch_size": 16, "epochs": 2}

    def test_a_group_counts_as_one_prompt(self, aligned):
        account = aligned[0].ledger.account
        assert account.steps == 2
        assert account.rows == 2 * 8 / 2, "two steps of eight prompts, each of which is learnt from twice"

    def test_its_numbers_have_the_names_of_trls_trainer(self, aligned):
        lines = (aligned[0].folder / layout.TRAINING_LOG).read_text().splitlines()
        names = {name for line in lines for name in json.loads(line)}
        assert {"reward", "reward_std", "frac_reward_zero_std", "clip_ratio/region_mean", "kl"} <= names

    @pytest.mark.parametrize("method", ["grpo", "rloo"])
    def test_temperature_divides_the_logits_of_rollout_start_and_update_alike(
        self, session, method, monkeypatch
    ):
        """Near zero all answers of a group are the likeliest one, and no step has been taken at the first."""
        block = {**SMALL, "method": method, "learning_rate": 1e-3, "temperature": 0.01, "rewards": ["length"]}
        block |= {"rollout_batch_size": 16}
        run = self.aligned_as(session, block, monkeypatch)
        first = [json.loads(line) for line in (run.folder / layout.TRAINING_LOG).read_text().splitlines()]
        numbers = {name: value for line in reversed(first) for name, value in line.items()}
        assert numbers["frac_reward_zero_std"] == 1
        assert numbers["kl" if method == "grpo" else "objective/kl"] == pytest.approx(0, abs=0.01)
        assert numbers["clip_ratio/region_mean"] == 0
        assert numbers.get("val/ratio", 1) == pytest.approx(1, abs=0.01)

    def test_the_answers_of_a_group_share_their_prompt_so_that_it_is_computed_once(self):
        training = GroupTraining.__new__(GroupTraining)
        training.config = GRPO.Config(answers=3)
        training.state = {"prompts": [[1, 2], [1, 2]], "responses": [[n] for n in range(6)]}
        items = training.sequences([Group(0), Group(1)])["answers"].items
        assert [one.response for one in items] == [(n,) for n in range(6)]
        assert items[0].prompt is items[1].prompt is items[2].prompt
        assert items[3].prompt is items[5].prompt


class TestDAPO(MethodSuite):
    method = "grpo"
    config = {
        **SMALL,
        "rewards": [{"length": {"words": 5}}, {"regex": {"weight": 0.5}}],
        "normalise": "token",
    }


class TestRLOO(MethodSuite):
    method = "rloo"
    variant = True
    """Rounds, rewards and training are those of GRPO."""
    config = {**SMALL, "judge": {"self": {"wording": "sandbox"}}}
