"""The laws of the contract for GRPO and RLOO, with a reward model, a judge, and reward functions."""

from __future__ import annotations

import json

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


class TestDAPO(MethodSuite):
    method = "grpo"
    config = {
        **SMALL,
        "rewards": [{"length": {"words": 5}}, {"regex": {"weight": 0.5}}],
        "normalise": "token",
    }


class TestRLOO(MethodSuite):
    method = "rloo"
    config = {**SMALL, "judge": {"self": {"wording": "sandbox"}}}
