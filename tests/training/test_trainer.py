"""The one trainer: one step whatever the micro-batch, no weight that is not a number, every budget kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from alignbench.api.config import Budget
from alignbench.api.method import ScoringGroup
from alignbench.errors import Diverged, ModelError
from alignbench.models import Base, ModelPolicy, load_base
from alignbench.models.forward import groups as groups_module
from alignbench.models.forward import memory
from alignbench.models.forward.groups import kept_by
from alignbench.models.meter import Work
from alignbench.recipe import schema
from alignbench.rows import Pair, UnpairedPreference
from alignbench.training import batches as order
from alignbench.training import optimizer as optimizers
from alignbench.training import step as step_module
from alignbench.training import trainer as module
from alignbench.training.budget import Spent
from alignbench.training.trainer import Trainer

from .conftest import Table, disturb, make_pairs, save_model

ROWS = make_pairs(40)


def both(rows):
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}


def contrast(scored, rows):
    """A loss with a mean over tokens and one over rows."""
    chosen, rejected = scored["chosen"], scored["rejected"]
    margin = chosen.means() - rejected.means()
    loss = [0.1 * nn.functional.softplus(-margin), chosen.per_token(-chosen.logps)]
    return loss, {"margin": margin, "beta": 0.5}


def run(policy: ModelPolicy, tmp_path, *, loss=contrast, sequences=both, batches: Any = None, **given: Any):
    training = {"batch": 8, "schedule": "constant", "warmup": 0.0} | given.pop("training", {})
    settings = {"learning_rate": 1e-2, "budget": Budget(steps=3), "seed": 0, **given}
    rows = Table(ROWS, Pair) if batches is None else batches
    found: dict[int, dict[str, float]] = {}
    record = Trainer(
        policy,
        rows,
        sequences,
        loss,
        training=schema.Training(**training),
        log=lambda step, numbers: found.__setitem__(step, dict(numbers)),
        **settings,
    ).run()
    return record, found


def weights(policy: ModelPolicy) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in policy.tensors().values()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def gradients(monkeypatch) -> list[list[torch.Tensor]]:
    """The gradients of each step, as they come to the optimiser."""
    seen: list[list[torch.Tensor]] = []
    guard = optimizers.guard

    def watch(optimizer, *given):
        seen.append(
            [
                w.grad.clone()
                for group in optimizer.param_groups
                for w in group["params"]
                if w.grad is not None
            ]
        )
        guard(optimizer, *given)

    monkeypatch.setattr(optimizers, "guard", watch)
    return seen


# --- the step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_the_gradient_of_a_step_does_not_depend_on_the_micro_batch(base, tmp_path, gradients, micro):
    found = {}
    for size in ("auto", micro):
        policy = disturb(base.add_adapter("policy", seed=0))
        found[size] = run(policy, tmp_path, budget=Budget(steps=1), training={"micro_batch": size})[1][1]
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    for name in ("loss", "margin", "beta", "grad_norm"):
        assert found[micro][name] == pytest.approx(found["auto"][name], rel=1e-5), name


def test_the_step_equals_one_worked_with_autograd_on_the_plain_model(base, tmp_path, gradients):
    policy = disturb(base.add_adapter("policy", seed=0))
    steps = [ROWS[:8]]
    run(policy, tmp_path, batches=lambda step: steps[step], budget=Budget(steps=1))

    def logps(ids, start):
        with base.using(policy):
            scores = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return scores[start - 1 : -1].gather(1, torch.tensor(ids[start:])[:, None])[:, 0]

    plain = disturb(base.add_adapter("plain", seed=0))
    policy = plain
    chosen = [logps(row.prompt_ids + row.chosen_ids, len(row.prompt_ids)) for row in ROWS[:8]]
    rejected = [logps(row.prompt_ids + row.rejected_ids, len(row.prompt_ids)) for row in ROWS[:8]]
    margins = torch.stack([c.mean() - r.mean() for c, r in zip(chosen, rejected, strict=True)])
    loss = 0.1 * nn.functional.softplus(-margins).mean() - torch.cat(chosen).mean()
    wanted = torch.autograd.grad(loss, list(plain.parameters()))
    for found, want in zip(gradients[0], wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)


def test_the_prompt_is_not_in_the_loss_and_the_end_is(base, tmp_path):
    policy = base.add_adapter("policy", seed=0)
    masks = {}

    def look(scored, rows):
        masks["chosen"] = scored["chosen"].mask.sum(-1).tolist()
        masks["rows"] = [len(row.chosen_ids) for row in rows]
        return contrast(scored, rows)

    run(policy, tmp_path, loss=look, budget=Budget(steps=1))
    assert masks["chosen"] == masks["rows"]
    assert all(row.chosen_ids[-1] == 2 for row in ROWS)


def test_two_trained_adapters_in_one_loss_get_the_gradients_of_two_models(folder, tmp_path, gradients):
    """Also with recomputed activations: peft 0.21 recomputes under whichever adapter is active by then."""

    def two(name: str, base: Base) -> ModelPolicy:
        return disturb(base.add_adapter(name, seed=0), seed=len(name))

    def mixed(scored, rows):
        first, second = scored["first"], scored["second"]
        return [-first.sums() * second.sums().exp(), second.per_token(second.logps**2)], {}

    def at(policy, other):
        return lambda rows: {
            "second": ScoringGroup([row.sequences()[1] for row in rows], policy=other),
            "first": [row.sequences()[0] for row in rows],
        }

    for checkpointing in (False, True):
        shared = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
        one, other = two("one", shared), two("other", shared)
        run(
            one,
            tmp_path,
            sequences=at(one, other),
            loss=mixed,
            budget=Budget(steps=1),
            training={"checkpointing": checkpointing},
        )
        shared.checkpointing(False)
    left = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
    right = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
    one, other = two("one", left), two("other", right)
    rows = order.epoch(Table(ROWS, Pair), 0, 8, 0)[0]
    sums = {"one": [], "other": []}
    for name, policy, which in (("one", one, 0), ("other", other, 1)):
        for row in rows:
            sequence = row.sequences()[which]
            ids, start = sequence.prompt + sequence.response, len(sequence.prompt)
            with policy.base.using(policy):
                scores = policy.base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums[name].append(scores[start - 1 : -1].gather(1, torch.tensor(ids[start:])[:, None])[:, 0])
    first, second = (torch.stack([one.sum() for one in sums[name]]) for name in ("one", "other"))
    loss = -(first * second.exp()).mean() + (torch.cat(sums["other"]) ** 2).mean()
    wanted = torch.autograd.grad(loss, [*one.parameters(), *other.parameters()])
    for found in gradients:
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_head_reads_the_state_before_each_token_and_trains_with_the_adapter(base, tmp_path):
    policy = disturb(base.add_adapter("policy", seed=0))
    head = nn.Linear(64, 1)
    seen = {}

    def values(rows):
        items = [row.sequences()[0] for row in rows]
        return {"logps": items, "values": ScoringGroup(items, head=head)}

    def loss(scored, rows):
        seen.setdefault("values", scored["values"].values.detach().clone())
        seen.setdefault("rows", rows)
        return scored["values"].values ** 2, {}

    before = [head.weight.detach().clone(), *weights(policy)]
    row = ROWS[0]
    ids = row.prompt_ids + row.chosen_ids
    with torch.no_grad(), base.using(policy):
        states = base.model.base_model(torch.tensor([ids])).last_hidden_state[0]
        wanted = head(states[len(row.prompt_ids) - 1 : -1])[:, 0]
    record, _ = run(
        policy,
        tmp_path,
        sequences=values,
        loss=loss,
        batches=lambda step: [row],
        modules={"value": head},
        budget=Budget(steps=1),
    )
    torch.testing.assert_close(seen["values"][0], wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(before[0], head.weight)
    assert not same(before[1:], weights(policy))
    assert record.work.forwards == 1, "both groups read one forward"


def test_a_frozen_policy_is_scored_without_gradient_and_counted(base, tmp_path):
    policy, frozen = (
        base.add_adapter("policy", seed=0),
        disturb(base.add_adapter("old", seed=1, trainable=False)),
    )
    before = weights(frozen)

    def against(rows):
        return both(rows) | {"old": ScoringGroup([row.sequences()[0] for row in rows], policy=frozen)}

    def loss(scored, rows):
        assert not scored["old"].logps.requires_grad
        return contrast(scored, rows)

    record, _ = run(policy, tmp_path, sequences=against, loss=loss)
    plain, _ = run(base.add_adapter("plain", seed=0), tmp_path)
    assert same(before, weights(frozen))
    assert (record.work.trained, record.work.forwards) == (plain.work.trained, 2 * plain.work.forwards)
    assert record.work.positions > plain.work.positions == 0


# --- numbers that are none ---------------------------------------------------------------------------------


def poisoned(at: int, how: Callable[[torch.Tensor], torch.Tensor]):
    steps = iter(range(1000))

    def loss(scored, rows):
        (odds, nll), numbers = contrast(scored, rows)
        return [how(odds) if next(steps) == at else odds, nll], numbers

    return loss


@pytest.mark.parametrize("kind", ["adamw", "adamw-8bit"])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda loss: loss * math.nan, id="a loss of NaN"),
        pytest.param(lambda loss: loss + math.inf, id="an infinite loss with a finite gradient"),
        pytest.param(lambda loss: loss + (loss - loss.detach()).abs().sqrt(), id="a gradient of NaN"),
    ],
)
def test_what_is_not_finite_reaches_no_weight_and_the_run_stops_with_its_step(folder, tmp_path, how, kind):
    ends = []
    for steps in (3, 8):
        base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
        policy = disturb(base.add_adapter("policy", seed=0))
        loss = contrast if steps == 3 else poisoned(3, how)
        if steps == 3:
            run(policy, tmp_path, loss=loss, training={"optimizer": kind})
        else:
            with pytest.raises(Diverged, match=r"step 4 is not finite; the weights of step 3 are kept"):
                run(policy, tmp_path, loss=loss, budget=Budget(steps=steps), training={"optimizer": kind})
        ends.append(weights(policy))
    assert same(*ends), "steps 4 to 8 changed nothing"


def test_a_guarded_step_leaves_moments_and_step_count_alone():
    weight = nn.Parameter(torch.ones(4))
    optimizer = optimizers.make("adamw", [{"params": [weight]}], 0.1)
    states = []
    for gradient, stop in ((1.0, False), (math.nan, True)):
        weight.grad = torch.full((4,), gradient)
        optimizers.guard(optimizer, torch.tensor(2.0), 1.0, torch.tensor(stop))
        optimizer.step()
        states.append(
            [weight.detach().clone(), *(value.clone() for value in optimizer.state[weight].values())]
        )
    assert same(*states)
    assert optimizer.state[weight]["exp_avg"].tolist() == pytest.approx([0.05] * 4), (
        "clipped to half, then * 0.1"
    )


@pytest.mark.parametrize("kind", ["adamw", "adamw-8bit"])
def test_gradients_are_clipped_to_the_norm_of_the_recipe(kind):
    """Against torch's own clipping and AdamW."""
    torch.manual_seed(0)
    ends = []
    gradients = [torch.randn(32, 32) * 10 for _ in range(3)]
    for guarded in (True, False):
        weight = nn.Parameter(torch.ones(32, 32))
        made = (
            optimizers.make(kind, [{"params": [weight]}], 0.1)
            if guarded
            else torch.optim.AdamW([weight], 0.1, weight_decay=0)
        )
        for gradient in gradients:
            weight.grad = gradient.clone()
            if guarded:
                norm = torch.nn.utils.get_total_norm([weight.grad])
                optimizers.guard(made, norm, 0.5, torch.tensor(False))
            else:
                torch.nn.utils.clip_grad_norm_([weight], 0.5)
            made.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


# --- the budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learning_rate", "sign"), [(1e-2, ""), (1e3, "the gradient vanished at a loss of 4")]
)
def test_a_training_that_blows_up_with_finite_numbers_is_known(base, tmp_path, learning_rate, sign):
    policy = base.add_adapter("policy", seed=0)
    record, said = run(policy, tmp_path, learning_rate=learning_rate, budget=Budget(steps=20))
    assert all(math.isfinite(numbers["loss"]) for numbers in said.values())
    assert record.blown_up.startswith(sign)
    assert bool(record.blown_up) == bool(sign)


@pytest.mark.parametrize(
    ("budget", "steps", "rows"),
    [
        (Budget(steps=7), 7, 7 * 8),
        (Budget(rows=19), 3, 19),
        (Budget(epochs=1), 5, 40),
        (Budget(epochs=1.5), 8, 60),
        (Budget(rows=81), 11, 81),
    ],
)
def test_a_budget_is_kept_to_the_row(base, tmp_path, budget, steps, rows):
    record, _ = run(base.add_adapter("policy", seed=0), tmp_path, budget=budget)
    assert (record.steps, record.rows) == (steps, rows)


def test_tokens_are_the_positions_computed_and_a_shared_prompt_is_computed_once(base, tmp_path):
    record, _ = run(base.add_adapter("policy", seed=0), tmp_path, budget=Budget(epochs=1))
    computed = [len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids) - 2 for row in ROWS]
    assert (record.work.trained, record.work.positions) == (sum(computed), 0)


@pytest.mark.parametrize("unit", ["tokens", "flops"])
@pytest.mark.parametrize("share", [0.06, 0.5, 0.83])
def test_a_total_is_kept_to_the_row_by_a_smaller_last_step(base, tmp_path, unit, share):
    """Of 40 rows of like length a row is 2.5%: more is never spent, and hardly more than a row is left."""
    whole, _ = run(base.add_adapter("policy", seed=0), tmp_path, budget=Budget(epochs=1))
    spent = {"tokens": whole.work.trained, "flops": whole.work.flops}
    budget = Budget.model_validate({unit: int(share * spent[unit])})
    some, _ = run(base.add_adapter("policy", seed=0), tmp_path, budget=budget)
    found = {"tokens": some.work.trained, "flops": some.work.flops}[unit]
    assert found <= budget.amount * 1.02, "more than its budget"
    assert found > budget.amount - 2.5 * spent[unit] / len(ROWS)
    assert some.steps <= math.ceil(some.rows / 8) + 1, "the first step is foretold with care"


def test_a_limit_ends_a_training_before_its_budget_does(base, tmp_path):
    record, _ = run(
        base.add_adapter("policy", seed=0), tmp_path, budget=Budget(epochs=1), limit=Budget(tokens=200)
    )
    assert 150 < record.work.trained <= 200
    assert record.rows < len(ROWS)


def test_several_answers_to_one_prompt_are_one_row_of_the_budget(base, tmp_path):
    """A group of four answers for each prompt, as GRPO draws them, and a label of each answer of a pair, as KTO."""
    rows = [UnpairedPreference(id=f"{row.id}/{number}", length=row.length, prompt=row.prompt,
                               prompt_ids=row.prompt_ids, response="", response_ids=answer, desirable=True)
            for row in ROWS for number, answer in enumerate([row.chosen_ids, row.rejected_ids] * 2)]  # fmt: skip

    def sequences(batch):
        return {"all": [one for row in batch for one in row.sequences()]}

    def loss(scores, batch):
        return -scores["all"].logps, {}

    record, _ = run(
        base.add_adapter("policy", seed=0),
        tmp_path,
        sequences=sequences,
        loss=loss,
        batches=lambda step: rows[8 * step : 8 * step + 8],
        budget=Budget(rows=10),
    )
    assert (record.steps, record.rows) == (5, 10)


def test_seconds_end_a_run(base, tmp_path):
    record, _ = run(base.add_adapter("policy", seed=0), tmp_path, budget=Budget(seconds=0.5))
    assert 0.4 < record.seconds < 5
    assert record.steps > 0


def test_a_second_training_of_a_cell_gets_what_the_first_has_left(base, tmp_path):
    spent = Spent()
    first, _ = run(
        base.add_adapter("first", seed=0), tmp_path, budget=Budget(rows=40), spent=Spent(rows=24, steps=3)
    )
    assert (first.rows, first.steps) == (16, 2)
    run(base.add_adapter("second", seed=0), tmp_path, budget=Budget(steps=2), spent=spent)
    last, found = run(base.add_adapter("third", seed=0), tmp_path, budget=Budget(steps=2), spent=spent)
    assert (last.steps, last.work, found) == (0, Work(), {})


def test_a_spent_budget_changes_nothing(base, tmp_path):
    policy = disturb(base.add_adapter("policy", seed=0))
    before = weights(policy)
    record, _ = run(policy, tmp_path, budget=Budget(steps=3), spent=Spent(steps=3))
    assert record.steps == 0
    assert same(before, weights(policy))


def test_a_method_that_draws_its_own_batches_may_end_early(base, tmp_path):
    asked = []

    def batches(step):
        asked.append(step)
        return ROWS[step : step + 4] if step < 5 else []

    record, _ = run(base.add_adapter("policy", seed=0), tmp_path, batches=batches, budget=Budget(steps=20))
    assert record.steps == 5
    assert asked == [0, 1, 2, 3, 4, 5], "each step is asked for once"


def test_the_learning_rate_follows_the_share_of_the_budget(base, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_STEPS", 1)
    schedule = {"schedule": "linear", "warmup": 0.4}
    by_steps = run(base.add_adapter("a", seed=0), tmp_path, budget=Budget(steps=5), training=schedule)[1]
    by_rows = run(base.add_adapter("b", seed=0), tmp_path, budget=Budget(epochs=1), training=schedule)[1]
    rates = [numbers["learning_rate"] for numbers in by_steps.values()]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert [numbers["learning_rate"] for numbers in by_rows.values()] == pytest.approx(rates)


# --- speed and memory --------------------------------------------------------------------------------------


def test_the_host_reads_the_device_at_log_steps_only(base, tmp_path, monkeypatch):
    reads = Counter()
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy"):
        read = getattr(torch.Tensor, name)

        def counted(*given, _read=read, _name=name, **more):
            reads[_name] += 1
            return _read(*given, **more)

        monkeypatch.setattr(torch.Tensor, name, counted)
    totals = []
    for steps in (10, 30):
        reads.clear()
        run(
            base.add_adapter("policy", seed=0),
            tmp_path,
            budget=Budget(steps=steps),
            training={"micro_batch": 3},
        )
        totals.append(reads.copy())
    assert totals[1] - totals[0] == Counter(tolist=2), "one for each look, in 20 more steps"


def test_numbers_are_means_over_the_steps_since_the_last_look(base, tmp_path, monkeypatch):
    steps = iter(range(1, 100))

    def loss(scored, rows):
        return contrast(scored, rows)[0], {"step": torch.full((len(rows),), next(steps) * 1.0)}

    _, found = run(base.add_adapter("policy", seed=0), tmp_path, loss=loss, budget=Budget(steps=14))
    assert {step: numbers["step"] for step, numbers in found.items()} == {10: 5.5, 14: 12.5}


def fails_above(monkeypatch, limit: int) -> None:
    lay_out = groups_module.lay_out

    def too_large(groups, device):
        if sum(len(group.items) for group in groups.values()) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return lay_out(groups, device)

    monkeypatch.setattr(groups_module, "lay_out", too_large)


def test_out_of_memory_halves_the_micro_batch_and_the_result_is_the_same(base, tmp_path, monkeypatch):
    monkeypatch.setattr(step_module, "FULL", 1)
    whole = base.add_adapter("policy", seed=0)
    run(whole, tmp_path)
    fails_above(monkeypatch, 5)
    policy = base.add_adapter("policy", seed=0)
    record, _ = run(policy, tmp_path)
    assert (record.micro_batch, record.steps, record.checkpointing) == (2, 3, False)
    assert record.notes == tuple(
        f"from step 1 on the micro-batch is {size}: CUDA out of memory. Tried to allocate 2.00 GiB."
        for size in (4, 2)
    )
    for found, wanted in zip(weights(policy), weights(whole), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_step_that_keeps_more_than_there_is_room_for_is_computed_in_parts(base, tmp_path, monkeypatch):
    whole = base.add_adapter("policy", seed=0)
    record, _ = run(whole, tmp_path)
    assert (record.micro_batch, record.notes) == (8, ())
    monkeypatch.setitem(memory.ACTIVATIONS, "cpu", int(45 * kept_by(whole).token))  # of about 150 tokens
    policy = base.add_adapter("policy", seed=0)
    record, _ = run(policy, tmp_path)
    assert 1 <= record.micro_batch <= 4
    assert record.notes == ()
    for found, wanted in zip(weights(policy), weights(whole), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    record, _ = run(base.add_adapter("policy", seed=0), tmp_path, training={"micro_batch": 8})
    assert record.micro_batch == 8


def test_no_forward_keeps_more_than_there_is_room_for_however_unlike_the_rows_of_a_step_are(
    base, tmp_path, monkeypatch
):
    rows = [*make_pairs(2, seed=1, answers=(40, 60)), *make_pairs(14, seed=2, answers=(1, 4))]
    policy = base.add_adapter("policy", seed=0)
    longest = max(sum(map(len, row.sequences())) for row in rows)
    room = int(1.2 * longest * kept_by(policy).token)
    monkeypatch.setitem(memory.ACTIVATIONS, "cpu", room)
    weights = {one.untyped_storage().data_ptr() for one in base.model.parameters()}
    kept: list[dict[int, int]] = []
    scores = step_module.GradientStep._scores

    def counted(step, groups):
        found: dict[int, int] = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kept.append(found)
            return scores(step, groups)

    monkeypatch.setattr(step_module.GradientStep, "_scores", counted)
    training = {"batch": 16}
    run(policy, tmp_path, budget=Budget(steps=1), training=training, batches=lambda step: rows)
    assert len(kept) > 1
    assert max(sum(found.values()) for found in kept) < 1.2 * room
    assert min(sum(found.values()) for found in kept) > 0.3 * room  # and they are few


def test_where_forwards_are_short_already_activations_are_recomputed_first(base, tmp_path, monkeypatch):
    fails_above(monkeypatch, 8)
    record, _ = run(base.add_adapter("policy", seed=0), tmp_path)
    assert (record.checkpointing, record.micro_batch) == (True, 4)
    base.checkpointing(False)


def test_checkpointing_recomputes_each_layer_in_the_backward_pass(base, tmp_path):
    calls = []
    layer = base.model.base_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *given: calls.append(torch.is_grad_enabled()))
    for checkpointing, wanted in ((False, 1), (True, 2)):
        policy = base.add_adapter("policy", seed=0)
        calls.clear()
        training = {"checkpointing": checkpointing, "micro_batch": 8}  # auto tries a forward first
        run(policy, tmp_path, budget=Budget(steps=1), training=training)
        assert sum(calls) == wanted
    base.checkpointing(False)


def test_what_cannot_be_made_smaller_is_an_error_with_a_way_out(base, tmp_path, monkeypatch):
    fails_above(monkeypatch, 1)
    with pytest.raises(ModelError, match=r"a micro-batch of 1 does not fit .* lower data.max_length"):
        run(base.add_adapter("policy", seed=0), tmp_path)
    with pytest.raises(ModelError, match=r"a micro-batch of 4 does not fit"):
        run(base.add_adapter("policy", seed=0), tmp_path, training={"micro_batch": 4, "checkpointing": False})
    base.checkpointing(False)


def test_other_errors_keep_their_traceback(base, tmp_path):
    def broken(scored, rows):
        raise RuntimeError("a bug in a plugin")

    with pytest.raises(RuntimeError, match="a bug in a plugin"):
        run(base.add_adapter("policy", seed=0), tmp_path, loss=broken)


# --- equal runs --------------------------------------------------------------------------------------------


def trained(folder, tmp_path, *, seed=0, dropout=0.0, noise=0, **given) -> list[torch.Tensor]:
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8, dropout=dropout)))
    torch.manual_seed(noise)
    policy = base.add_adapter("policy", seed=0)
    run(policy, tmp_path, seed=seed, **given)
    return weights(policy)


def test_equal_seeds_give_equal_bytes_with_dropout_too(folder, tmp_path):
    assert same(trained(folder, tmp_path, noise=1), trained(folder, tmp_path, noise=2))
    once = trained(folder, tmp_path, dropout=0.3, noise=1)
    assert same(once, trained(folder, tmp_path, dropout=0.3, noise=2))
    assert not same(once, trained(folder, tmp_path))
    assert not same(once, trained(folder, tmp_path, dropout=0.3, seed=1))


def test_the_dropout_of_the_base_itself_stays_off(tmp_path):
    """GPT-2 brings 10% of its own: only the adapter's is wanted, and here that is none."""
    ends = [
        trained(
            save_model(tmp_path / str(rate), "gpt2", resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate),
            tmp_path,
        )
        for rate in (0.0, 0.5)
    ]
    assert same(*ends)


def test_a_trained_policy_is_back_in_evaluation_mode(folder, tmp_path):
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8, dropout=0.5)))
    policy = base.add_adapter("policy", seed=0)
    run(policy, tmp_path, training={"checkpointing": True})
    assert not any(part.training for part in base.model.modules())
    sequences = [one for row in ROWS[:4] for one in row.sequences()]
    first, second = (policy.logprobs(sequences) for _ in range(2))
    assert all((a.logps == b.logps).all() for a, b in zip(first, second, strict=True))


def test_a_frozen_policy_is_scored_without_its_dropout(folder, tmp_path):
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8, dropout=0.5)))
    frozen = disturb(base.add_adapter("frozen", seed=1, trainable=False))
    seen = []

    def against(rows):
        return both(rows) | {"old": ScoringGroup([row.sequences()[0] for row in rows], policy=frozen)}

    def look(scored, rows):
        seen.append(scored["old"].sums())
        return contrast(scored, rows)

    for name in ("one", "two"):
        policy = base.add_adapter(name, seed=0)
        run(policy, tmp_path, sequences=against, loss=look, budget=Budget(steps=1), seed=len(seen))
    wanted = [
        one.logps.sum()
        for one in frozen.logprobs(against(order.epoch(Table(ROWS, Pair), 0, 8, 0)[0])["old"].items)
    ]
    torch.testing.assert_close(seen[0], torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_a_tolerance_is_told_where_scores_can_be_compared(folder, tmp_path):
    for dropout, wanted in ((0.0, 1e-5), (0.1, None)):
        base = load_base(
            schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8, dropout=dropout))
        )
        seen = []

        def look(scored, rows, seen=seen):
            seen.append(scored["chosen"].tolerance)
            return contrast(scored, rows)

        run(base.add_adapter("policy", seed=0), tmp_path, loss=look, budget=Budget(steps=1))
        assert seen == [wanted]


def test_both_labels_of_a_row_count_as_one_row_of_the_budget_and_two_of_the_mean(base, tmp_path):
    seen = []

    def labelled(rows):
        return {"all": [one for row in rows for one in row.sequences()]}

    def loss(scored, rows):
        seen.append(len(rows))
        return -scored["all"].means(), {"half": torch.arange(len(rows)) < 8}

    record, found = run(
        base.add_adapter("policy", seed=0),
        tmp_path,
        batches=Table(ROWS, UnpairedPreference),
        sequences=labelled,
        loss=loss,
        budget=Budget(rows=8),
    )
    assert (record.rows, record.steps, seen) == (8, 1, [16])
    assert found[1]["half"] == 0.5
