"""What is known of the finished cells of a run: answers, scores, log-probabilities, each computed once."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignbench import layout, store
from alignbench.api.judge import Judge, Score, preference
from alignbench.api.launcher import Event
from alignbench.api.metric import Cell, Metric, PairLogprobs, Request, by_prompt
from alignbench.api.policy import Answer, Policy, TokenScores
from alignbench.judges import people
from alignbench.recipe.configs import make
from alignbench.recipe.schema import BASE, Named
from alignbench.rows import Pair, Prompt, can_derive
from alignbench.rows import Sequence as Scorable
from alignbench.worker.finished import samples
from alignbench.worker.finished.answering import TUNING
from alignbench.worker.run.context import finished_policy, judge_reward_model, outside_start
from alignbench.worker.run.metering import naming_prompts
from alignbench.worker.run.model_access import ModelAccess
from alignbench.worker.run.session import Session

HELD_OUT = "test"
"""The split whose pairs show what a policy prefers."""


class Drawn(NamedTuple):
    """The answers of one cell at one temperature; None where its policy ignores the temperature."""

    cell: Cell
    temperature: float | None


class PromptPart(NamedTuple):
    """One of `of` parts of the prompts, each as large as the others, in their order."""

    number: int
    of: int

    def share(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        ends = [len(prompts) * place // self.of for place in (self.number, self.number + 1)]
        return prompts[slice(*ends)]


Record = MutableMapping[str, Any]
"""What was measured of one cell, by name: JSON values."""


class FinishedCells:
    """The finished cells of a run. Each function keeps what it returned: whoever asks again shares it.

    What it computes of one cell it puts into the cell's record, and what a record has it does not compute: a process of
    its own may have measured the cell. `judgments`: what judges have said before, as the method returns it. `judges`:
    names of the recipe's that judge here; None: all, and people. `part`: of the prompts, with the answers to them.
    """

    def __init__(
        self,
        session: Session,
        cells: Sequence[Cell],
        emit: Callable[[Event], None],
        metrics: Sequence[Metric] = (),
        records: Mapping[Cell, Record] | None = None,
        judgments: Sequence[tuple[Sequence[Any], Sequence[Any]]] = (),
        *,
        judges: Collection[str] | None = None,
        part: PromptPart | None = None,
    ):
        self.session = session
        self.cells = cells
        self.emit = emit
        self._some = judges
        self._records: dict[Cell, Record] = dict(records or {})
        self._scored: dict[tuple[str, str, str], Score] = {}
        self._judgments = {_place(*name): list(values) for name, values in judgments}
        self.entropy = any("entropy" in metric.needs for metric in metrics)
        self.asked: dict[str, Request] = {}
        """The largest request of each key."""
        for request in (one for metric in metrics for one in metric.requests(session.root)):
            known = self.asked.setdefault(request.key, request)
            if request.samples > known.samples:
                self.asked[request.key] = request
        evaluation = session.recipe.evaluation
        self.prompts: Sequence[Prompt] = session.table.prompts(evaluation.split, evaluation.prompts)
        self.part = part
        if part is not None:
            self.prompts = part.share(self.prompts)
        self._prompts = {prompt.id: prompt for prompt in self.prompts}
        for name in ("_answered", "scored", "scores", "policy", "answers", "preference_logprobs"):
            setattr(self, name, cache(getattr(self, name)))

    def record(self, cell: Cell) -> Record:
        """Return what was measured of a cell so far."""
        return self._records.setdefault(cell, {})

    def kept(self, cell: Cell, name: str, make: Callable[[], Any]) -> Any:
        """Return what a cell's record has by this name. Where it has nothing, `make` it, and the record has it."""
        record = self.record(cell)
        if name not in record:
            record[name] = make()
        return record[name]

    def judgments(self) -> list[tuple[list[Any], list[Any]]]:
        """Return what judges said of answers at a temperature, and of pairs of them, by what it is of: JSON values."""
        return [
            ([judge, *([*one.cell, one.temperature] for one in drawn)], values)
            for (judge, *drawn), values in self._judgments.items()
        ]

    @property
    def cost(self) -> dict[str, int]:
        """What the requests of the metrics cost, in full also where the answers lay in the store."""
        spent = [one for cell in self.cells for one in self.record(cell).get("requests", {}).values()]
        return {name: sum(one[name] for one in spent) for name in ("generated_tokens", "forward_passes")}

    def base(self) -> dict[str, Any]:
        """Return what is recorded of the base, on the machine that measured the first cell."""

        def loaded() -> dict[str, Any]:
            base = self.session.base
            compute = str(base.dtype).removeprefix("torch.")
            where = {"fingerprint": base.fingerprint, "device": str(base.device), "compute": compute}
            return {"model": base.record(), "base": where}

        return self.kept(self.cells[0], "base", loaded)

    # --- judges ---------------------------------------------------------------------------------------------

    @cached_property
    def judges(self) -> Mapping[str, Judge]:
        """The evaluation judges by name, those of people in the run among them."""
        named = self.session.recipe.evaluation.judges
        if self._some is not None:
            return {one.name: self._opened(one) for one in named if one.name in self._some}
        made = {one.name: self._opened(one) for one in named}
        own = people.of_run(self.session.run)
        return {**made, **{name: judge for name, judge in own.items() if name not in made}}

    @cached_property
    def _tuning_judge(self) -> Judge:
        """Who chooses the temperatures: the tuning judge of the first judge that can judge any answer."""
        tuning, evaluation = self.session.plan.tuning_judge, self.session.recipe.evaluation
        assert tuning is not None
        # On validation prompts of its own, a judge that is not trained in the run may choose itself.
        same = evaluation.split == TUNING or tuning in evaluation.judges
        return self.judges[tuning.name] if same and tuning.name in self.judges else self._opened(tuning)

    def _opened(self, named: Named) -> Judge:
        self.emit(Event(f"opening the judge {named.name}"))
        judge = make_named("judges", named)
        judge.open(ModelAccess(self.session, None, judge_reward_model(self.session)))
        naming_prompts(judge)
        return judge

    # --- answers --------------------------------------------------------------------------------------------

    def temperatures(self, cell: Cell) -> tuple[float | None, ...]:
        """Return the temperatures at which a cell answered; None alone where it ignores them."""
        return tuple(self._answered(cell))

    def samples(self, drawn: Drawn) -> Sequence[Answer]:
        """Return a cell's answers at one temperature, prompt by prompt, sample by sample."""
        return self._answered(drawn.cell)[drawn.temperature]

    def _answered(self, cell: Cell) -> dict[float | None, list[Answer]]:
        folder = self.folder(cell)
        if not (folder / layout.SAMPLES).is_file():  # not on this machine, whose task needs no policy
            folder = layout.measurements_folder(self.session.run, *cell)
        found = samples.read(folder)
        if self.part is None:
            return found
        return {at: [one for one in of if one.prompt_id in self._prompts] for at, of in found.items()}

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
        scores = self.kept(cell, "tuning scores", lambda: list(self._tuning_scores(cell).items()))
        return dict(scores)

    def _tuning_scores(self, cell: Cell) -> Mapping[float | None, Mapping[str, float]]:
        same = self.session.recipe.evaluation.split == TUNING
        asks = self.session.plan.tuning_judge is not None
        if not asks or not (same or (self.folder(cell) / layout.TUNING_SAMPLES).is_file()):
            return {}
        judge = self._tuning_judge
        answered = self._answered(cell) if same else samples.read(self.folder(cell), layout.TUNING_SAMPLES)
        self.emit(Event(f"{judge.name} chooses the temperature of {cell.label}"))
        asked = {prompt.id: prompt for prompt in self.tuning_prompts}
        found: dict[float | None, Mapping[str, float]] = {}
        for temperature, of in answered.items():
            scores = judge.score([asked[one.prompt_id] for one in of], [one.text for one in of])
            values = by_prompt(of, [score.value for score in scores])
            found[temperature] = {id: float(value) for id, value in values.items()}
        return found

    def scores(self, judge: str, drawn: Drawn) -> Sequence[Score]:
        """Return a judge's scores of a cell's answers at one temperature.

        Equal answers to a prompt have one score, that of the first of them: processes may differ in its last digits.
        """
        answers = self.samples(drawn)

        def judged() -> list[Any]:
            if (known := self._judgments.get((judge, drawn))) is not None:
                return known
            self.emit(Event(f"{judge} judges {drawn.cell.label}"))
            asked = [self._prompts[one.prompt_id] for one in answers]
            scores = self.judges[judge].score(asked, [one.text for one in answers])
            return self._judgments.setdefault((judge, drawn), [_packed(one) for one in scores])

        found = map(_score, self.kept(drawn.cell, f"scores by {judge} at {drawn.temperature}", judged))
        return [
            self._scored.setdefault((judge, one.prompt_id, one.text), score)
            for one, score in zip(answers, found, strict=True)
        ]

    def judged(
        self, judge: str, pairs: Sequence[tuple[Drawn, Drawn]]
    ) -> Mapping[tuple[Drawn, Drawn], Sequence[float | None]]:
        """Return a judge's word on the samples of each two cells, in the order of the samples; asked in one batch,
        so that it reads once what questions share. A judge that compares scores is not asked again."""
        kind = type(self.judges[judge])
        if kind.compare is Judge.compare and kind.judge_pairs is Judge.judge_pairs:
            return {
                (a, b): [
                    preference(ours.value, theirs.value)
                    for ours, theirs in zip(self.scores(judge, a), self.scores(judge, b), strict=True)
                ]
                for a, b in pairs
            }
        if left := [pair for pair in pairs if (judge, *pair) not in self._judgments]:
            self._compare(judge, left)
        return {pair: self._judgments[judge, *pair] for pair in pairs}

    def _compare(self, judge: str, pairs: Sequence[tuple[Drawn, Drawn]]) -> None:
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
        for a, b in pairs:
            own = [next(preferences) for _ in self.samples(a)]
            self._judgments[judge, a, b] = [None if value is None else float(value) for value in own]

    # --- policies -------------------------------------------------------------------------------------------

    def scored(self, drawn: Drawn, scorer: Cell | None) -> Sequence[TokenScores] | None:
        """Return the log-probabilities of one cell's samples under another's policy, asked for in two roles;
        without another under the start that lies outside this run."""
        who = "its start" if scorer is None else layout.cell_name(*scorer)
        name = f"log-probabilities at {drawn.temperature} under {who}"
        found = self.kept(drawn.cell, name, lambda: _packed_tokens(self._token_scores(drawn, scorer)))
        return _token_scores(found)

    def _token_scores(self, drawn: Drawn, scorer: Cell | None) -> Sequence[TokenScores] | None:
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
        request = self.asked[key]
        lies, costs = (self.kept(cell, name, dict) for name in ("answers", "requests"))
        name = f"{key} x {request.samples}"
        folder = self.session.store.find(lies[name]) if name in lies else None
        if folder is None:
            folder = self._made(cell, key)
        (answers,) = samples.read(folder).values()
        lies[name] = folder.name
        costs[name] = {
            "generated_tokens": sum(len(answer.ids) for answer in answers),
            "forward_passes": sum(answer.forwards for answer in answers),
        }
        return answers

    def _made(self, cell: Cell, key: str) -> Path:
        """Return the folder of the store where a cell's answers to a request lie."""
        request, policy = self.asked[key], self.policy(cell)
        weights = getattr(policy, "fingerprint", None)
        content = weights() if weights else (store.manifest(self.folder(cell)) or {}).get("content")

        def make(folder: Path) -> None:
            self.emit(Event(f"{cell.label} answers {len(request.prompts)} x {request.samples}"))
            found = policy.answer(request.prompts, request.sampling, cell.seed, samples=request.samples)
            samples.write(folder, {request.sampling.temperature: found})

        inputs = {"policy": content, "seed": cell.seed, "asked": key, "samples": request.samples}
        return self.session.store.make(
            store.digest({**self.session.base_key(), **inputs}), make, producer="alignbench"
        )

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


def _place(judge: str, *drawn: Any) -> tuple[Any, ...]:
    """What a judgment is of, as `FinishedCells` knows it."""
    return judge, *(Drawn(Cell(label, seed), temperature) for label, seed, temperature in drawn)


def _packed(score: Score) -> Any:
    """A score as JSON values; `_score` reads it."""

    def number(value: float | None) -> float | None:
        return None if value is None else float(value)

    parts = {name: number(value) for name, value in score.parts.items()}
    return [number(score.value), parts, {name: _packed(one) for name, one in score.by_rater.items()}]


def _score(packed: Any) -> Score:
    value, parts, by_rater = packed
    return Score(value, parts, {name: _score(one) for name, one in by_rater.items()})


def _packed_tokens(scores: Sequence[TokenScores] | None) -> Any:
    """Scores of tokens as JSON values: the length of each, and their float32 numbers one after the other."""
    if scores is None:
        return None
    found: dict[str, Any] = {"lengths": [len(one.logps) for one in scores], "entropy": None}
    columns = {"logps": [one.logps for one in scores], "entropy": [one.entropy for one in scores]}
    for name, column in columns.items():
        if (arrays := [one for one in column if one is not None]) and len(arrays) == len(column):
            found[name] = b64encode(np.concatenate(arrays).astype("<f4").tobytes()).decode()
    return found


def _token_scores(packed: Any) -> Sequence[TokenScores] | None:
    if packed is None:
        return None
    ends = np.cumsum(packed["lengths"])[:-1]
    logps, entropy = (
        [None] * len(packed["lengths"])
        if packed.get(name) is None
        else np.split(np.frombuffer(b64decode(packed[name]), "<f4"), ends)
        for name in ("logps", "entropy")
    )
    return [TokenScores(*both) for both in zip(logps, entropy, strict=True)]  # pyright: ignore[reportArgumentType]


def make_named(group: Any, named: Named) -> Any:
    """Return the judge or metric that a recipe names, with its config."""
    made = make(group, named.name, named.config)
    made.name = named.name
    return made
