"""RLHF keeps the laws of the contract, and its rollouts, critic, warnings and text mix do what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignbench_rlhf.ppo import PPO, Item

from alignbench import ScoringGroup, Sequence
from alignbench.testing import MethodSuite
from alignbench.testing.losses import reduced
from alignbench.testing.sessions import open_session
from alignbench.worker.run import learning_curve
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.policy_io import load_method
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as cells

SMALL = {"rollout_batch_size": 16, "ppo_epochs": 1, "max_new_tokens": 12}


class TestRLHF(MethodSuite):
    method = "rlhf"
    config: Mapping[str, Any] = SMALL  # pyright: ignore[reportIncompatibleVariableOverride]

    def test_reward_model_and_answers_are_departures_with_their_sizes(self, aligned: Any):
        cost, found = aligned[0].ledger.cost, {one.what: one.own for one in aligned[0].ledger.departures}
        compared = aligned[0].ledger.public()["comparisons"]
        assert f"{compared:,} comparisons" in found["an additional training"]
        assert f"{cost.generated_tokens:,} tokens" in found["answers of its own"]

    def test_the_critic_is_a_departure_with_its_size(self, aligned: Any):
        """It scores with gradient what the policy does: the same rollouts, by an adapter of its own."""
        found = {one.what: one.own for one in aligned[0].ledger.departures}
        of_rewards = int(found["an additional training"].split()[-2].replace(",", ""))
        own = (aligned[0].ledger.cost.train_tokens - of_rewards) // 2
        assert own > 0
        assert found["trained beside the policy"] == (
            f"critic, {own:,} tokens at a learning rate of 5e-05; value at 0.0005"
        )


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_session(folder: Path, root: Path, **changes: Any) -> Session:
    recipe = {
        "model": {"id": "sandbox", "adapter": {"dropout": 0.1}},
        "data": {"train": "sandbox", "limit": 48, "max_length": 128, "pretraining": "sandbox"},
        "training": {"batch": 8, "threads": 1},
        "budget": {"rows": 32},
        "methods": {"tried": {"method": "rlhf", **SMALL}},
        "evaluation": {"prompts": 4, "judges": ["gold"], "curve": {"evaluations": 1, "prompts": 2}},
        **changes,
    }
    return open_session(folder, recipe, root=root)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("rlhf")
    return make_session(folder, folder)


Make = Callable[..., PPO]


@pytest.fixture
def make(session: Session, tmp_path: Path) -> Make:
    """A PPO on the sandbox, ready to train: its reward model is trained once for all tests."""

    def make(**config: Any) -> PPO:
        run = CellContext(session, label="tried", seed=0, method="rlhf", start="base", folder=tmp_path)
        return PPO(run, load_method("rlhf", {**SMALL, **config}).config)

    return make


def curves(ppo: PPO) -> list[dict[str, float]]:
    lines = (ppo.run.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def numbers(ppo: PPO, name: str) -> list[float]:
    return [line[name] for line in curves(ppo) if name in line]


def test_the_budget_counts_each_prompt_once_however_often_its_answer_is_learnt_from(make: Make):
    ppo = make(ppo_epochs=2)
    ppo.train()
    assert ppo.state["round"] == 2  # 32 prompts, 16 in a round
    assert max(line["step"] for line in curves(ppo)) == 8  # two rounds, two epochs, two minibatches
    assert len(numbers(ppo, "objective/scores")) == 2


def test_before_the_first_step_the_kl_is_zero_and_the_ratios_are_one(make: Make):
    ppo = make()
    ppo.train()
    assert numbers(ppo, "objective/kl")[0] == pytest.approx(0, abs=1e-5)
    assert ppo.run.ledger.warnings == {}
    wanted = {
        "objective/entropy",
        "policy/clipfrac_avg",
        "completions/mean_length",
        "loss/value_avg",
        "val/ratio",
    }
    assert wanted <= {name for line in curves(ppo) for name in line}


def test_a_followed_training_tells_what_its_reward_model_makes_of_the_answers(make: Make):
    ppo = make()
    ppo.train()
    session = ppo.run.session
    prompts = session.table.prompts(learning_curve.SPLIT, 2)
    answers = ppo.run.start.answer(prompts, session.recipe.evaluation.sampling.unscaled, 0)
    worth = ppo.reward.score([Sequence(p.prompt_ids, a.ids) for p, a in zip(prompts, answers, strict=True)])
    lines = learning_curve.read(ppo.run.folder)
    assert [line["step"] for line in lines] == [0, 0, 4, 4]
    assert [line["text"] for line in lines[:2]] == [answer.text for answer in answers]
    assert [line["proxy"] for line in lines[:2]] == pytest.approx(worth.tolist(), abs=1e-4)


def test_temperature_divides_the_logits_of_rollout_reference_and_update_alike(make: Make):
    ppo = make(temperature=0.7)
    ppo.train()
    assert numbers(ppo, "objective/kl")[0] == pytest.approx(0, abs=1e-5)
    assert "ratio" not in ppo.run.ledger.warnings


def test_dropout_of_the_recipe_is_off_in_rollout_and_update(make: Make):
    ppo = make()
    assert ppo.run.session.recipe.model.adapter.dropout == 0.1
    ppo.train()
    assert "ratio" not in ppo.run.ledger.warnings


def test_the_gap_of_a_reward_model_is_measured_where_it_is_asked_for(make: Make):
    asked = make(reward_model={"learning_rate": 1e-3, "epochs": 1.0, "gap": True}).reward.quality
    plain = make(reward_model={"learning_rate": 1e-3, "epochs": 1.0}).reward.quality
    assert asked["gap"] == pytest.approx(plain["log_loss"] - asked["train_log_loss"])
    assert "gap" not in plain


def test_a_critic_begins_as_the_reward_model(make: Make):
    ppo = make()
    ppo.minibatch(0)
    items = [
        Sequence(tuple(prompt), tuple(response))
        for prompt, response in zip(ppo.state["prompts"], ppo.state["responses"], strict=True)
    ]
    # The value before the next token is the score of what stands there already, up to one straight line for all.
    longer = [Sequence(one.prompt, one.response[:-1]) for one in items if len(one.response) > 1]
    places = [place for place, one in enumerate(items) if len(one.response) > 1]
    values = ppo.state["values"][places, [len(one.response) for one in longer]]
    slope = ppo.head.weight.norm() / ppo.reward.head.weight.norm()
    assert torch.allclose(ppo.head.weight, slope * ppo.reward.head.weight, atol=1e-6)
    level = ppo.head.bias - slope * ppo.reward.head.bias
    assert torch.allclose(values, slope * ppo.reward.score(longer) + level, atol=1e-4)


@pytest.mark.parametrize(("slope", "level"), [(5.0, -7.0), (0.5, 3.0)])
def test_a_critic_is_fitted_to_the_returns_by_a_straight_line(make: Make, slope: float, level: float):
    ppo = make()
    weight, bias = ppo.head.weight.clone(), ppo.head.bias.clone()
    mask = torch.tensor([[True, True, True]] * 4)
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(4, 3)
    rewards = torch.zeros(4, 3)
    rewards[:, -1] = returns[:, -1]
    fitted = ppo.fit(slope * returns + level, rewards, mask)
    assert torch.allclose(fitted, returns, atol=1e-5)
    assert torch.allclose(ppo.head.weight, weight / slope, atol=1e-6)
    assert torch.allclose(ppo.head.bias, (bias - level) / slope, atol=1e-5)


def test_a_critic_that_knows_the_wrong_way_round_begins_as_a_constant(make: Make):
    ppo = make()
    mask = torch.tensor([[True, True], [True, False]])
    rewards = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    fitted = ppo.fit(torch.tensor([[2.0, 2.0], [0.0, 9.0]]), rewards, mask)
    assert torch.allclose(fitted, torch.tensor([[5 / 3, 5 / 3], [5 / 3, 0.0]]), atol=1e-6)
    assert not ppo.head.weight.any()


def test_the_critics_mean_value_begins_as_the_mean_return(make: Make):
    ppo = make(gae_lambda=1.0)
    ppo.minibatch(0)
    state = ppo.state
    mask = torch.tensor(
        [[at < len(one) for at in range(state["logps"].shape[1])] for one in state["responses"]]
    )
    assert state["values"][mask].mean().item() == pytest.approx(
        state["returns"][mask].mean().item(), abs=1e-4
    )


def test_the_score_stands_on_the_last_token_and_an_answer_without_an_end_pays(make: Make):
    ppo = make(max_new_tokens=3, missing_eos_penalty=5.0, beta=0.0, gae_lambda=1.0)
    ppo.minibatch(0)
    state = ppo.state
    items = [Sequence(tuple(p), tuple(r)) for p, r in zip(state["prompts"], state["responses"], strict=True)]
    ended = torch.tensor([one.response[-1] == ppo.policy.base.tokenizer.eos_token_id for one in items])
    assert not ended.all()
    wanted = ppo.reward.score(items) - 5.0 * ~ended
    assert torch.allclose(state["returns"][:, 0], wanted, atol=1e-4)


def gradients(ppo: PPO, weights: list[torch.Tensor], batch: list[Item]) -> list[torch.Tensor]:
    """The step's gradient by plain forwards, one policy at a time, each back-propagated before the next."""
    groups, found = ppo.sequences(batch), [torch.zeros_like(weight) for weight in weights]
    for term in ("ppo", "value"):
        scored = {
            name: _graph(ppo, name, group if isinstance(group, ScoringGroup) else ScoringGroup(group))
            for name, group in groups.items()
        }
        terms, _ = reduced(ppo.loss, scored, batch)
        grads = torch.autograd.grad(terms[term], weights, allow_unused=True)
        found = [old if new is None else old + new for old, new in zip(found, grads, strict=True)]
    return found


def _graph(ppo: PPO, name: str, group: ScoringGroup) -> Any:
    from alignbench.models.forward.groups import Scores

    policy: Any = group.policy or ppo.policy
    base, items = policy.base, list(group.items)
    ids, mask = base.pad([(*one.prompt, *one.response) for one in items], "left")
    with base.using(policy):
        hidden = base.hidden(ids, mask, use_cache=False)
    longest = max(len(one.response) for one in items)
    where = torch.tensor([[at < len(one.response) for at in range(longest)] for one in items])
    scores = Scores(name, where, tolerance=1e-5)
    rows = []
    for row, one in enumerate(items):
        states = hidden[row, ids.shape[1] - len(one.response) - 1 : -1]
        if group.head is None:
            logps = base.logits(states).log_softmax(-1)[range(len(one.response)), list(one.response)]
        else:
            logps = group.head(states)[:, 0]
        rows.append(torch.nn.functional.pad(logps, (0, longest - len(one.response))))
    setattr(scores, "logps" if group.head is None else "values", torch.stack(rows))
    return scores


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_policy_and_critic_get_the_gradients_of_two_models_on_their_own(make: Make, checkpointing: bool):
    from alignbench.recipe.schema import Training
    from alignbench.training.step import GradientStep

    ppo = make()
    batch = ppo.minibatch(0)
    owners = [ppo.policy, ppo.critic, ppo.head]
    weights = [weight for owner in owners for weight in owner.parameters()]
    wanted = gradients(ppo, weights, batch)
    assert all(one.abs().max() > 0 for one in wanted[: len(list(ppo.policy.parameters()))][1::2])
    training = Training(batch=8, checkpointing=checkpointing, micro_batch=3)
    step = GradientStep(ppo.policy, ppo.sequences, ppo.loss, training)
    step.train(weights, set())
    numbers = step.run(batch, len(batch), 1).numbers
    ppo.policy.base.checkpointing(False)
    for weight, one in zip(weights, wanted, strict=True):
        found = torch.zeros_like(one) if weight.grad is None else weight.grad
        assert torch.allclose(found, one, atol=1e-5 * max(1.0, one.abs().max().item()))
    assert {"grad_norm/ppo", "grad_norm/value"} <= set(numbers)


def test_pretraining_text_is_mixed_in_and_both_gradients_are_logged(make: Make):
    ppo = make(ptx_coef=0.5, ptx_texts=2)
    batch = ppo.minibatch(0)
    assert [len(item.texts) for item in batch] == [2] * 8
    ppo.train()
    assert {"nll_loss", "grad_norm/ppo", "grad_norm/ptx"} <= {n for line in curves(ppo) for n in line}


def test_a_critic_on_the_policys_own_trunk_trains_too(make: Make):
    ppo = make(critic="shared-trunk")
    assert ppo.critic is ppo.policy
    ppo.train()
    assert ppo.head.weight.abs().max() > 0


def test_the_reference_follows_where_it_is_told_to(make: Make):
    ppo = make(reference_decay=0.5, learning_rate=1e-3)
    before = [tensor.clone() for tensor in ppo.reference.parameters()]
    ppo.train()
    after = list(ppo.reference.parameters())
    now = list(ppo.policy.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert any(not torch.equal(new, policy) for new, policy in zip(after, now, strict=True))


def test_beta_adapts_to_the_target(make: Make):
    ppo = make(target_kl=6.0, horizon=160)
    ppo.train()
    assert numbers(ppo, "objective/kl_coef")[1] == pytest.approx(0.05 * (1 - 0.2 * 16 / 160))


class TestWarnings:
    def test_a_policy_that_runs_away_is_stopped_and_said(self, make: Make):
        ppo = make(max_kl=1e-9, learning_rate=1e-2, ppo_epochs=2)
        ppo.train()
        assert "KL" in ppo.run.ledger.warnings
        assert "stopped" in str(ppo.run.ledger.warnings["KL"])
        assert ppo.state["round"] == 2  # drawn, seen to be off, not learnt from
        assert max(line["step"] for line in curves(ppo)) == 4

    def test_answers_that_never_end(self, make: Make):
        ppo = make(max_new_tokens=1)
        ppo.train()
        assert "no end" in ppo.run.ledger.warnings

    def test_rewards_that_are_all_equal(self, make: Make, monkeypatch: pytest.MonkeyPatch):
        ppo = make(missing_eos_penalty=0.0)
        monkeypatch.setattr(type(ppo.reward), "score", lambda self, items: torch.zeros(len(items)))
        ppo.minibatch(0)
        assert "equal rewards" in ppo.run.ledger.warnings

    def test_a_policy_that_changed_between_rollout_and_update(self, make: Make):
        ppo = make()
        ppo.minibatch(0)
        ppo.state["logps"] += 0.1
        ppo.train()
        assert "ratio" in ppo.run.ledger.warnings

    def test_a_critic_that_has_lost_its_way(self, make: Make):
        ppo = make()
        ppo.minibatch(0)
        assert "value loss" not in ppo.run.ledger.warnings
        ppo.state["left"] = []
        with torch.no_grad():
            ppo.head.bias.add_(1000.0)
        ppo.minibatch(1)
        assert "value loss" in ppo.run.ledger.warnings

    def test_a_kl_below_what_chance_allows(self, make: Make):
        ppo = make()
        ppo.reference = ppo.policy
        original = ppo.run.score

        def score(groups: Any) -> Any:
            found = original(groups)
            found["reference"].logps.add_(0.1 * found["reference"].mask)
            return found

        ppo.run.score = score  # pyright: ignore[reportAttributeAccessIssue]
        ppo.minibatch(0)
        assert "negative KL" in ppo.run.ledger.warnings


def test_alarms_and_the_reward_models_quality_reach_the_cells_record(session: Session, tmp_path: Path):
    run, _ = cells.align(session, "tried", 0, tmp_path)
    (judge,) = run.ledger.judges
    assert judge["name"] == "reward-model"
    assert 0 <= judge["quality"]["accuracy"] <= 1
    assert run.ledger.cost.generated_tokens > 0
    assert run.ledger.public()["comparisons"] > 48


@pytest.fixture(scope="module")
def shared() -> Path:
    folder = Path(__file__).parents[4] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared with real models and data next to the checkout")
    return folder


TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{{ '\n\nAssistant: ' if turn.role == 'assistant' else '\n\nHuman: ' }}"
    "{{ turn.content }}{{ eos_token if turn.role == 'assistant' }}{% endfor %}"
    "{{ '\n\nAssistant:' if add_generation_prompt }}"
)


def test_real_dialogues_and_real_weights_in_nf4(shared: Path, tmp_path: Path):
    model = str(shared / "models" / "stories260K")
    session = make_session(
        tmp_path, tmp_path, model={"id": model, "quantization": "nf4", "chat_template": TEMPLATE},
        data={"train": str(shared / "data" / "hh" / "train.jsonl"), "limit": 24, "max_length": 256,
              "allowed_drop": 0.9},
        budget={"steps": 4}, evaluation={"prompts": 4, "judges": []},
    )  # fmt: skip
    folder = tmp_path / "cell"
    folder.mkdir()
    before = session.base.checksum()
    run, policy = cells.align(session, "tried", 0, folder)
    assert session.base.checksum() == before
    assert run.ledger.cost.train_tokens > 0
    assert (
        len(
            [line for line in (folder / "train.jsonl").read_text().splitlines() if "objective/scores" in line]
        )
        >= 2
    )
    assert "ratio" not in run.ledger.warnings
    assert (
        len(policy.answer(session.table.prompts("test", 2), session.recipe.evaluation.sampling.unscaled, 0))
        == 2
    )


class Killed(BaseException):
    """What kill -9 is to a process, for a training inside one."""


EVERYTHING = {"reference_decay": 0.5, "target_kl": 6.0, "ptx_coef": 0.5, "ptx_texts": 1}


def test_killed_in_the_middle_of_ppo_and_run_again_it_ends_bit_for_bit_the_same(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With everything on, between two epochs; the suite's law kills it at the other steps."""
    from alignbench.training import checkpoint

    monkeypatch.setattr(checkpoint, "SHARE", 0)
    monkeypatch.setattr(session, "task", replace(session.task, every=0.0))
    made = load_method("rlhf", {**SMALL, "ppo_epochs": 2, "learning_rate": 1e-3, **EVERYTHING}).config
    step = 5

    def attempt(folder: Path) -> PPO:
        folder.mkdir(exist_ok=True)
        run = CellContext(session, label="tried", seed=0, method="rlhf", start="base", folder=folder)
        return PPO(run, made)

    whole = attempt(tmp_path / "whole")
    whole.train()
    killed = attempt(tmp_path / "killed")
    draw = killed.minibatch

    def dies(number: int) -> list[Item]:
        if number == step:
            raise Killed
        return draw(number)

    killed.minibatch = dies  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Killed):
        killed.train()
    again = attempt(tmp_path / "killed")
    steps: list[int] = []
    draw_again = again.minibatch
    again.minibatch = lambda number: (steps.append(number), draw_again(number))[1]
    again.train()
    assert min(steps) == step
    for name in ("policy", "critic", "reference"):
        ours, theirs = (getattr(one, name).tensors() for one in (again, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert torch.equal(again.head.weight, whole.head.weight)
    assert again.state["beta"] == whole.state["beta"]
    timed = {"seconds"}
    lines = [
        [{k: v for k, v in line.items() if k not in timed} for line in curves(one)] for one in (again, whole)
    ]
    assert lines[0] == lines[1]
