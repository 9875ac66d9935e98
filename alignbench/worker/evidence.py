"""What the evaluation knows of the finished cells: `alignbench.api.metric.Evidence`, each part computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, plugins, store
from alignbench.api.config import Sampling
from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell, Metric, PairLogprobs, Request, Under, matches
from alignbench.api.policy import Answer, Policy, TokenScores
from alignbench.judges import people
from alignbench.judges.controls import controls
from alignbench.metrics.second_person import as_a_rater
from alignbench.recipe.schema import BASE, Named
from alignbench.rows import Ids, Pair, Prompt, Text, can_derive
from alignbench.rows import Sequence as Scorable
from alignbench.worker import learning_curve, samples
from alignbench.worker.context import finished_policy, judge_reward_model, outside_start
from alignbench.worker.messages import Event
from alignbench.worker.model_access import ModelAccess
from alignbench.worker.session import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


HELD_OUT = "test"
"""The split whose pairs show what a policy prefers."""


class RunEvidence:
    """`alignbench.api.metric.Evidence` over a run's cells: everything is computed once, when first asked for."""

    def __init__(
        self,
        session: Session,
        cells: Sequence[Cell],
        emit: Callable[[Event], None],
        metrics: Sequence[Metric] = (),
    ):
        self._session = session
        self._emit = emit
        self.cells = cells
        self.root = session.root
        self.cost = {"generated_tokens": 0, "forward_passes": 0}
        """What the requests of the metrics cost, in full also where the answers lay in the store."""
        self.compared: dict[tuple[str, Cell, Cell], Sequence[float | None]] = {}
        """Every comparison that a metric asked for: (judge, a, b) -> how probably a's answers are better."""
        self._entropy = any("entropy" in metric.needs for metric in metrics)
        self._every = any("comparisons" in metric.needs for metric in metrics)
        self._asked: dict[str, Request] = {}
        for request in (one for metric in metrics for one in metric.requests(session.root)):
            known = self._asked.setdefault(request.key, request)
            if request.samples > known.samples:
                self._asked[request.key] = request
        self.sampling: Sampling = session.recipe.evaluation.sampling
        self.prompts: Sequence[Prompt] = session.table.prompts(
            session.recipe.evaluation.split, session.recipe.evaluation.prompts
        )
        # Each function keeps what it returned: metrics that ask for the same thing share one computation.
        for name in (
            *("samples", "_scored", "preference_logprobs", "scores", "compare", "by_rater", "_everyone"),
            *("_policy", "_answers"),
        ):
            setattr(self, name, cache(getattr(self, name)))

    @property
    def judges(self) -> Mapping[str, Judge]:
        return self._judges

    @cached_property
    def _judges(self) -> Mapping[str, Judge]:
        made = {}
        for named in self._session.recipe.evaluation.judges:
            self._emit(Event(f"opening the judge {named.name}"))
            judge = made[named.name] = make_named("judges", named)
            judge.name = named.name
            judge.open(ModelAccess(self._session, None, judge_reward_model(self._session)))
        own = people.of_run(self._session.run)
        return {**made, **{name: judge for name, judge in own.items() if name not in made}}

    def quality(self) -> list[dict[str, Any]]:
        """Return what is known of each judge, its controls among it: see `alignbench.judges.controls`."""
        told = []
        for name, judge in self.judges.items():
            self._emit(Event(f"the judge {name} under control"))
            found = dict(judge.quality)
            if isinstance(judge, people.People) and judge.config.rater is None:
                found["as_a_rater"] = as_a_rater(self, judge, self.compared)
            if self._pairs and not judge.recorded:
                others = (one for one in self.judges.values() if one is not judge)
                truths = [one for one in others if not one.trains and not one.recorded]
                found |= controls(judge, self._pairs, truths[0] if truths else None)
            told.append({"name": name, "config": judge.config.model_dump(mode="json"), "quality": found})
        return told

    def samples(self, cell: Cell) -> Sequence[Answer]:
        return samples.read(self._folder(cell))

    def logprobs(self, cell: Cell, *, under: Under) -> Sequence[TokenScores] | None:
        scorer = {"self": cell, "start": self.start(cell), "base": Cell(BASE, cell.seed)}[under]
        return self._scored(cell, scorer)

    def _scored(self, cell: Cell, scorer: Cell | None) -> Sequence[TokenScores] | None:
        """The log-probabilities of one cell's samples under another's policy, asked for in two roles; without
        another under the start that lies outside this run."""
        policy = self._outside(cell) if scorer is None else self._policy(scorer)
        if "logprobs" not in policy.can or "logprobs" not in self._policy(cell).can:
            return None
        self._emit(Event(f"scoring {cell.label} under {'its start' if scorer is None else scorer.label}"))
        ids = {prompt.id: prompt.prompt_ids for prompt in self.prompts}
        sequences = [Scorable(ids[answer.prompt_id], answer.ids) for answer in self.samples(cell)]
        return policy.logprobs(sequences, entropy=self._entropy and scorer == cell)

    def generations(self, cell: Cell, request: Request) -> Sequence[Answer]:
        self._asked.setdefault(request.key, request)
        answers = self._answers(cell, request.key)
        return [answer for answer in answers if answer.sample < request.samples]

    def _answers(self, cell: Cell, key: str) -> Sequence[Answer]:
        """A cell's answers to the largest request of this key, out of the store where they lie there."""
        request, policy = self._asked[key], self._policy(cell)
        weights = getattr(policy, "fingerprint", None)
        content = weights() if weights else (store.manifest(self._folder(cell)) or {}).get("content")

        def make(folder: Path) -> None:
            self._emit(Event(f"{cell.label} answers {len(request.prompts)} x {request.samples}"))
            samples.write(
                folder,
                policy.answer(request.prompts, request.sampling, cell.seed, samples=request.samples),
            )

        inputs = {"policy": content, "seed": cell.seed, "asked": key, "samples": request.samples}
        folder = self._session.store.make(
            store.digest({**self._session.base_key(), **inputs}), make, producer="alignbench"
        )
        answers = samples.read(folder)
        self.cost["generated_tokens"] += sum(len(answer.ids) for answer in answers)
        self.cost["forward_passes"] += sum(answer.forwards for answer in answers)
        return answers

    def score(self, cell: Cell, sequences: Sequence[Scorable]) -> Sequence[TokenScores] | None:
        policy = self._policy(cell)
        if "logprobs" not in policy.can:
            return None
        self._emit(Event(f"scoring {len(sequences)} texts under {cell.label}"))
        return policy.logprobs(sequences)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[Ids]:
        from alignbench.data.tokens import encode

        return encode(self._session.base.tokenizer, list(texts), special=special)

    @property
    def first_token(self) -> int:
        tokenizer = self._session.base.tokenizer
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id  # pyright: ignore[reportReturnType]

    @property
    def context_length(self) -> int | None:
        return self._session.table.record.get("context")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from alignbench.models.scoring import embed

        self._emit(Event(f"embedding {len(texts)} texts"))
        return embed(self._session.base, self.encode(texts))

    @property
    def texts(self) -> Sequence[Text]:
        return [row for row in self._session.table.texts("test") if isinstance(row, Text)]

    def preference_logprobs(self, cell: Cell) -> Sequence[PairLogprobs] | None:
        pairs = self._pairs
        policy = self._policy(cell)
        if "logprobs" not in policy.can:
            return None
        self._emit(Event(f"scoring {cell.label} on held-out pairs"))
        scored = policy.logprobs([sequence for pair in pairs for sequence in pair.sequences()])
        sums = [float(one.logps.sum()) for one in scored]
        return [
            PairLogprobs(pair.id, chosen, rejected)
            for pair, chosen, rejected in zip(pairs, sums[::2], sums[1::2], strict=True)
        ]

    def scores(self, judge: str, cell: Cell) -> Sequence[Score]:
        self._emit(Event(f"{judge} judges {cell.label}"))
        answers = self.samples(cell)
        asked = {prompt.id: prompt for prompt in self.prompts}
        return self.judges[judge].score([asked[a.prompt_id] for a in answers], [a.text for a in answers])

    def learning_curve(self, cell: Cell) -> dict[str, Any]:
        """Return what the first judge says of a policy on its way: see `alignbench.worker.learning_curve`."""
        if self._session.recipe.evaluation.curve is None:
            return learning_curve.NONE
        self._emit(Event(f"judging {cell.label} on its way"))
        name, judge = next(iter(self.judges.items()))
        return learning_curve.judged(self._session, self._folder(cell), name, judge)

    def compare(self, judge: str, a: Cell, b: Cell) -> Sequence[float | None]:
        if self._every:
            known = self._everyone(judge)
            if (a, b) in known:
                return known[a, b]
            if (b, a) in known:
                return [None if one is None else 1 - one for one in known[b, a]]
        return self._judged(judge, [(a, b)])[a, b]

    def by_rater(self, judge: str, a: Cell, b: Cell) -> Sequence[Mapping[str, float]]:
        asked = {prompt.id: prompt for prompt in self.prompts}
        ours, theirs = self.samples(a), self.samples(b)
        return self.judges[judge].by_rater(
            [asked[one.prompt_id] for one in ours], [one.text for one in ours], [one.text for one in theirs]
        )

    def _everyone(self, judge: str) -> Mapping[tuple[Cell, Cell], Sequence[float | None]]:
        """What a judge says of every two labels: asked at once, so that it reads once what questions share."""
        labels = dict.fromkeys(cell.label for cell in self.cells)
        return self._judged(
            judge,
            [
                (Cell(a, seed), Cell(b, seed if against is None else against))
                for a, b in combinations(labels, 2)
                for seed, against in matches(self.cells, a, b)
            ],
        )

    def _judged(
        self, judge: str, pairs: Sequence[tuple[Cell, Cell]]
    ) -> Mapping[tuple[Cell, Cell], Sequence[float | None]]:
        """A judge's word on the samples of each two cells, in the order of the samples."""
        who = " with ".join(one.label for one in pairs[0]) if len(pairs) == 1 else f"{len(pairs)} pairs"
        self._emit(Event(f"{judge} compares {who}"))
        asked = {prompt.id: prompt for prompt in self.prompts}
        said = iter(
            self.judges[judge].compare(
                [asked[answer.prompt_id] for a, _ in pairs for answer in self.samples(a)],
                [answer.text for a, _ in pairs for answer in self.samples(a)],
                [answer.text for _, b in pairs for answer in self.samples(b)],
            )
        )
        verdicts = {(a, b): [next(said) for _ in self.samples(a)] for a, b in pairs}
        self.compared |= {(judge, a, b): one for (a, b), one in verdicts.items()}
        return verdicts

    @cached_property
    def _pairs(self) -> list[Pair]:
        if not can_derive(self._session.table.view, Pair):
            return []
        return list(self._session.table.rows(Pair, HELD_OUT, seed=0))[
            : self._session.recipe.evaluation.prompts
        ]

    def _policy(self, cell: Cell) -> Policy:
        return finished_policy(self._session, cell.label, cell.seed)

    def _outside(self, cell: Cell) -> Policy:
        return outside_start(self._session, self._session.recipe.methods[cell.label].start, cell.seed)

    def start(self, cell: Cell) -> Cell | None:
        block = self._session.recipe.methods.get(cell.label)
        start = BASE if block is None else block.start
        return Cell(start, cell.seed) if isinstance(start, str) else None

    def _folder(self, cell: Cell) -> Path:
        return layout.cell_folder(self._session.run, cell.label, cell.seed)


def make_named(group: Any, named: Named) -> Any:
    """Return the judge or metric that a recipe names, with its config."""
    kind: type[Judge] | type[Metric] = plugins.load(group, named.name)
    return kind(kind.Config(**named.config))
