"""TRL's trainers keep the laws of the contract, and the lent network comes back as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
from alignbench_trl.source import UPDATES, refuse, taken_by
from pydantic import ValidationError
from torch.nn import Dropout

from alignbench import Pair, PluginError, Sampling, Sequence, layout, plugins
from alignbench.api.config import Budget
from alignbench.recipe.resolve import resolve
from alignbench.testing import MethodSuite, suite
from alignbench.training.callback import Observer
from alignbench.training.trainer import peak_memory
from alignbench.worker.run.borrow import borrowed
from alignbench.worker.tasks.calibrate import reset_peak

OF_EACH = (
    "answers_cost",
    "counted_once",
    "depends_on_its_prompt",
    "killed",
    "micro_batch",
    "saved_policy",
    "short_run",
    "the_same_seed",
)
"""Laws that rest on what a trainer does, and not on what leads it."""


class Laws(MethodSuite):
    tokens = 10_000
    """TRL's steps are slow, and these methods measure nothing before they train."""
    short: ClassVar[tuple[str, ...]] = OF_EACH
    """Laws of the short version."""

    @pytest.fixture(autouse=True)
    def _some_in_the_short_version(self, request):
        """All laws for one trainer on given rows and for one that draws its own; what the others add, for them."""
        long = os.environ.get("TESTS") == "long"
        if not long and "last_step" in request.node.name:
            pytest.skip("in the long version: make examples")
        whole = long or self.method in ("trl-dpo", "trl-grpo")
        law = hasattr(MethodSuite, request.function.__name__)
        if law and not whole and not any(one in request.node.name for one in self.short):
            pytest.skip("in the long version: make examples")

    def test_a_last_step_of_fewer_rows_is_learnt_from_and_ends_the_same_after_a_kill(
        self, session, aligned, tmp_path, monkeypatch
    ):
        """In four micro-batches, of two steps and seven tenths: what is left pays for some rows of the third."""
        amount = int(1.35 * aligned[0].ledger.cost.tokens)
        recipe = session.recipe.model_copy(
            update={
                "budget": Budget(tokens=amount),
                "training": session.recipe.training.model_copy(update={"micro_batch": 2}),
            }
        )
        monkeypatch.setattr(session, "plan", resolve(recipe))
        run, policy = self._align(session, "last-step")
        account, cost, batch = run.ledger.account, run.ledger.cost, recipe.training.batch
        assert account.steps >= 3
        assert 2 * batch < account.rows < 3 * batch
        assert cost.tokens <= 1.02 * amount
        assert len(run.ledger.learned["train"]) == account.rows
        self.test_killed_after_any_checkpoint_and_called_again_it_ends_the_same(
            session, (run, policy), tmp_path, monkeypatch
        )


class TestTRLSFT(Laws):
    method = "trl-sft"


class TestTRLKTO(Laws):
    method = "trl-kto"
    tokens = 20_000
    """Its first steps are whole: both answers of eight rows, and each again as the answer to another prompt."""

    def test_a_step_has_the_rows_that_one_of_kto_has(self, session, aligned, monkeypatch):
        """Both answers of each pair: TRL counts an answer as a row."""
        ours = self.aligned_as(session, {"method": "kto"}, monkeypatch).ledger
        theirs = aligned[0].ledger
        assert theirs.account == ours.account
        assert theirs.learned == ours.learned
        assert len(theirs.learned["train"]) == 16, "two steps of eight rows"

    def test_a_prompt_never_meets_its_own_other_answer(self):
        from alignbench_trl.trainers import _Mismatched

        rows = [{"prompt_ids": [at // 2], "completion_ids": [at]} for at in range(6)]
        known = {(0,): [0], (1,): [2]}
        mismatched = _Mismatched(lambda made: [one["KL_completion_ids"][0] for one in made], known)
        others = mismatched(rows)
        assert sorted(others) == list(range(6))
        assert all(other // 2 != at // 2 for at, other in enumerate(others))
        apart = [{"prompt_ids": [at % 2], "completion_ids": [at]} for at in range(4)]
        assert all(other % 2 != at % 2 for at, other in enumerate(mismatched(apart))), "a b a b"
        most = [{"prompt_ids": [at == 3], "completion_ids": [at]} for at in range(4)]
        assert mismatched(most)[:3] == [3, 3, 3], "one prompt has most of the answers"
        assert mismatched(most)[3] != 3
        last = [{"prompt_ids": [0], "completion_ids": [at]} for at in range(2)]
        assert mismatched(last) == [2, 2], "a step with a single prompt"


class TestTRLGRPO(Laws):
    method = "trl-grpo"
    config = {"rewards": ["length"], "answers": 2, "max_new_tokens": 6, "learning_rate": 1e-3}

    def test_it_reads_prompts_and_counts_a_group_as_one(self, aligned):
        ledger = aligned[0].ledger
        assert (ledger.account.steps, ledger.account.rows, ledger.public()["comparisons"]) == (2, 16, 0)
        assert ledger.cost.generated_tokens > 0
        assert min(ledger.cost.generate_seconds, ledger.cost.train_seconds) > 0


class TestTRLRLOO(Laws):
    method = "trl-rloo"
    tokens = 20_000
    """Its first steps are whole, and one with a long prompt pads all of them."""
    config = {"rewards": ["length"], "answers": 2, "max_new_tokens": 6, "learning_rate": 1e-3}


class TestTRLReward(Laws):
    method = "trl-reward"
    config = {"n": 2, "learning_rate": 1e-3}

    def test_the_answer_with_the_highest_reward_is_given(self, session, aligned):
        policy = aligned[1]
        prompts = session.table.prompts("test", 4)
        sampling = Sampling(temperature=1.0, max_new_tokens=8)
        drawn = policy.start.answer(prompts, sampling, 0, samples=2)
        rewards = policy.rewards(
            [Sequence(prompts[place // 2].prompt_ids, one.ids) for place, one in enumerate(drawn)]
        )
        best = [max((at, at + 1), key=lambda place: rewards[place]) for at in range(0, 8, 2)]
        assert [one.ids for one in policy.answer(prompts, sampling, 0)] == [
            drawn[place].ids for place in best
        ]

    def test_its_reward_is_that_of_the_network_and_its_head_at_the_last_token(self, session, aligned):
        policy, base = aligned[1], session.base
        row = next(iter(aligned[0].rows(Pair)))
        text = [*row.prompt_ids, *row.chosen_ids]
        with base.using(policy.adapter), torch.no_grad(), base.arithmetic():
            state = base.plain_states(text)[-1]
        (found,) = policy.rewards([Sequence(row.prompt_ids, row.chosen_ids)])
        assert found == pytest.approx(policy.head(state.float()).item(), abs=1e-3)


READ = {
    "pairs": ["DPOTrainer", "experimental.cpo.CPOTrainer", "experimental.orpo.ORPOTrainer"],
    "demonstrations": ["SFTTrainer"],
    "unpaired": ["KTOTrainer"],
    "prompts": ["GRPOTrainer", "RLOOTrainer", "experimental.gmpo.GMPOTrainer"],
}
"""Every trainer of TRL 1.16 that `trl` takes, by the rows that it reads."""


class TestAnyTrainer(Laws):
    method = "trl"
    config = {"trainer": "experimental.orpo.ORPOTrainer", "args": {"beta": 0.2}}

    @pytest.mark.parametrize("trainer", [name for names in READ.values() for name in names])
    def test_whatever_it_is_it_learns_from_the_rows_that_it_reads(self, session, trainer, monkeypatch):
        if os.environ.get("TESTS") != "long":
            pytest.skip("in the long version: make examples")
        rows = next(rows for rows, names in READ.items() if trainer in names)
        block = {"method": "trl", "trainer": trainer, "rows": rows, "learning_rate": 1e-3}
        if rows == "prompts":
            block |= {"rewards": ["length"], "answers": 2, "max_new_tokens": 6}
        ledger = self.aligned_as(session, block, monkeypatch).ledger
        assert (ledger.account.steps, ledger.account.rows) == (2, 16)
        assert len(ledger.learned["train"]) == 16
        assert "token ids" not in [one.what for one in ledger.departures], (
            "those of the sandbox are the shared ones"
        )

    @pytest.mark.parametrize(
        ("trainer", "rows", "args"),
        [
            ("DPOTrainer", "pairs", {"loss_type": ["exo_pair"]}),
            ("DPOTrainer", "pairs", {"loss_type": ["ipo"], "loss_weights": [1.0, 0.5]}),
        ],
    )
    def test_what_trl_says_of_its_settings_is_told_as_of_the_recipe(
        self, session, trainer, rows, args, monkeypatch
    ):
        """Not as a fault of this plugin: nobody here can mend it."""
        block = {"method": "trl", "trainer": trainer, "rows": rows, "learning_rate": 1e-3, "args": args}
        with pytest.raises(PluginError, match=f"{trainer} of TRL failed with args .*ValueError") as refused:
            self.aligned_as(session, block, monkeypatch)
        assert "args" in refused.value.problems[0].fix


DRAWING: list[dict[str, Any]] = [
    {},
    {"beta": 0.3},
    {"mask_truncated_completions": True},
    {"min_p": 0.5},
    {"repetition_penalty": 1.5},
    {"top_k": 3},
    {"top_p": 0.5},
]
TRIED: dict[str, list[dict[str, Any]]] = {
    "experimental.cpo.CPOTrainer": [
        {},
        {"alpha": 0.2},
        {"beta": 0.5},
        {"cpo_alpha": 0.2},
        {"label_smoothing": 0.1},
        {"loss_type": "simpo"},
        {"loss_type": "simpo", "simpo_gamma": 1.5},
    ],
    "DPOTrainer": [
        {},
        {"beta": 0.5},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        {"loss_type": ["robust"], "label_smoothing": 0.1},
        {"loss_type": ["robust"], "label_smoothing": 0.2},
        {"ld_alpha": 0.5},
        {"loss_type": ["discopop"]},
        {"loss_type": ["discopop"], "discopop_tau": 0.5},
        {"loss_type": ["sigmoid", "sft"]},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"use_weighting": True},
    ],
    "experimental.gmpo.GMPOTrainer": [*DRAWING, {"scale_rewards": "none"}, {"top_entropy_quantile": 0.2}],
    "GRPOTrainer": [
        *DRAWING,
        {"scale_rewards": "none"},
        {"entropy_coef": 0.1},
        {"use_adaptive_entropy": True},
        {"use_adaptive_entropy": True, "entropy_target": 5.0},
        {"use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coef_delta": 0.3},
        {"use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coef_max": 0.001},
        {"use_adaptive_entropy": True, "entropy_coef_min": 0.5},
        {"loss_type": "grpo"},
        {"top_entropy_quantile": 0.2},
        {"use_bias_correction_kl": False, "beta": 0.3},
    ],
    "KTOTrainer": [
        {},
        {"beta": 0.5},
        {"desirable_weight": 2.0},
        {"loss_type": "apo_zero_unpaired"},
        {"undesirable_weight": 2.0},
    ],
    "experimental.orpo.ORPOTrainer": [{}, {"beta": 0.5}],
    "RLOOTrainer": [*DRAWING, {"normalize_advantages": True}, {"reward_clip_range": [-5.0, -1.0]}],
    "RewardTrainer": [{}, {"center_rewards_coefficient": 0.1}],
    "SFTTrainer": [{}, {"loss_type": "dft"}],
}
"""Settings of each trainer, of which no two train the same."""


class TestItsSettings(Laws):
    method = "trl"
    short = ()

    @pytest.mark.parametrize("trainer", TRIED)
    def test_every_field_that_is_taken_changes_what_is_learnt(self, session, trainer, monkeypatch):
        name = trainer.rpartition(".")[2]
        # The adapters of the sandbox have no dropout to be switched off.
        assert {field for args in TRIED[trainer] for field in args} == UPDATES[name] - {"disable_dropout"}
        if os.environ.get("TESTS") != "long":
            pytest.skip("in the long version: make examples")
        rows = next((rows for rows, names in READ.items() if trainer in names), "")
        block = {"method": "trl", "trainer": trainer, "rows": rows, "learning_rate": 1e-2}
        if rows == "prompts":
            block |= {"rewards": ["length"], "answers": 4, "max_new_tokens": 6}
        if not rows:
            block = {"method": "trl-reward", "n": 2, "learning_rate": 1e-2}
        if rows == "unpaired":  # where the KL is cut at 0, as in the first steps, apo_zero_unpaired is kto
            block |= {"budget": {"steps": 15}, "learning_rate": 1e-4}
        seen = [
            json.dumps(logs(self.aligned_as(session, {**block, "args": args}, monkeypatch)))
            for args in TRIED[trainer]
        ]
        same = [
            (args, TRIED[trainer][seen.index(log)])
            for at, (args, log) in enumerate(zip(TRIED[trainer], seen, strict=True))
            if seen.index(log) < at
        ]
        assert same == []


class ByName(Laws):
    """A trainer that has a method of its own too, which logs the same on the same rows and keeps all laws."""

    method = "trl"
    short = ("killed", "micro_batch", "short_run")
    same: ClassVar[dict[str, Any]]

    def test_it_learns_what_the_method_of_its_own_learns(self, session, aligned, monkeypatch):
        other = self.aligned_as(session, self.same, monkeypatch)
        logged = [logs(one) for one in (aligned[0], other)]
        assert len(logged[0]) == 2
        assert logged[0] == logged[1]
        assert aligned[0].ledger.account == other.ledger.account
        assert aligned[0].ledger.learned == other.ledger.learned
        assert aligned[0].ledger.cost.tokens == other.ledger.cost.tokens


class TestSFTByName(ByName):
    config = {"trainer": "SFTTrainer", "rows": "demonstrations", "learning_rate": 1e-3}
    same = {"method": "trl-sft", "learning_rate": 1e-3}


class TestKTOByName(ByName):
    config = {"trainer": "KTOTrainer", "rows": "unpaired", "learning_rate": 1e-3, "args": {"beta": 0.2}}
    same = {"method": "trl-kto", "learning_rate": 1e-3, "beta": 0.2}
    tokens = 20_000
    """As for `trl-kto`."""


class TestGMPOByName(Laws):
    method = "trl"
    tokens = 20_000
    """As for `trl-rloo`."""
    config = {
        "trainer": "experimental.gmpo.GMPOTrainer",
        "rows": "prompts",
        "rewards": ["length"],
        "answers": 2,
        "max_new_tokens": 6,
        "learning_rate": 1e-3,
    }

    def test_it_draws_what_grpo_draws_and_learns_by_another_loss(self, session, aligned, monkeypatch):
        given = {"rewards": ["length"], "answers": 2, "max_new_tokens": 6, "learning_rate": 1e-3}
        first = (
            logs(aligned[0])[0],
            logs(self.aligned_as(session, {"method": "trl-grpo", **given}, monkeypatch))[0],
        )
        assert first[0]["reward"] == first[1]["reward"]
        assert first[0]["grad_norm"] != pytest.approx(first[1]["grad_norm"], rel=1e-3)


def can_forget_the_peak() -> bool:
    """Whether `reset_peak` does something here."""
    np.ones(1 << 27, np.uint8)
    before = peak_memory(torch.device("cpu"))
    reset_peak()
    return peak_memory(torch.device("cpu")) < before


def logs(run) -> list[dict[str, float]]:
    """What a run has logged, without the time it took."""
    lines = (run.folder / layout.TRAINING_LOG).read_text().splitlines()
    return [{name: x for name, x in json.loads(line).items() if name != "seconds"} for line in lines]


class TestTRLDPO(Laws):
    method = "trl-dpo"

    def test_the_network_is_as_before(self, session, aligned):
        """Whatever a trainer does to it: modes, gradients, `forward`, hooks, further adapters."""
        base, (run, policy) = session.base, aligned
        fresh = run.adapt()
        base.peft.register_module("dropout", Dropout(0.1))

        def state():
            modules = list(base.peft.named_modules())
            return {
                "modes": {name: module.training for name, module in modules},
                "forward": [name for name, module in modules if "forward" in vars(module)],
                "hooks": [name for name, module in modules if module._forward_hooks],
                "gradients": [name for name, weight in base.peft.named_parameters() if weight.requires_grad],
                "types": {name: weight.dtype for name, weight in base.peft.named_parameters()},
                "adapters": sorted(base.peft.peft_config),
                "active": base.peft.active_adapter,
                "dropout": {name: module.p for name, module in modules if hasattr(module, "p")},
                "words": (base.tokenizer.eos_token, len(base.tokenizer), base.tokenizer.chat_template),
                "embedding": base.model.get_input_embeddings().weight.shape,
                "sizes": [getattr(module, "num_embeddings", 0) for _, module in modules],
                "config": base.model.config.to_dict(),
                "generation": base.model.generation_config.to_dict(),
            }

        before, others = state(), [tensor.clone() for tensor in policy.parameters()]
        norm = next(weight for name, weight in base.peft.named_parameters() if "norm" in name)
        values = norm.data.clone()
        with borrowed(run, fresh) as (model, tokenizer):
            assert [
                name
                for name, one in model.named_parameters()
                if one.requires_grad and ".default." not in name
            ] == []
            model.add_adapter("another", model.peft_config["default"])
            model.train()
            base.model.forward = lambda *args, **more: None
            base.model.register_forward_hook(lambda *of: None)
            tokenizer.padding_side = "left"
            tokenizer.add_tokens(["a word of its own"])
            tokenizer.eos_token = "a word of its own"
            tokenizer.chat_template = "{{ messages }}"
            base.model.resize_token_embeddings(len(tokenizer))
            for module in model.modules():
                if isinstance(module, Dropout):
                    module.p = 0.5
            norm.data = norm.data.bfloat16()
            base.model.config.use_cache = not base.model.config.use_cache
            base.model.generation_config.pad_token_id = 5
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.bfloat16() + 1
        after = state()
        del base.peft.dropout
        assert {name for name in before if after[name] != before[name]} == set()
        assert torch.equal(norm.data, values), "a weight that was cast has the values that it had"
        assert all(tensor.equal(other) for tensor, other in zip(policy.parameters(), others, strict=True))
        assert any(tensor.abs().min() >= 0.5 for tensor in fresh.parameters()), "it has learnt"
        assert "precision of the trained adapter: bfloat16 instead of float32" in map(
            str, run.ledger.departures
        )

    def test_what_it_computed_is_charged(self, aligned):
        ledger, policy = aligned[0].ledger, aligned[1]
        assert ledger.account.steps == 2
        assert ledger.account.rows == 16
        assert ledger.cost.train_tokens > 0
        adapter = sum(one.numel() * one.element_size() for one in policy.tensors().values())
        assert ledger.cost.peak_memory_bytes > 4 * adapter, (
            "its weights, their gradients and both moments of each"
        )

    def test_its_seconds_are_those_of_its_training(self, session, monkeypatch):
        """By a clock that runs while a network is called: the reference is computed inside the training."""
        suite.run_with_the_work(monkeypatch)
        cost = self._align(session, "seconds")[0].ledger.cost
        assert cost.train_seconds == pytest.approx(
            suite.CALL * cost.forward_passes + cost.flops / suite.SPEED, rel=1e-3
        )
        assert cost.seconds == pytest.approx(cost.train_seconds, rel=1e-3)

    def test_its_peak_of_memory_is_that_of_its_training(self, session, monkeypatch):
        """What a step takes for a moment shows in it; on a CPU it is the peak of the process."""
        if not can_forget_the_peak():
            pytest.skip("this system cannot forget the most memory that a process has used")
        extra, begin = 1 << 28, Observer.on_step_begin

        def with_more(*args, **more):
            np.ones(extra, np.uint8)
            return begin(*args, **more)

        peaks = []
        for name, function in (("plain", begin), ("with-more", with_more)):
            monkeypatch.setattr(Observer, "on_step_begin", function)
            reset_peak()
            before = psutil.Process().memory_info().rss
            peaks.append(self._align(session, f"peak-{name}")[0].ledger.cost.peak_memory_bytes - before)
        assert 0 <= peaks[0] < extra / 2
        assert peaks[1] > 0.9 * extra

    def test_on_equal_rows_it_has_the_losses_and_the_account_of_dpo(self, session, monkeypatch):
        """Float32, no dropout, with the recipe's schedule: step by step."""
        logged, costs, runs = {}, {}, {}
        for method in ("dpo", "trl-dpo"):
            block = {"method": method, "learning_rate": 1e-3}
            recipe = type(session.recipe).model_validate(
                {
                    **session.recipe.model_dump(exclude_unset=True),
                    "model": {"id": "sandbox", "quantization": "none"},
                    "training": {"batch": 8, "threads": 1, "schedule": "cosine", "warmup": 0.5},
                    "budget": {"steps": 4},
                    "methods": {"tried": block},
                }
            )
            monkeypatch.setattr(session, "plan", resolve(recipe))
            monkeypatch.setattr("alignbench.training.trainer.LOG_STEPS", 1)
            session.__dict__.pop("_base", None)
            runs[method] = self._align(session, f"equal-{method}")[0]
            lines = (runs[method].folder / layout.TRAINING_LOG).read_text().splitlines()
            logged[method] = [json.loads(line) for line in lines]
            costs[method] = runs[method].ledger.cost
        session.__dict__.pop("_base", None)
        ours, theirs = logged["dpo"], logged["trl-dpo"]
        assert len(ours) == len(theirs) == 4
        for name in ("loss", "learning_rate", "grad_norm"):
            expected = [line[name] for line in ours]
            assert [line[name] for line in theirs] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in ours], abs=1e-5)
        assert runs["trl-dpo"].ledger.account == runs["dpo"].ledger.account
        assert runs["trl-dpo"].ledger.learned == runs["dpo"].ledger.learned
        assert runs["trl-dpo"].ledger.compared == runs["dpo"].ledger.compared
        rows = [runs["dpo"].draw(runs["dpo"].rows(Pair), step, 8) for step in range(4)]
        each = [
            2 * len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids)
            for step in rows
            for row in step
        ]
        assert costs["trl-dpo"].train_tokens == sum(each), "TRL computes a prompt once for each answer"
        assert costs["trl-dpo"].scored_tokens == sum(each), "and the reference likewise"
        table = runs["dpo"].rows(Pair).sequences()
        once = {(one.prompt, one.response) for one in table}
        assert costs["dpo"].train_tokens < sum(each) - 2 * len(rows) * 8, "prompts once, and no last token"
        assert costs["dpo"].scored_tokens <= sum(len(a) + len(b) - 1 for a, b in once)
        assert (costs["dpo"].forward_passes, costs["trl-dpo"].forward_passes) == (5, 8)
        assert costs["trl-dpo"].flops > costs["dpo"].flops
        assert costs["trl-dpo"].score_seconds == 0 < costs["dpo"].score_seconds
        assert min(cost.train_seconds for cost in costs.values()) > 0
        assert min(cost.peak_memory_bytes for cost in costs.values()) > 1e8


def test_token_ids_are_shared_where_they_are_those_of_the_prompt_or_of_an_answer():
    from alignbench_trl.trainers import _as_shared

    row = Pair(
        id="0", prompt=(), chosen="", rejected="", prompt_ids=(1, 2), chosen_ids=(3, 9), rejected_ids=(4,)
    )
    apart = {"prompt_ids": [1, 2], "chosen_ids": [3, 9], "rejected_ids": [4]}
    joined = {
        "chosen_input_ids": [1, 2, 3, 9],
        "chosen_labels": [-100, -100, 3, 9],
        "prompt_input_ids": [1, 2],
    }
    assert _as_shared(apart, row)
    assert _as_shared(joined, row)
    assert not _as_shared({**apart, "prompt_ids": [0, 1, 2]}, row), "a beginning of its own"
    assert not _as_shared({**joined, "chosen_input_ids": [1, 2, 3]}, row), "an end cut off"


def test_the_page_lists_every_trainer_that_can_be_named():
    package = Path(find_spec("trl").origin).parent
    taken = set()
    for file in package.rglob("*_trainer.py"):
        folder = ".".join(file.relative_to(package).parts[:-1])
        for name in re.findall(r"^class ([A-Z]\w+Trainer)\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            full = name if folder == "trainer" else f"{folder}.{name}"
            with suppress(ValueError):
                refuse(full)
                taken |= {full} if taken_by(full) else set()
    assert taken == {name for names in READ.values() for name in names}
    page = Path(__file__).parents[3].joinpath("docs", "methods", "trl.md").read_text(encoding="utf-8")
    for rows, names in READ.items():
        assert f"| `{rows}` | {', '.join(f'`{name}`' for name in names)} |" in page


def test_the_page_lists_every_field_that_is_taken():
    page = Path(__file__).parents[3].joinpath("docs", "methods", "trl.md").read_text(encoding="utf-8")
    for trainer, fields in UPDATES.items():
        assert f"| `{trainer}` | {', '.join(f'`{name}`' for name in sorted(fields))} |" in page


def test_a_config_that_is_written_out_is_the_same_config():
    from alignbench_trl import TRLTrainer

    made = TRLTrainer.Config(trainer="experimental.orpo.ORPOTrainer")
    assert TRLTrainer.Config(**made.model_dump()) == made


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("trl-dpo", {"args": {"max_steps": 3}}, "args sets max_steps, which the recipe sets for all methods"),
        (
            "trl-dpo",
            {"args": {"weight_decay": 0.1}},
            "args sets weight_decay, which the recipe sets for all methods",
        ),
        ("trl", {"answers": 4, "judge": "gold"}, "answers, judge: only read with rows: prompts"),
        ("trl-dpo", {"args": {"beta": 3}}, "args sets beta, which is a field of the method"),
        (
            "trl-dpo",
            {"args": {"los_type": ["ipo"]}},
            "DPOTrainer has no setting los_type; did you mean loss_type?",
        ),
        ("trl-grpo", {"args": {"num_iterations": 2}}, "the rows of a step are those of all methods"),
        ("trl-grpo", {"args": {"use_vllm": True}}, "the run counts what its own base draws"),
        ("trl-grpo", {"args": {"use_transformers_continuous_batching": True}}, "what its own base draws"),
        ("trl-dpo", {"args": {"precompute_ref_log_probs": True}}, "drawn as they are needed"),
        ("trl-sft", {"args": {"packing": True}}, "drawn as they are needed"),
        ("trl-grpo", {"args": {"epsilon": 0.1}}, "each answer is learnt from once"),
        *(
            ("trl-sft", {"args": args}, f"args sets {next(iter(args))}, which is not given to")
            for args in (
                {"completion_only_loss": False},
                {"dataset_num_proc": 2},
                {"dataset_text_field": "x"},
                {"eval_packing": True},
                {"model_init_kwargs": {"a": 1}},
                {"trust_remote_code": True},
            )
        ),
        *(
            (
                "trl-grpo",
                {"args": args},
                f"args sets {next(iter(args))}, which is not given to",
            )
            for args in (
                {"log_completions_hub_repo": "a/b"},
                {"reward_weights": [1.0, 2.0]},
                {"vllm_mode": "server"},
            )
        ),
        (
            "trl-dpo",
            {"args": {"loss_type": ["sigmoid", "nope"]}},
            "args: loss_type is 'nope'; DPOConfig has aot, aot_unpaired, apo_down",
        ),
        (
            "trl",
            {"trainer": "experimental.cpo.CPOTrainer", "args": {"loss_type": "kto_pair"}},
            "loss_type is 'kto_pair'; CPOConfig has",
        ),
        ("trl-sft", {"args": {"loss_type": "nope"}}, "SFTConfig has chunked_nll, dft, nll"),
        ("trl-grpo", {"args": {"scale_rewards": "x"}}, "GRPOConfig has batch, group, none"),
        (
            "trl",
            {"trainer": "experimental.cpo.CPOTrainer", "args": {"loss_type": "x"}},
            "CPOConfig has alphapo, hinge, ipo, sigmoid, simpo",
        ),
        ("trl-sft", {"args": {"eos_token": ","}}, "args sets eos_token, but token ids, the end"),
        ("trl-sft", {"args": {"chat_template_path": "x"}}, "args sets chat_template_path, but token ids"),
        ("trl-sft", {"args": {"dataset_kwargs": {}}}, "args sets dataset_kwargs, but token ids"),
        (
            "trl-grpo",
            {"args": {"generation_kwargs": {"top_k": 1}}},
            "args sets generation_kwargs, but token ids",
        ),
        (
            "trl-dpo",
            {"args": {"label_smoothing": "x"}},
            "label_smoothing is 'x', and is a float in DPOConfig",
        ),
        (
            "trl-dpo",
            {"args": {"loss_weights": 1}},
            "loss_weights is 1, and is a list[float] | None in DPOConfig",
        ),
        ("trl", {"trainer": "ORPOTrainer"}, "has no trainer ORPOTrainer"),
        ("trl", {"trainer": "experimental.orpo.ORPTrainer"}, "did you mean ORPOTrainer?"),
        ("trl", {"trainer": "orpo.ORPOTrainer"}, "write DPOTrainer or experimental.orpo.ORPOTrainer"),
        ("trl", {"trainer": "RewardTrainer"}, "trains a reward model, which answers nothing"),
        ("trl", {"trainer": "DistillationTrainer"}, "works with teacher_model"),
        (
            "trl",
            {"trainer": "experimental.server_distillation.ServerDistillationTrainer"},
            "works with teacher_model_server_url",
        ),
        ("trl", {"trainer": "experimental.tpo.TPOTrainer"}, "reads a third answer of each row"),
        (
            "trl",
            {"trainer": "experimental.online_dpo.OnlineDPOTrainer"},
            "draws its answers otherwise than GRPO",
        ),
        ("trl", {"trainer": "GRPOTrainer"}, "learns from prompts; write rows: prompts instead of pairs"),
        (
            "trl",
            {"trainer": "DPOTrainer", "rows": "prompts"},
            "DPOTrainer learns from pairs; write rows: pairs",
        ),
        (
            "trl",
            {"trainer": "DPOTrainer", "rows": "unpaired"},
            "DPOTrainer learns from pairs; write rows: pairs",
        ),
        (
            "trl",
            {"trainer": "SFTTrainer"},
            "SFTTrainer learns from demonstrations; write rows: demonstrations",
        ),
        ("trl", {"trainer": "KTOTrainer"}, "KTOTrainer learns from unpaired; write rows: unpaired"),
        (
            "trl",
            {"trainer": "experimental.orpo.ORPOTrainer", "rows": "demonstrations"},
            "learns from pairs; write rows: pairs",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(method, fields, words):
    kind = plugins.load("methods", method)
    with pytest.raises(ValidationError, match=re.escape(words)):
        kind.Config.model_validate(fields)


def test_of_transformers_fields_only_those_are_taken_that_change_an_update():
    """How its trainer logs, saves, loads and evaluates is the run's: without its logs there is no check for a NaN."""
    from dataclasses import fields

    from alignbench_trl import OF_TRANSFORMERS, SHARED, TRLDPO
    from transformers import TrainingArguments

    known = {one.name for one in fields(TrainingArguments)}
    assert known >= OF_TRANSFORMERS
    for name in known - SHARED - OF_TRANSFORMERS:
        with pytest.raises(ValidationError, match=f"{name}"):
            TRLDPO.Config(args={name: 1})
    for name in OF_TRANSFORMERS:
        TRLDPO.Config(args={name: 0.5})


def test_a_recipe_is_checked_without_torch():
    program = (
        "import sys; from alignbench_trl.source import taken_by; "
        "taken_by('experimental.gmpo.GMPOTrainer'); assert not {'torch', 'trl'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
