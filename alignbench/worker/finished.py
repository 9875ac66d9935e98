"""What is known of the finished cells of a run: answers, scores, log-probabilities, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from alignbench import layout, store
from alignbench.api.judge import Judge, Score
from alignbench.api.launcher import Event
from alignbench.api.metric import Cell, Metric, PairLogprobs, Request, by_prompt
from alignbench.api.policy import Answer, Policy, TokenScores
from alignbench.judges import people
from alignbench.recipe.configs import make
from alignbench.recipe.schema import BASE, Named
from alignbench.rows import Pair, Prompt, can_derive
from alignbench.rows import Sequence as Scorable
from alignbench.worker import samples
from alignbench.worker.answering import TUNING
from alignbench.worker.context import finished_policy, judge_reward_model, outside_start
from alignbench.worker.model_access import ModelAccess
from alignbench.worker.session import Session

HELD_OUT = "test"
"""The split whose pairs show what a policy prefers."""


class Drawn(NamedTuple):
    """The answers of one cell at one temperature; None where its policy ignores the temperature."""

    cell: Cell
    temperature: float | None


class FinishedCells:
    """The finished cells of a run. Each function keeps what it returned: whoever asks again shares it."""

    def __init__(
        self,
        session: Session,
        cells: Sequence[Cell],
        emit: Callable[[Event], None],
        metrics: Sequence[Metric] = (),
    ):
        self.session = session
        self.cells = cells
        self.emit = emit
        self.cost = {"generated_tokens": 0, "forward_passes": 0}
        """What the requests of the metrics cost, in full also where the answers lay in the store."""
        self.entropy = any("entropy" in metric.needs for metric in metrics)
        self.asked: dict[str, Request] = {}
        """The largest request of each key."""
        for request in (one for metric in metrics for one in metric.requests(session.root)):
            known = self.asked.setdefault(request.key, request)
            if request.samples > known.samples:
                self.asked[request.key] = request
        evaluation = session.recipe.evaluation
        self.prompts: Sequence[Prompt] = session.table.prompts(evaluation.split, evaluation.prompts)
        self._prompts = {prompt.id: prompt for prompt in self.prompts}
        for name in ("_answered", "scored", "scores", "policy", "answers", "preference_logprobs"):
            setattr(self, name, cache(getattr(self, name)))

    # --- judges ---------------------------------------------------------------------------------------------

    @cached_property
    def judges(self) -> Mapping[str, Judge]:
        """The evaluation judges by name, those of people in the run among them."""
        made = {named.name: self._opened(named) for named in self.session.recipe.evaluation.judges}
        own = people.of_run(self.session.run)
        return {**made, **{name: judge for name, judge in own.items() if name not in made}}

    @cached_property
    def tuning_judge(self) -> Judge | None:
        """Who chooses the temperatures: the tuning judge of the first judge that can judge any answer."""
        tuning, evaluation = self.session.plan.tuning_judge, self.session.recipe.evaluation
        if tuning is None:
            return None
        # On validation prompts of its own, a judge that is not trained in the run may choose itself.
        same = evaluation.split == TUNING or tuning in evaluation.judges
        return self.judges[tuning.name] if same else self._opened(tuning)

    def _opened(self, named: Named) -> Judge:
        self.emit(Event(f"opening the judge {named.name}"))
        judge = make_named("judges", named)
        judge.name = named.name
        judge.open(ModelAccess(self.session, None, judge_reward_model(self.session)))
        return judge

    # --- answers --------------------------------------------------------------------------------------------

    def temperatures(self, cell: Cell) -> tuple[float | None, ...]:
        """Return the temperatures at which a cell answered; None alone where it ignores them."""
        return tuple(self._answered(cell))

    def samples(self, drawn: Drawn) -> Sequence[Answer]:
        """Return a cell's answers at one temperature, prompt by prompt, sample by sample."""
        return self._answered(drawn.cell)[drawn.temperature]

    def _answered(self, cell: Cell) -> dict[float | None, list[Answer]]:
        return samples.read(self.folder(cell))

    @property
    def tuning_prompts(self) -> Sequence[Prompt]:
        """The prompts that choose a temperature."""
        evaluation = self.session.recipe.evaluation
        if evaluation.split == TUNING:
            return self.prompts
        return self.session.table.prompts(TUNING, evaluation.tuning_prompts)

    def tuning_scores(self, cell: Cell) -> Mapping[float | None, Mapping[str, float]]:
        """Return the tuning judge's scores of a cell at each temperature, by prompt; none where it has no answers
        to the prompts that choose."""
        judge = self.tuning_judge
        same = self.session.recipe.evaluation.split == TUNING
        if judge is None or not (same or (self.folder(cell) / layout.TUNING_SAMPLES).is_file()):
            return {}
        answered = self._answered(cell) if same else samples.read(self.folder(cell), layout.TUNING_SAMPLES)
        self.emit(Event(f"{judge.name} chooses the temperature of {cell.label}"))
        asked = {prompt.id: prompt for prompt in self.tuning_prompts}
        found: dict[float | None, Mapping[str, float]] = {}
        for temperature, of in answered.items():
            scores = judge.score([asked[one.prompt_id] for one in of], [one.text for one in of])
            found[temperature] = by_prompt(of, [score.value for score in scores])
        return found

    def scores(self, judge: str, drawn: Drawn) -> Sequence[Score]:
        """Return a judge's scores of a cell's answers at one temperature."""
        self.emit(Event(f"{judge} judges {drawn.cell.label}"))
        answers = self.samples(drawn)
        return self.judges[judge].score(
            [self._prompts[one.prompt_id] for one in answers], [one.text for one in answers]
        )

    def judged(
        self, judge: str, pairs: Sequence[tuple[Drawn, Drawn]]
    ) -> Mapping[tuple[Drawn, Drawn], Sequence[float | None]]:
        """Return a judge's word on the samples of each two cells, in the order of the samples; asked in one batch,
        so that it reads once what questions share."""
        one = pairs[0]
        who = f"{one[0].cell.label} with {one[1].cell.label}" if len(pairs) == 1 else f"{len(pairs)} pairs"
        self.emit(Event(f"{judge} compares {who}"))
        preferences = iter(
            self.judges[judge].compare(
                [self._prompts[answer.prompt_id] for a, _ in pairs for answer in self.samples(a)],
                [answer.text for a, _ in pairs for answer in self.samples(a)],
                [answer.text for _, b in pairs for answer in self.samples(b)],
            )
        )
        return {(a, b): [next(preferences) for _ in self.samples(a)] for a, b in pairs}

    # --- policies -------------------------------------------------------------------------------------------

    def scored(self, drawn: Drawn, scorer: Cell | None) -> Sequence[TokenScores] | None:
        """Return the log-probabilities of one cell's samples under another's policy, asked for in two roles;
        without another under the start that lies outside this run."""
        cell = drawn.cell
        policy = self._outside(cell) if scorer is None else self.policy(scorer)
        if "logprobs" not in policy.can or "logprobs" not in self.policy(cell).can:
            return None
        self.emit(Event(f"scoring {cell.label} under {'its start' if scorer is None else scorer.label}"))
        sequences = [
            Scorable(self._prompts[answer.prompt_id].prompt_ids, answer.ids) for answer in self.samples(drawn)
        ]
        return policy.logprobs(sequences, entropy=self.entropy and scorer == cell)

    def generations(self, cell: Cell, request: Request) -> Sequence[Answer]:
        """Return a cell's answers to a metric's request."""
        self.asked.setdefault(request.key, request)
        answers = self.answers(cell, request.key)
        return [answer for answer in answers if answer.sample < request.samples]

    def answers(self, cell: Cell, key: str) -> Sequence[Answer]:
        """Return a cell's answers to the largest request of this key, out of the store where they lie there."""
        request, policy = self.asked[key], self.policy(cell)
        weights = getattr(policy, "fingerprint", None)
        content = weights() if weights else (store.manifest(self.folder(cell)) or {}).get("content")

        def make(folder: Path) -> None:
            self.emit(Event(f"{cell.label} answers {len(request.prompts)} x {request.samples}"))
            found = policy.answer(request.prompts, request.sampling, cell.seed, samples=request.samples)
            samples.write(folder, {request.sampling.temperature: found})

        inputs = {"policy": content, "seed": cell.seed, "asked": key, "samples": request.samples}
        folder = self.session.store.make(
            store.digest({**self.session.base_key(), **inputs}), make, producer="alignbench"
        )
        (answers,) = samples.read(folder).values()
        self.cost["generated_tokens"] += sum(len(answer.ids) for answer in answers)
        self.cost["forward_passes"] += sum(answer.forwards for answer in answers)
        return answers

    def preference_logprobs(self, cell: Cell) -> Sequence[PairLogprobs] | None:
        """Return the log-probabilities of the held-out pairs; None where the policy has none."""
        pairs = self.pairs
        policy = self.policy(cell)
        if "logprobs" not in policy.can:
            return None
        self.emit(Event(f"scoring {cell.label} on held-out pairs"))
        scored = policy.logprobs([sequence for pair in pairs for sequence in pair.sequences()])
        sums = [float(one.logps.sum()) for one in scored]
        return [
            PairLogprobs(pair.id, chosen, rejected)
            for pair, chosen, rejected in zip(pairs, sums[::2], sums[1::2], strict=True)
        ]

    @cached_property
    def pairs(self) -> list[Pair]:
        """The held-out pairs; none where the rows are not comparisons."""
        table = self.session.table
        if not can_derive(table.view, Pair):
            return []
        return list(table.rows(Pair, HELD_OUT, seed=0))[: self.session.recipe.evaluation.prompts]

    def policy(self, cell: Cell) -> Policy:
        """Return a cell's policy."""
        return finished_policy(self.session, cell.label, cell.seed)

    def _outside(self, cell: Cell) -> Policy:
        return outside_start(self.session, self.session.plan.labels[cell.label].start, cell.seed)

    def start(self, cell: Cell) -> Cell | None:
        """Return the cell that a cell starts from; None where its start lies outside the run."""
        planned = self.session.plan.labels.get(cell.label)
        start = BASE if planned is None else planned.start
        return Cell(start, cell.seed) if isinstance(start, str) else None

    def folder(self, cell: Cell) -> Path:
        """Return a cell's folder."""
        return layout.cell_folder(self.session.run, cell.label, cell.seed)


def make_named(group: Any, named: Named) -> Any:
    """Return the judge or metric that a recipe names, with its config."""
    return make(group, named.name, named.config)
