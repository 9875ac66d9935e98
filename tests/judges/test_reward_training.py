"""The reward model: its loss against a plain sum over pairs, and its scores against a padded forward."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alignbench.errors import DataError
from alignbench.models import Base
from alignbench.models.forward.groups import Scores
from alignbench.recipe import schema
from alignbench.rows import Pair, Ranking, Sequence
from alignbench.testing.losses import reduced
from alignbench.training import reward_model as reward
from alignbench.training.reward_quality import agreement, calibration, comparisons, quality


class Tokenizer:
    """What a base asks of one here."""

    pad_token_id, eos_token_id = 0, 2

    def __len__(self) -> int:
        return 32


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            initializer_range=0.2, max_position_embeddings=64,
        )
    )  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    )


@pytest.fixture(params=[llama, gpt2], ids=["llama", "learned positions"])
def base(request: pytest.FixtureRequest) -> Base:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = request.param()
    return Base(model, Tokenizer(), adapter=schema.Adapter(rank=2, alpha=4))  # pyright: ignore[reportArgumentType]


def ranking(ranks: tuple[int, ...], id: str = "row", **extra: object) -> Ranking:
    answers = tuple(f"answer {place}" for place in range(len(ranks)))
    ids = tuple((3 + place, *range(4, 4 + place), 2) for place in range(len(ranks)))
    prompt = ({"role": "user", "content": id},)
    return Ranking(
        id=id, prompt=prompt, prompt_ids=(5, 6), answers=answers, ranks=ranks, answer_ids=ids, extra=extra
    )


def pair(preference: float = 1.0) -> Pair:
    return Pair(
        id="pair", prompt=(), prompt_ids=(5,), chosen="a", rejected="b", preference=preference,
        chosen_ids=(7, 2), rejected_ids=(8, 9, 2),
    )  # fmt: skip


def loss_of(scores: list[float], rows: list[Ranking | Pair]) -> float:
    """The loss where the last real tokens of all answers have these values."""
    values = torch.tensor(scores)
    # The unread token of `ended`, and padding that holds what must not be read.
    padded = torch.full((len(scores), 3), 99.0)
    padded[:, 1] = values
    mask = torch.tensor([[True, True, False]] * len(scores))
    scored = Scores("rewards", mask, tolerance=None)
    scored.values = padded
    return reduced(reward.ranking_loss, {"rewards": scored}, rows)[0].item()


def plain(better: float, worse: float, preference: float = 1.0) -> float:
    probability = 1 / (1 + math.exp(worse - better))
    return -preference * math.log(probability) - (1 - preference) * math.log(1 - probability)


def test_the_loss_of_a_ranking_is_the_mean_over_all_its_pairs():
    scores = [0.3, -1.0, 2.0, 0.7]
    ranks = (2, 4, 1, 3)
    wanted = [plain(scores[i], scores[j]) for i in range(4) for j in range(4) if ranks[i] < ranks[j]]
    assert len(wanted) == 6
    assert loss_of(scores, [ranking(ranks)]) == pytest.approx(sum(wanted) / 6, abs=1e-6)


def test_the_loss_of_a_soft_ranking_takes_each_comparison_by_its_own_probability():
    soft = replace(ranking((1, 2, 3)), preferences=(0.9, None, 0.25))
    wanted = (plain(0.3, -1.0, 0.9) + plain(-1.0, 2.0, 0.25)) / 2
    assert loss_of([0.3, -1.0, 2.0], [soft]) == pytest.approx(wanted, abs=1e-6)
    assert [one.preference for one in reward.split_pairs(soft)] == [0.9, 0.75]


def test_every_prompt_weighs_the_same_however_many_answers_it_has():
    both = loss_of([0.3, -1.0, 2.0, 0.7, 0.1], [ranking((1, 2)), ranking((3, 1, 2))])
    alone = loss_of([0.3, -1.0], [ranking((1, 2))]), loss_of([2.0, 0.7, 0.1], [ranking((3, 1, 2))])
    assert both == pytest.approx(sum(alone) / 2, abs=1e-6)


def test_ties_are_dropped():
    assert [(one.better, one.worse) for one in comparisons(ranking((1, 1, 2)))] == [(0, 2), (1, 2)]
    wanted = (plain(0.3, 2.0) + plain(-1.0, 2.0)) / 2
    assert loss_of([0.3, -1.0, 2.0], [ranking((1, 1, 2))]) == pytest.approx(wanted, abs=1e-6)


def test_rows_without_a_comparison_are_left_out_and_none_at_all_is_an_error():
    assert reward.usable([ranking((1, 1)), ranking((1, 2))]) == [ranking((1, 2))]
    with pytest.raises(DataError, match="no comparison"):
        reward.usable([ranking((1, 1))])


@pytest.mark.parametrize("preference", [1.0, 0.7, 0.5])
def test_a_soft_label_is_the_expectation_over_both_orders(preference: float):
    assert loss_of([0.4, -0.2], [pair(preference)]) == pytest.approx(plain(0.4, -0.2, preference), abs=1e-6)


def test_adding_a_constant_to_all_scores_changes_nothing():
    rows = [ranking((2, 1, 3)), pair(0.8)]
    scores = [0.3, -1.0, 2.0, 0.7, 0.1]
    assert loss_of([one + 5 for one in scores], rows) == pytest.approx(loss_of(scores, rows), abs=1e-6)


def test_the_pairs_of_a_ranking_hold_its_comparisons_under_ids_of_their_own():
    row = ranking((2, 1, 1))
    pairs = reward.split_pairs(row)
    assert [(one.chosen, one.rejected) for one in pairs] == [
        ("answer 1", "answer 0"),
        ("answer 2", "answer 0"),
    ]
    assert len({one.id for one in pairs}) == 2
    assert pairs[0].chosen_ids == row.answer_ids[1]


def sequences() -> list[Sequence]:
    return [
        Sequence((5, 6, 7), (8, 2)),
        Sequence((9,), (3, 4, 5, 6, 7, 2)),
        Sequence((5, 6, 7, 8, 9, 10), (2,)),
        Sequence((11, 12), (13, 14, 2)),
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_equal_a_forward_padded_on_either_side(base: Base, side: str):
    head = reward.new_head(base, seed=1)
    ids, mask = base.pad([(*one.prompt, *one.response) for one in sequences()], side)
    places = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        whole = base.model.base_model(input_ids=ids, attention_mask=mask, position_ids=places)
        last = ids.shape[1] - 1 if side == "left" else mask.sum(1) - 1
        wanted = head(whole.last_hidden_state[torch.arange(len(ids)), last])[:, 0]
    found = reward.raw_scores(base.policy(), head, sequences())
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_score_does_not_depend_on_what_it_is_computed_with(base: Base):
    head = reward.new_head(base, seed=1)
    together = reward.raw_scores(base.policy(), head, sequences())
    alone = torch.cat([reward.raw_scores(base.policy(), head, [one]) for one in sequences()])
    assert torch.allclose(together, alone, atol=1e-5)


def test_adapter_and_head_come_back_bit_for_bit(base: Base, tmp_path):
    policy = base.add_adapter("reward", seed=0)
    with torch.no_grad():
        for tensor in policy.tensors().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)))
    rows = [ranking((2, 1, 3), id=f"row {place}") for place in range(3)]
    made = reward.finish(policy, reward.new_head(base, seed=1), [rows])
    made.save(tmp_path)
    again = reward.load(base, tmp_path, "again")
    assert torch.equal(again.head.weight, made.head.weight)
    assert torch.equal(again.head.bias, made.head.bias)
    assert torch.equal(again.score(sequences()), made.score(sequences()))
    assert (again.mean, again.deviation, again.quality) == (made.mean, made.deviation, made.quality)


def test_a_finished_reward_model_gives_the_best_held_out_answers_a_mean_of_zero_and_all_a_deviation_of_one(
    base: Base,
):
    policy = base.add_adapter("reward", seed=0)
    rows = [ranking((2, 1, 3), id=f"row {place}") for place in range(4)]
    made = reward.finish(policy, reward.new_head(base, seed=1), [rows])
    scores = made.score([one for row in rows for one in row.sequences()])
    assert scores[1::3].mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-5)


def test_quality_counts_pairs_as_a_person_would():
    rows = [ranking((1, 2, 3), id="a", group="crowd"), ranking((1, 2), id="b", group="expert")]
    found = quality(rows, [[3.0, 1.0, 2.0], [0.0, 1.0]])
    assert found["comparisons"] == 4
    assert found["accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert {name: one["accuracy"] for name, one in found["groups"].items()} == pytest.approx(
        {"crowd": 2 / 3, "expert": 0}
    )
    assert found["length_accuracy"] == 1  # each longer answer is ranked worse: shorter wins
    losses = [plain(3, 1), plain(3, 2), plain(1, 2)]
    assert found["log_loss"] == pytest.approx((sum(losses) / 3 + plain(0, 1)) / 2)
    assert {id: one["accuracy"] for id, one in found["of_rows"].items()} == pytest.approx(
        {"a": 2 / 3, "b": 0}
    )
    assert found["of_rows"]["b"]["log_loss"] == pytest.approx(plain(0, 1))


def test_the_gap_is_the_loss_on_held_out_rows_less_that_on_rows_learnt_from(base: Base):
    policy = base.add_adapter("reward", seed=0)
    held_out = [ranking((2, 1, 3), id="h0"), ranking((1, 2, 3), id="h1")]
    learned = [ranking((3, 1, 2), id="l0")]
    found = reward.finish(
        policy, reward.new_head(base, seed=1), [held_out[:1], held_out[1:]], [learned]
    ).quality
    alone = reward.finish(
        base.add_adapter("again", seed=0), reward.new_head(base, seed=1), [held_out]
    ).quality
    of_learned = reward.finish(
        base.add_adapter("other", seed=0), reward.new_head(base, seed=1), [learned]
    ).quality
    assert {name: found[name] for name in ("accuracy", "log_loss")} == pytest.approx(
        {name: alone[name] for name in ("accuracy", "log_loss")}
    ), "rows in parts are the same rows"
    assert "gap" not in alone
    assert found["train_log_loss"] == pytest.approx(of_learned["log_loss"])
    assert found["gap"] == pytest.approx(alone["log_loss"] - of_learned["log_loss"])
    assert {id: one["gap"] for id, one in found["of_rows"].items()} == pytest.approx(
        {id: one["log_loss"] - of_learned["log_loss"] for id, one in alone["of_rows"].items()}
    )


def test_calibration_is_zero_where_the_probabilities_are_the_shares():
    certain = math.log(3)  # 75 %
    assert calibration([(certain, 1.0)] * 3 + [(certain, 0.0)]) == pytest.approx(0, abs=1e-9)
    assert calibration([(certain, 0.0)] * 4) == pytest.approx(0.75)


def test_agreement_compares_people_who_ranked_the_same_answers():
    first = ranking((1, 2, 3), id="same", annotator="ann", group="crowd")
    second = ranking((1, 3, 2), id="same", annotator="bob", group="crowd")
    alone = ranking((3, 2, 1), id="other", annotator="cid", group="crowd")
    assert agreement([first, second, alone]) == pytest.approx({"crowd": 2 / 3})
    assert agreement([alone]) == {}


def test_all_pairs_of_k_answers_are_compared():
    assert len(comparisons(ranking(tuple(range(1, 8))))) == len(list(combinations(range(7), 2)))
