"""The losses of unpaired preferences by hand, against TRL's trainer, and over the whole step."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import pytest
import torch
from alignbench_kto import KTO, losses
from alignbench_kto.objective import Objective, mismatched

from alignbench import PluginError, UnpairedPreference
from alignbench.testing.losses import group_scores, reduced
from alignbench.training.reduction import Reduction

RATIO = torch.tensor([2.0, -1.0, 0.5])
GOOD = torch.tensor([True, False, True])


def s(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_kto_is_the_distance_of_the_sigmoid_from_one_on_the_right_side_of_the_kl():
    wanted = [1 - s(0.5 * (2 - 0.3)), 1 - s(0.5 * (0.3 + 1)), 1 - s(0.5 * (0.5 - 0.3))]
    assert losses.kto(RATIO, GOOD, 0.5, 0.3).tolist() == pytest.approx(wanted)


def test_bco_is_the_cross_entropy_of_a_classifier_of_shifted_rewards():
    wanted = [log(1 + exp(-(1 - 0.2))), log(1 + exp(-0.5 - 0.2)), log(1 + exp(-(0.25 - 0.2)))]
    assert losses.bco(RATIO, GOOD, 0.5, 0.2).tolist() == pytest.approx(wanted)


def test_unpaired_apo_raises_good_answers_and_lowers_bad_ones():
    wanted = [1 - s(1), s(-0.5), 1 - s(0.25)]
    assert losses.apo_zero(RATIO, GOOD, 0.5).tolist() == pytest.approx(wanted)


# --- the step --------------------------------------------------------------------------------------------


def row(n: int, good: bool, prompt: int | None = None) -> UnpairedPreference:
    prompt = n if prompt is None else prompt
    return UnpairedPreference(
        id=str(prompt), prompt=(), prompt_ids=(prompt,), response="", response_ids=(n, 99), desirable=good
    )


def test_every_prompt_meets_the_answer_to_another_one():
    rows = [row(2 * n + k, k == 0, n) for n in range(4) for k in range(2)]
    pairs = mismatched(rows)
    assert sorted(one.response for one in pairs) == sorted(one.response_ids for one in rows)
    assert all(one.response[0] // 2 != one.prompt[0] for one in pairs)
    mixed = [row(0, True, 0), row(2, True, 1), row(3, False, 1), row(4, True, 2)]
    assert all(one.response[0] // 2 != one.prompt[0] for one in mismatched(mixed))


def test_answers_to_a_prompt_are_its_own_wherever_they_stand_and_whatever_row_they_are_of():
    """Rows of single answers repeat a prompt under other ids, in any order."""
    apart = [replace(row(n, True, n % 2), id=f"row {n}") for n in range(4)]
    pairs = mismatched(apart)
    assert len(pairs) == 4
    assert all(one.response[0] % 2 != one.prompt[0] for one in pairs)
    most = [row(0, True, 0), row(1, True, 0), row(2, True, 0), row(3, True, 1)]
    assert {(one.prompt[0], one.response[0]) for one in mismatched(most)} == {(0, 3), (1, 2)}


class RecordedRun:
    """A run whose scores are written down: of each answer under policy and start."""

    start = "start"

    def __init__(self, seen):
        self.seen = seen
        self.warned = []
        self.record = SimpleNamespace(warning=lambda *warning: self.warned.append(warning))

    def group(self, name: str, items, which: str, tolerance=1e-5):
        places = torch.tensor([one.response[0] for one in items])
        logps, mask = self.seen[which][places], self.seen["mask"][places]
        return group_scores(name, mask, logps=logps, tolerance=tolerance)

    def score(self, groups):
        return {
            name: self.group(name, one.items, "start" if one.policy == "start" else "policy")
            for name, one in groups.items()
        }


def seen(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(6) < torch.randint(1, 7, (8,), generator=draw)[:, None]
    policy, start = (-torch.rand(8, 6, generator=draw) * 3 * mask for _ in range(2))
    return {"mask": mask, "policy": policy, "start": start}


ROWS = [row(n, n % 3 != 0) for n in range(8)]


def objective(
    recorded: RecordedRun, config: KTO.Config, *, checked: bool = True, monkeypatch=None
) -> Objective:
    of_start = lambda items: recorded.group("r", items, "start").sums()  # noqa: E731
    monkeypatch.setattr("alignbench_kto.objective.logprobs", lambda run, rows: of_start)
    made = Objective(recorded, ROWS, "policy", config)
    made.state["checked"] = checked
    return made


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """TRL's own trainer around a one-layer model, whose loss is then asked about given log-probabilities."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import KTOConfig, KTOTrainer

    words = {f"w{at}": at for at in range(16)}
    core = Tokenizer(models.WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", unk_token="w1", eos_token="w2")
    shape = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    rows = {"prompt": ["w3 w4"] * 2, "completion": [" w5 w2", " w6 w2"], "label": [True, False]}
    args = KTOConfig(
        str(tmp_path_factory.mktemp("trl")),
        report_to="none",
        use_cpu=True,
        bf16=False,
        precompute_ref_log_probs=True,
        per_device_train_batch_size=2,
    )
    return KTOTrainer(
        LlamaForCausalLM(shape), args=args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
@pytest.mark.parametrize(("good", "bad"), [(1.0, 1.0), (0.7, 1.4)])
def test_the_loss_equals_trls_on_the_same_log_probabilities(trl, loss, good, bad, monkeypatch):
    monkeypatch.setattr(trl, "loss_type", {"apo_zero": "apo_zero_unpaired"}.get(loss, loss))
    monkeypatch.setattr(trl, "calculate_KL", loss == "kto")
    monkeypatch.setattr(trl, "precompute_ref_logps", True)
    monkeypatch.setattr(trl, "beta", 0.3)
    monkeypatch.setattr(trl, "desirable_weight", good)
    monkeypatch.setattr(trl, "undesirable_weight", bad)
    for seed in range(4):
        recorded = RecordedRun(seen(seed))
        weights = recorded.seen["policy"].requires_grad_()
        by = KTO.Config(loss=loss, beta=0.3, desirable_weight=good, undesirable_weight=bad)
        mine = objective(recorded, by, monkeypatch=monkeypatch)
        mine.before_step(ROWS)
        others = mismatched(ROWS)
        answers = [one for item in ROWS for one in item.sequences()]
        shape = (8, 7)
        inputs = {
            "input_ids": torch.full(shape, 5),
            "attention_mask": torch.ones(shape),
            "completion_mask": torch.cat([torch.zeros(8, 1), recorded.seen["mask"]], 1).long(),
            "KL_input_ids": torch.full(shape, 6),
            "KL_attention_mask": torch.ones(shape),
            "KL_completion_mask": torch.ones(shape).long(),
            "label": torch.tensor([item.desirable for item in ROWS]),
            "ref_logps": recorded.group("r", answers, "start").sums(),
            "ref_KL_logps": recorded.group("k", others, "start").sums(),
        }
        known = {5: recorded.seen["policy"], 6: recorded.group("kl", others, "policy").logps}

        def model(input_ids, known=known, mask=recorded.seen["mask"], **given):
            logps = known[int(input_ids[0, 0])]
            return SimpleNamespace(log_probs=logps, entropy=logps, mean_logits=logps, is_top1=mask)

        theirs = trl.compute_loss(model, inputs)
        trl.log({})
        groups = {"answers": recorded.group("answers", answers, "policy")}
        found, numbers = reduced(mine.loss, groups, ROWS)
        assert found.item() == pytest.approx(float(theirs), rel=1e-6)
        (ours,), (wanted,) = (torch.autograd.grad(one, weights) for one in (found, theirs))
        assert wanted.abs().max() > 0
        kept = recorded.seen["mask"]
        torch.testing.assert_close(ours * kept, wanted * kept, rtol=1e-5, atol=1e-8)
        assert numbers.pop("rewards/accuracies") <= 1, "TRL's has none"
        logged = trl.state.log_history[-1]
        assert set(numbers) == {
            *(f"{what}/{kind}" for what in ("rewards", "logps") for kind in ("chosen", "rejected")),
            "rewards/margins",
            *(["kl"] if loss == "kto" else []),
        }
        assert numbers == pytest.approx({name: logged[name] for name in numbers}, rel=1e-5)


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
def test_the_numbers_of_each_kind_are_means_over_its_answers_of_the_step(loss, monkeypatch):
    """Whatever the micro-batches are, and without those of a kind that the step has no answer of."""
    recorded = RecordedRun(seen())
    mine = objective(recorded, KTO.Config(loss=loss, beta=0.5), monkeypatch=monkeypatch)
    mine.before_step(ROWS)
    reduction = Reduction(len(ROWS), {"answers": recorded.seen["mask"].sum(1).tolist()})
    for part in (ROWS[:1], ROWS[1:6], ROWS[6:]):
        answers = [one for item in part for one in item.sequences()]
        groups = {"answers": recorded.group("answers", answers, "policy")}
        reduction.add(mine.loss(groups, part)[1], groups, part)
    rewards = 0.5 * (recorded.seen["policy"] - recorded.seen["start"]).sum(-1)
    bad = [0, 3, 6]
    good = [place for place in range(8) if place not in bad]
    found = {name: float(value) for name, value in reduction.numbers.items()}
    assert found["rewards/chosen"] == pytest.approx(rewards[good].mean().item(), rel=1e-5)
    assert found["rewards/rejected"] == pytest.approx(rewards[bad].mean().item(), rel=1e-5)
    assert found["logps/rejected"] == pytest.approx(
        recorded.seen["policy"][bad].sum(-1).mean().item(), rel=1e-5
    )
    only = [ROWS[place] for place in good]
    mine.before_step(only)
    groups = {
        "answers": recorded.group("answers", [one for item in only for one in item.sequences()], "policy")
    }
    assert not {"rewards/rejected", "logps/rejected", "rewards/margins"} & mine.loss(groups, only)[1].keys()


def test_bco_shifts_by_the_middle_of_both_kinds_mean_rewards_so_far(monkeypatch):
    recorded = RecordedRun(seen())
    mine = objective(recorded, KTO.Config(loss="bco", beta=0.5), monkeypatch=monkeypatch)
    rewards = 0.5 * (recorded.seen["policy"] - recorded.seen["start"]).sum(-1)
    good = torch.tensor([item.desirable for item in ROWS])
    assert good[:3].tolist() == [False, True, True]
    mine.before_step(ROWS[:3])
    assert mine.point == pytest.approx((rewards[0] + rewards[1:3].mean()).item() / 2)
    mine.before_step(ROWS[3:])
    middle = (rewards[good].mean() + rewards[~good].mean()).item() / 2
    assert mine.point == pytest.approx(middle, rel=1e-5)
    assert mine.point != pytest.approx(rewards.mean().item(), rel=1e-3), "the kinds are not equally many"


def test_bco_with_one_kind_of_answer_shifts_by_its_mean(monkeypatch):
    recorded = RecordedRun(seen())
    mine = objective(recorded, KTO.Config(loss="bco", beta=0.5), monkeypatch=monkeypatch)
    rewards = 0.5 * (recorded.seen["policy"] - recorded.seen["start"]).sum(-1)
    mine.before_step(ROWS[1:3])
    assert mine.point == pytest.approx(rewards[1:3].mean().item(), rel=1e-5)


def test_a_step_with_a_single_prompt_keeps_the_last_estimate_of_the_kl(monkeypatch):
    """No answer of such a step belongs to another prompt."""
    recorded = RecordedRun(seen())
    mine = objective(recorded, KTO.Config(), monkeypatch=monkeypatch)
    mine.before_step(ROWS[:1])
    assert mine.point == 0.0
    mine.before_step(ROWS)
    known = mine.point
    mine.before_step(ROWS[:1])
    assert mine.point == known
    assert mismatched(ROWS[:1]) == []


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_stale_reference_is_noticed_at_the_first_step(loss, monkeypatch):
    recorded = RecordedRun(seen())
    recorded.seen["policy"] = recorded.seen["start"]
    answers = [one for item in ROWS for one in item.sequences()]
    group = {"answers": recorded.group("answers", answers, "policy")}
    objective(recorded, KTO.Config(loss=loss), checked=False, monkeypatch=monkeypatch).loss(group, ROWS)
    recorded.seen = {**recorded.seen, "start": recorded.seen["start"] - 0.3}
    stale = objective(recorded, KTO.Config(loss=loss), checked=False, monkeypatch=monkeypatch)
    with pytest.raises(PluginError, match="policy and reference differ before training"):
        stale.loss(group, ROWS)


def test_weights_far_from_balance_are_a_warning(monkeypatch):
    recorded = RecordedRun(seen())
    objective(recorded, KTO.Config(), monkeypatch=monkeypatch)
    assert "5 desirable and 3 undesirable" in recorded.warned[0][2]
    recorded = RecordedRun(seen())
    objective(recorded, KTO.Config(undesirable_weight=1.6), monkeypatch=monkeypatch)
    assert not recorded.warned


def test_weights_of_zero_that_teach_nothing_are_refused():
    KTO.Config(desirable_weight=0)
    with pytest.raises(ValueError, match="desirable_weight and undesirable_weight are both 0"):
        KTO.Config(desirable_weight=0, undesirable_weight=0)
