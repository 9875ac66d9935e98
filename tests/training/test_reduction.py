"""One law: loss, gradient and logged numbers of a step are the same whatever its micro-batches are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from alignbench.errors import PluginError
from alignbench.models import load_base
from alignbench.models.meter import Tally, metered
from alignbench.recipe import schema
from alignbench.rows import Ranking, UnpairedPreference
from alignbench.testing.losses import group_scores
from alignbench.training import reward_model
from alignbench.training.reduction import Reduction
from alignbench.training.step import GradientStep

from .conftest import Table, disturb, make_pairs

ROWS = make_pairs(11)
RANKINGS = [
    Ranking(
        id=f"ranking-{number}",
        length=20,
        prompt=({"role": "user", "content": ""},),
        prompt_ids=tuple(range(3, 6 + number)),
        answers=tuple("abcd"[:size]),
        ranks=tuple(range(size)),
        answer_ids=tuple((*range(10 + place, 12 + number + place), 2) for place in range(size)),
    )
    for number, size in enumerate((2, 4, 3, 2, 4, 3, 2))
]


def pairs(rows):
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}


def all_of(rows):
    return {"all": [one for row in rows for one in row.sequences()]}


def simpo(scores, rows):
    """The loss of the README: one value for each row."""
    gap = 2.0 * (scores["chosen"].means() - scores["rejected"].means())
    return -nn.functional.logsigmoid(gap - 0.5), {"rewards/margins": gap, "rewards/accuracies": gap > 0}


def orpo(scores, rows):
    """A mean over tokens and one over rows."""
    chosen, rejected = scores["chosen"], scores["rejected"]
    nll = chosen.per_token(-chosen.logps)
    return [nll, nn.functional.softplus(rejected.means() - chosen.means())], {"nll_loss": nll, "beta": 0.1}


def sft(scores, rows):
    """One group: its tensor [N, R] needs no name."""
    return -scores["all"].logps, {"entropy": scores["all"].logps.exp()}


def kto(scores, rows):
    """Two views of a row are two values."""
    signs = torch.tensor([1.0 if row.desirable else -1.0 for row in rows])
    return 1 - torch.sigmoid(signs * scores["all"].means()), {"logps": scores["all"].sums()}


def terms(scores, rows):
    """A loss of two named terms, one of them a list."""
    chosen, rejected = scores["chosen"], scores["rejected"]
    first = [chosen.per_token(-chosen.logps), (rejected.means() * 0.1).exp()]
    return {"first": first, "second": rejected.per_token(rejected.logps**2)}, {"one": chosen.sums()}


LOSSES = {
    "simpo": (ROWS, pairs, simpo),
    "orpo": (ROWS, pairs, orpo),
    "sft": (ROWS, all_of, sft),
    "kto": (Table(ROWS, UnpairedPreference).epoch(0), all_of, kto),
    "terms": (ROWS, pairs, terms),
    "reward model": (RANKINGS, None, reward_model.ranking_loss),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradient_and_numbers_are_the_same_whatever_the_micro_batch_is(folder, name):
    rows, sequences, loss = LOSSES[name]
    found = {}
    for size in ("auto", 1, 3):
        base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
        policy = disturb(base.add_adapter("policy", seed=0))
        head = reward_model.new_head(base, seed=0)
        view = sequences or reward_model.sequences_of(base, head)
        step = GradientStep(policy, view, loss, schema.Training(batch=len(rows), micro_batch=size))
        weights = [*policy.parameters(), *(head.parameters() if sequences is None else ())]
        step.train(weights, set())
        with metered(Tally()) as tally:
            done = step.run(rows, len({row.id for row in rows}), 1)
        assert tally.work.forwards >= (1 if size == "auto" else len({row.id for row in rows}) / size)
        found[size] = done.loss, done.numbers, [weight.grad for weight in weights]
    loss, numbers, gradients = found.pop("auto")
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in gradients), "void"
    for other, more, parts in found.values():
        torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
        assert list(more) == list(numbers)
        for key, value in numbers.items():
            assert float(more[key]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), key
        for part, whole in zip(parts, gradients, strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=2e-6)


def test_a_row_weighs_the_same_however_many_answers_were_ranked():
    values = torch.arange(6.0)[:, None]
    scores = {"rewards": group_scores("rewards", torch.ones(6, 1, dtype=torch.bool), values=values)}
    losses, numbers = reward_model.ranking_loss(scores, [RANKINGS[0], RANKINGS[1]])
    assert losses.tolist() == pytest.approx(
        [math.log1p(math.e), sum(k * math.log1p(math.exp(4 - k)) for k in (1, 2, 3)) / 6]
    )
    assert numbers["margin"].tolist() == pytest.approx([-1, -10 / 6])
    assert numbers["accuracy"].tolist() == [0, 0]


# --- what does not fit -------------------------------------------------------------------------------------

MASK = torch.tensor([[True, True, True], [True, False, False]])


def two(rows: int = 2) -> tuple[Reduction, dict]:
    """A step of two rows with a group of three tokens and one, and a group of two and two."""
    other = torch.ones(2, 2, dtype=torch.bool)
    scores = {
        "chosen": group_scores("chosen", MASK, logps=-torch.ones(2, 3)),
        "rejected": group_scores("rejected", other, logps=-torch.ones(2, 2)),
    }
    return Reduction(rows, {"chosen": [3, 1], "rejected": [2, 2]}), scores


def test_values_outside_the_mask_are_ignored():
    reduction, scores = two()
    values = torch.where(MASK, torch.full((2, 3), 2.0), torch.nan)
    assert reduction.loss(scores["chosen"].per_token(values), scores, [0, 1]) == 2.0


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 1)])
def test_values_that_fit_no_row_and_no_group_are_an_error_that_names_both_shapes(shape):
    reduction, scores = two()
    with pytest.raises(
        PluginError, match=r"the loss has shape .*has \[2\] rows and the groups 'chosen' \[2, 3\]"
    ):
        reduction.loss(torch.zeros(shape), scores, [0, 1])


def test_values_per_token_of_the_wrong_shape_are_an_error():
    _, scores = two()
    with pytest.raises(
        PluginError, match=r"'chosen' got values of shape \[2, 2\], but its mask has shape \[2, 3\]"
    ):
        scores["chosen"].per_token(torch.zeros(2, 2))


def test_values_per_token_of_unequal_groups_must_name_theirs():
    """Also where the shape fits one group only: another micro-batch may have two that fit."""
    reduction, scores = two()
    with pytest.raises(PluginError, match=r'could be those of .*write|scores\["chosen"\].per_token'):
        reduction.loss(-scores["chosen"].logps, scores, [0, 1])


def test_groups_over_the_same_sequences_need_no_name():
    scores = {name: group_scores(name, MASK, logps=-torch.ones(2, 3)) for name in ("policy", "values")}
    reduction = Reduction(2, {"policy": [3, 1], "values": [3, 1]})
    assert reduction.loss(-scores["values"].logps, scores, [0, 1]) == 1.0


def test_a_float_is_a_constant_of_the_step():
    reduction, scores = two(4)
    reduction.add({"beta": 0.5}, scores, [0, 1])
    with pytest.raises(PluginError, match=r"the number 'beta' is 0.5 in one micro-batch and 0.25 in another"):
        reduction.add({"beta": 0.25}, scores, [2, 3])


def test_a_number_that_is_reduced_already_is_an_error():
    reduction, scores = two()
    with pytest.raises(PluginError, match=r"the number 'margin' has shape \[\]"):
        reduction.add({"margin": torch.tensor(0.5)}, scores, [0, 1])


def test_a_number_that_only_some_micro_batches_log_is_an_error():
    reduction, scores = two(4)
    reduction.add({"margin": torch.ones(2)}, scores, [0, 1])
    with pytest.raises(PluginError, match="the numbers to log differ between micro-batches: accuracy"):
        reduction.add({"margin": torch.ones(2), "accuracy": torch.ones(2)}, scores, [2, 3])


def test_numbers_carry_no_gradient():
    reduction, scores = two()
    weight = torch.ones(2, requires_grad=True)
    reduction.add({"margin": weight * 2}, scores, [0, 1])
    margin = reduction.numbers["margin"]
    assert isinstance(margin, Tensor)
    assert margin == 2
    assert not margin.requires_grad
