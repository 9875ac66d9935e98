"""Rewards for a method: a reward model of the run's comparisons, a judge, or reward functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from alignbench import plugins, returned, store
from alignbench.api.config import Budget, NamedJudge, NamedReward
from alignbench.api.judge import Judge
from alignbench.api.method import Run
from alignbench.api.reward import Reward, RewardModel
from alignbench.recipe import configs
from alignbench.rows import Pair, Prompt, Ranking, Row
from alignbench.spending import counts_everything, parts

if TYPE_CHECKING:
    from alignbench.training.reward_quality import Compared

__all__ = ["reward", "reward_model", "trains_reward_model"]

Scorer = Callable[[Many[Prompt], Many[str]], list[float | None]]
"""Prompts and answers, aligned, to a reward each; None where none applies."""


def reward(run: Run, judge: NamedJudge | None, functions: Many[NamedReward] = ()) -> Scorer:
    """Return the sum of a judge's score, if one is named, and of reward functions by their weights.

    With neither it is the score of a reward model of the training rows. A judge that only compares gives an answer the
    mean share, from 0 to 1, of its comparisons with the others to its prompt, which stand next to each other. An answer
    on which one of them has nothing to say has no reward.
    """
    if judge is None and not functions:
        judge = NamedJudge(name="reward-model", config={"train_on": "train"})
    opened = None if judge is None else run.judge(judge)
    made = [
        kind(config, root=run.root)
        for kind, config in (configs.build("rewards", one.name, one.config) for one in functions)
    ]

    def score(prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
        columns = [] if opened is None else [_judged(opened, prompts, answers)]
        for one in made:
            weight = one.config.weight
            found = _scores(one, prompts, answers)
            columns.append([None if value is None else weight * value for value in found])
        return [
            None if any(value is None for value in row) else sum(value for value in row if value is not None)
            for row in zip(*columns, strict=True)
        ]

    return score


def trains_reward_model(judge: NamedJudge | None, functions: Many[NamedReward] = ()) -> bool:
    """Return whether `reward` scores by a reward model of the training rows: then the method reads pairs."""
    if judge is None:
        return not functions
    return judge.name == "reward-model" and judge.config.get("train_on") == "train"


def _judged(judge: Judge, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
    """Return a judge's score of each answer, or its mean share of the comparisons within its group."""
    if judge.scores:
        return [one.value for one in judge.score(prompts, answers)]
    groups = [list(group) for _, group in groupby(range(len(prompts)), lambda place: prompts[place].id)]
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    found: list[list[float]] = [[] for _ in prompts]
    shares = judge.compare(
        [prompts[first] for first, _ in pairs],
        [answers[first] for first, _ in pairs],
        [answers[second] for _, second in pairs],
    )
    for (first, second), share in zip(pairs, shares, strict=True):
        if share is not None:
            found[first].append(share)
            found[second].append(1 - share)
    return [fmean(one) if one else None for one in found]


def _scores(one: Reward, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
    with plugins.naming_row(prompts, lambda place: one.score([prompts[place]], [answers[place]])):
        return returned.rewards(one, one.score(prompts, answers), prompts)


FORMAT = 2
"""Of what is kept with a reward model; one of another format is made again."""
MEASURED = 0.1
"""Share of what a reward model may take of a budget that counts everything, for measuring and scaling it."""


def reward_model(
    run: Run,
    rows: Iterable[Row] | None = None,
    *,
    learning_rate: float,
    head_learning_rate: float | None = None,
    epochs: float = 1,
    batching: Literal["per-prompt", "shuffled-pairs"] = "per-prompt",
    share: float = 0.5,
    gap: bool = False,
) -> RewardModel:
    """Return a reward model of `rows` (default: the training rows, rankings whole), which starts as `run.start`.

    An adapter and a float32 head, trained for `epochs` in addition to the policy's budget. Shared by all cells that
    ask for the same. Its quality on held-out rows goes into the record, and with `gap` that on as many of the rows that
    it was trained on, and the difference of the losses. The head learns with `head_learning_rate`
    (default: ten times `learning_rate`). `batching`: all comparisons of a prompt as one element of a batch, or
    each comparison on its own. Of a budget that counts everything it takes at most `share` of what is left, that it
    is measured on held-out rows included.
    """
    from alignbench.models import Base, ModelPolicy
    from alignbench.training import reward_model as reward

    view = _view(run)
    compared: Many[Compared] = list(run.rows(view, given=None if rows is None else list(rows)))
    held_out = reward.usable(run.rows(view, "validation") or compared)
    untouched = run.policy("base")
    start = run.start if isinstance(run.start, ModelPolicy) else untouched
    assert isinstance(untouched, ModelPolicy)
    base = untouched.base
    assert isinstance(base, Base)

    limit = run.budget.of(share * run.left) if counts_everything(run) else None

    def make(folder: Path) -> None:
        begun = run.left
        kept = reward.usable(compared)
        if batching == "shuffled-pairs":
            kept = [pair for row in kept for pair in reward.split_pairs(row)]
        policy = run.adapt(start, name="reward", dropout=False)
        assert isinstance(policy, ModelPolicy)
        head = reward.new_head(base, store.stream_key(run.seed, "init", "reward-head"))
        run.train(
            policy,
            run.rows(type(kept[0]), given=kept),
            reward.sequences_of(base, head),
            reward.ranking_loss,
            learning_rate=learning_rate,
            learning_rates={head: 10 * learning_rate if head_learning_rate is None else head_learning_rate},
            modules={"head": head},
            budget=Budget(epochs=epochs),
            limit=None if limit is None else limit.part(1 - MEASURED),
        )
        learned = reward.usable(compared)[: len(held_out)] if gap else []
        of_held_out, of_learned = [[held_out], [learned] if gap else []]
        if limit is not None:
            left = (limit.amount - (begun - run.left)) / max(run.left, 1e-9) / (2 if gap else 1)
            of_held_out, of_learned = (parts(run, one, share=left, first=4) for one in (held_out, learned))
        reward.finish(policy, head, of_held_out, of_learned).save(folder)
        base.drop(policy)

    folder = run.shared(
        make,
        what="training the reward model",
        format=FORMAT,
        seed=run.seed,
        start=start,
        rows=store.digest([_content(row) for row in compared]),
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        epochs=epochs,
        batching=batching,
        training=run.training.model_dump(),
        **({} if limit is None else {"limit": limit.model_dump()}),
        **({"gap": True} if gap else {}),
    )
    made = reward.load(base, folder, "reward")
    run.record.judge("reward-model", **made.quality)
    return made


def _view(run: Run) -> type[Ranking] | type[Pair]:
    """The view that keeps all comparisons: rankings where a row compares more than two answers."""
    return Ranking if any(len(row.answers) > 2 for row in run.rows(Ranking)) else Pair


def _content(row: Compared) -> list[object]:
    texts = (row.chosen, row.rejected, row.preference) if isinstance(row, Pair) else None
    ranked = None if isinstance(row, Pair) else (row.answers, row.ranks, row.preferences)
    return [row.id, row.length, row.prompt, texts or ranked, [one.response for one in row.sequences()]]
