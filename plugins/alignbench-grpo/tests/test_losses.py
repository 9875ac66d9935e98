"""The losses and advantages of GRPO and RLOO by hand and against TRL's trainers on random tensors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from alignbench_grpo import GRPO, RLOO, losses
from alignbench_grpo.training import Group, GroupTraining

from alignbench import Answer, Prompt
from alignbench.rollouts import Rollouts, advantages, equal_rewards, leave_one_out
from alignbench.testing.losses import group_scores, reduced

K, G, R, LONGEST = 4, 3, 6, 9
NAN = float("nan")


def test_an_advantage_is_the_reward_relative_to_its_group():
    rewards = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    assert advantages(rewards, "none").tolist() == [[-2, -1, 0, 3], [0, 0, 0, 0]]
    deviation = (14 / 3) ** 0.5 + 1e-4
    assert advantages(rewards)[0].tolist() == pytest.approx(
        [-2 / deviation, -1 / deviation, 0, 3 / deviation]
    )
    whole = rewards.std().item() + 1e-4
    assert advantages(rewards, "batch")[0].tolist() == pytest.approx([-2 / whole, -1 / whole, 0, 3 / whole])


def test_the_leave_one_out_baseline_is_the_mean_of_the_others():
    found = leave_one_out(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
    assert found[0].tolist() == pytest.approx([1 - 11 / 3, 2 - 10 / 3, 3 - 9 / 3, 6 - 6 / 3])


@pytest.mark.parametrize("of", [leave_one_out, advantages, lambda r: advantages(r, "none")])
def test_an_answer_without_a_reward_changes_nothing_for_the_others(of):
    known = of(torch.tensor([[1.0, 2.0, 6.0]]))[0]
    found = of(torch.tensor([[1.0, NAN, 2.0, 6.0]]))[0]
    assert found.tolist() == pytest.approx([known[0].item(), 0.0, known[1].item(), known[2].item()])
    assert of(torch.tensor([[NAN, 3.0, NAN]])).tolist() == [[0, 0, 0]]


def test_a_group_teaches_nothing_where_its_known_rewards_are_equal():
    rewards = torch.tensor(
        [[NAN, 1.0, 1.0], [0.0, NAN, 0.5], [2.0, 2.0, 2.0], [NAN, NAN, NAN], [1, NAN, NAN]]
    )
    assert equal_rewards(rewards).tolist() == [True, False, True, True, True]
    assert (advantages(rewards).abs().amax(1) < 1e-6).tolist() == equal_rewards(rewards).tolist()


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo_takes_the_kl_of_each_answer_from_its_reward(beta, monkeypatch):
    """Against the formula on plain floats: r - beta (log pi(y) - log start(y)), less the mean of the others."""
    given = seen(0)
    answers = [
        Answer(str(at // K), "", tuple(range(int(row.sum()))), finished=True, sample=at % K)
        for at, row in enumerate(given["mask"])
    ]
    prompts = [Prompt(id=one.prompt_id, prompt=(), prompt_ids=(1,)) for one in answers]
    policies = {"policy": given["logps"], "start": given["start"]}
    run = SimpleNamespace(
        batch=G,
        start="start",
        score=lambda wanted: {
            name: group_scores(name, given["mask"], logps=policies[name]) for name in wanted
        },
        log=lambda *args, **numbers: None,
        record=SimpleNamespace(warning=lambda *args: None),
        rng=np.random.default_rng,
    )
    made = GroupTraining.__new__(GroupTraining)
    made.config, made.leave_one_out, made.run = RLOO.Config(answers=K, beta=beta), True, run
    made.policy, made.rows, made.state = "policy", [], {"round": 0, "left": []}
    made.reward = lambda prompts, texts: given["rewards"].flatten().tolist()
    monkeypatch.setattr("alignbench_grpo.training.draw", lambda *args, **more: Rollouts(prompts, answers, K))
    monkeypatch.setattr("alignbench_grpo.training.affordable", lambda *args, **more: G)
    monkeypatch.setattr(made, "_plan", lambda groups: [[0]])
    assert made._draw(0)
    kl = ((given["logps"] - given["start"]) * given["mask"]).sum(1).tolist()
    rewards = [
        reward - beta * one for reward, one in zip(given["rewards"].flatten().tolist(), kl, strict=True)
    ]
    for group in range(G):
        mine = rewards[group * K : (group + 1) * K]
        wanted = [one - (sum(mine) - one) / (K - 1) for one in mine]
        assert made.state["advantages"][group * K : (group + 1) * K].tolist() == pytest.approx(
            wanted, rel=1e-4
        )


def test_clip_high_lets_a_ratio_rise_further_than_it_may_fall():
    ratio = torch.tensor([0.7, 1.25, 1.4])
    assert losses.clipped(ratio, torch.ones(3), 0.2, 0.28).tolist() == pytest.approx([-0.7, -1.25, -1.28])
    assert losses.clipped(ratio, -torch.ones(3), 0.2, 0.28).tolist() == pytest.approx([0.8, 1.25, 1.4])


# --- against TRL -----------------------------------------------------------------------------------------


def seen(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(R) < torch.randint(1, R + 1, (G * K,), generator=draw)[:, None]
    logps = -torch.rand(G * K, R, generator=draw) * mask
    near = [logps + 0.3 * torch.randn(G * K, R, generator=draw) * mask for _ in range(2)]
    return {
        "mask": mask,
        "logps": logps,
        "old": near[0],
        "start": near[1],
        "rewards": torch.randn(G, K, generator=draw),
    }


def ours(
    config, given: dict[str, torch.Tensor], found: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    made = GroupTraining.__new__(GroupTraining)
    made.config, made.leave_one_out = config, isinstance(config, RLOO.Config)
    start = given["start"] if config.beta and not made.leave_one_out else None
    made.state = {"advantages": found.flatten(), "old": given["old"], "start": start}
    logps = given["logps"].clone().requires_grad_()
    groups = {"answers": group_scores("answers", given["mask"], logps=logps)}
    loss, numbers = reduced(made.loss, groups, [Group(at) for at in range(G)])
    loss.backward()
    return loss.detach(), logps.grad, numbers


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """TRL's own trainers around a one-layer model, by name; their losses are then asked about given values."""
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{at}": at for at in range(16)}, unk_token="w1"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", unk_token="w1", eos_token="w2")
    shape = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )

    def made(name: str, **more):
        args = getattr(trl, f"{name}Config")(
            str(tmp_path_factory.mktemp(name)),
            report_to="none",
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=K,
            num_generations=K,
            max_completion_length=LONGEST,
            epsilon=0.2,
            beta=0.0,
            **more,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            LlamaForCausalLM(shape),
            reward_funcs=lambda completions, **given: [0.0] * len(completions),
            args=args,
            train_dataset=Dataset.from_dict({"prompt": ["w3"]}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return {"GRPO": made("GRPO", use_bias_correction_kl=False), "RLOO": made("RLOO")}


def theirs(trainer, given: dict[str, torch.Tensor], found: torch.Tensor):
    logps = given["logps"].clone().requires_grad_()
    mask = given["mask"].long()
    inputs = {
        "prompt_ids": torch.ones(G * K, 2).long(),
        "prompt_mask": torch.ones(G * K, 2).long(),
        "completion_ids": torch.ones(G * K, R).long(),
        "completion_mask": mask,
        "advantages": found.flatten(),
        "old_per_token_logps": given["old"],
        "old_logps": (given["old"] * mask).sum(1),
        "ref_per_token_logps": given["start"],
        "num_items_in_batch": mask.sum(),
    }
    loss = trainer.compute_loss(
        lambda **asked: SimpleNamespace(log_probs=logps, entropy=logps.detach()), inputs
    )
    loss.backward()
    trainer.log({})
    return loss.detach(), logps.grad, trainer.state.log_history[-1]


def equal(mine, wanted) -> None:
    """Compare loss, gradient, and the numbers that both log."""
    torch.testing.assert_close(mine[0], wanted[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine[1], wanted[1], rtol=1e-6, atol=1e-6)
    shared = mine[2].keys() & wanted[2].keys()
    assert {name: mine[2][name] for name in shared} == pytest.approx(
        {name: wanted[2][name] for name in shared}, rel=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "loss_type"),
    [
        ({}, "grpo"),
        ({"beta": 0.0}, "grpo"),
        ({"ratio": "sequence"}, "grpo"),
        ({"normalise": "token", "clip_high": 0.28}, "dapo"),
        ({"normalise": "constant", "scale": "none"}, "dr_grpo"),
    ],
)
def test_the_loss_and_its_gradient_equal_those_of_trls_grpo(trl, fields, loss_type, monkeypatch):
    config = GRPO.Config(answers=K, max_new_tokens=LONGEST, **fields)
    trainer = trl["GRPO"]
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    monkeypatch.setattr(trainer, "beta", config.beta)
    monkeypatch.setattr(trainer, "importance_sampling_level", config.ratio)
    monkeypatch.setattr(trainer, "epsilon_high", config.clip_high or 0.2)
    for seed in range(4):
        given = seen(seed)
        found = advantages(given["rewards"], config.scale)
        wanted = theirs(trainer, given, found)
        mine = ours(config, given, found)
        equal(mine, wanted)
        assert mine[2].keys() - wanted[2].keys() == {"val/ratio"}


def test_the_loss_and_its_gradient_equal_those_of_trls_rloo(trl):
    for seed in range(4):
        given = seen(seed)
        found = leave_one_out(given["rewards"])
        wanted = theirs(trl["RLOO"], given, found)
        mine = ours(RLOO.Config(answers=K), given, found)
        equal(mine, wanted)
        assert mine[2].keys() - wanted[2].keys() == {"val/ratio"}


@pytest.mark.parametrize(
    "config", [GRPO.Config(answers=K), GRPO.Config(answers=K, normalise="token"), RLOO.Config()]
)
def test_the_first_step_of_a_round_goes_along_the_policy_gradient(config):
    """Where policy, old policy and start are equal, the gradient is -A/|y| (or its like) on every token."""
    given = seen(0)
    given["old"] = given["start"] = given["logps"]
    found = torch.randn(G, K, generator=torch.Generator().manual_seed(1))
    gradient = ours(config, given, found)[1]
    lengths = given["mask"].sum(1)
    each = {"sequence": 1 / lengths / (G * K), "token": torch.full((G * K,), 1 / lengths.sum())}
    share = each.get(getattr(config, "normalise", ""), torch.full((G * K,), 1 / (G * K)))
    wanted = -found.flatten()[:, None] * share[:, None] * given["mask"]
    torch.testing.assert_close(gradient, wanted)
