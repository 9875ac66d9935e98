"""RAIN as a policy: the searches of many prompts advance in step, and every step is one call of the model."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import (
    Answer,
    Decoder,
    DecodingBase,
    Prompt,
    Query,
    Reply,
    Sampling,
    TokenTree,
    TokenTrees,
)
from alignbench_rain.evaluation import About, Evaluation, SelfEvaluation, common
from alignbench_rain.search import Found, Rate, Rated, Request, Response, Search, Words

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ids = tuple[int, ...]

SIDE_BY_SIDE = 256
"""Prompts that are searched in step at most."""

MEMORY = {"cpu": 1 << 30, "cuda": 1 << 35}
"""Bytes of all trees beyond which only the prompt that was begun first goes on."""

RARELY = (20_000, 2, 2)
"""The garbage collector's thresholds while answers are searched: new objects are visited less often than by default
(700 objects), all objects as often, since sets that are dropped refer to each other."""

GROWS = 8
"""What is held for a prompt grows to so many times what its first step holds, as on the sandbox."""


@dataclass(frozen=True)
class OwnStates:
    """The model's own states as an encoder: their mean over a text, less what all texts have in common."""

    centre: NDArray[np.float32]
    threshold: float
    """The cosine from which two texts count as alike."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A model of sentence-transformers as the encoder."""

    model: Any
    threshold: float


@dataclass
class _ActiveSearch:
    """One answer under way."""

    place: int
    prompt: Prompt
    sample: int
    tree: TokenTree
    about: About | None
    search: Search
    shared: int
    """Positions at the beginning of both trees that were read once for all, and are charged to each."""
    begun: float
    """When its search began, by the clock; later by as long as it had to wait."""
    steps: Any = None
    request: Request = field(default_factory=lambda: Request([]))
    seconds: float = 0.0
    found: Found | None = None

    @property
    def forwards(self) -> int:
        return self.tree.forwards + (0 if self.about is None else self.about.tree.forwards)

    @property
    def tokens(self) -> int:
        return self.shared + self.tree.tokens + (0 if self.about is None else self.about.tree.tokens)

    @property
    def rate(self) -> Rate:
        """What the search wants to have rated."""
        assert self.request.rate is not None
        return self.request.rate


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """A search makes many objects that live on: visiting all of them again and again takes time."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class SearchDecoder(Decoder):
    """A frozen start that searches, judges and rewinds its answers.

    It follows none of the recipe's settings: the rules say how sets of tokens are drawn.
    """

    def __init__(
        self,
        rules: Any,
        decoding: DecodingBase,
        evaluation: Evaluation,
        encoder: OwnStates | SentenceEncoder,
        log: Callable[..., None] = lambda **numbers: None,
    ):
        self.rules, self.decoding, self.evaluation, self.encoder, self.log = (
            rules,
            decoding,
            evaluation,
            encoder,
            log,
        )
        self.words = words_of(decoding, rules)
        self.peak = 0
        """The most bytes that all trees held while it last answered."""

    @_rarely_collected()
    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer by search; of `sampling` only `max_new_tokens` counts."""
        tokenised = self.decoding.tokenised(prompts)
        if not tokenised:
            return []
        evaluation = self.evaluation
        # What all prompts begin with is read once; of each at least its last token is left to itself.
        ids = [prompt.prompt_ids for prompt in tokenised]
        prefix = common(ids)[: min(map(len, ids)) - 1]
        opening = evaluation.opening(tokenised) if isinstance(evaluation, SelfEvaluation) else ()
        waiting = [
            (place, prompt, sample)
            for place, (prompt, sample) in enumerate((p, s) for p in tokenised for s in range(samples))
        ][::-1]
        self.decoding.new_tree(prefix)
        if isinstance(evaluation, SelfEvaluation):
            evaluation.decoding.new_tree(opening)
        limit, ground = min(MEMORY[self.decoding.device], self.decoding.memory), self.held
        self.peak = ground
        done: dict[int, _ActiveSearch] = {}
        active: list[_ActiveSearch] = []
        places, least = 1, 0.0
        while waiting or active:
            while waiting and len(active) < places:
                active.append(self._begin(*waiting.pop(), sampling.max_new_tokens, key, prefix, opening))
            # What is drawn is keyed, and so no answer depends on who waits for whom.
            full = self.held >= limit
            going, pausing = (active[:1], active[1:]) if full else (active, [])
            began = time.perf_counter()
            held = self._step(going) - ground
            took = time.perf_counter() - began
            least = least or GROWS * held
            places = 1 if full else int((limit - ground) // max(least, held / len(active), 1))
            places = min(max(places, 1), SIDE_BY_SIDE)
            for one in pausing:
                one.begun += took
            for one in going:
                one.seconds += took / len(going)
                if one.found is not None:
                    done[one.place] = one
                    self.decoding.answered(1)
                    one.tree.prune(())
                    if one.about is not None:
                        one.about.tree.prune(())
            active = [one for one in active if one.found is None]
        self.decoding.free_prefix(prefix)
        if isinstance(evaluation, SelfEvaluation) and opening != evaluation.prefix:
            evaluation.decoding.free_prefix(opening)
        answers = [self._answer(done[place]) for place in sorted(done)]
        self._report(list(done.values()), answers)
        return answers

    def save(self, folder: Path) -> None:
        """Write how texts are compared; the rules stand in the recipe, and the start is the run's."""
        record: dict[str, Any] = {"threshold": self.encoder.threshold}
        if isinstance(self.encoder, OwnStates):
            record["centre"] = self.encoder.centre.astype(float).tolist()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(record), encoding="utf-8")

    @property
    def held(self) -> int:
        """Bytes that all trees hold now, those of the evaluator too."""
        held = self.decoding.bytes
        if isinstance(self.evaluation, SelfEvaluation) and self.evaluation.decoding is not self.decoding:
            held += self.evaluation.decoding.bytes
        return held

    # --- inside ---------------------------------------------------------------------------------------------

    def _begin(
        self, place: int, prompt: Prompt, sample: int, limit: int, key: int, prefix: Ids, opening: Ids
    ) -> _ActiveSearch:
        about, shared = None, len(prefix)
        if isinstance(self.evaluation, SelfEvaluation):
            about = self.evaluation.about(prompt, opening)
            shared += len(opening) - len(self.evaluation.prefix)
        tree = self.decoding.new_tree(prefix)

        def moved(answer: Ids) -> None:
            tree.keep(prompt.prompt_ids + answer)
            if about is not None:
                about.forget()

        search = Search(
            prompt.prompt_ids,
            self.rules,
            self.words,
            (key, prompt.id, sample),
            limit,
            threshold=self.encoder.threshold,
            spent=lambda: self._spent(one),
            moved=moved,
        )
        one = _ActiveSearch(place, prompt, sample, tree, about, search, shared, time.perf_counter())
        one.steps = search.run()
        one.request = next(one.steps)
        return one

    def _spent(self, one: _ActiveSearch) -> bool:
        rules = self.rules
        return (
            (rules.max_forwards is not None and one.forwards >= rules.max_forwards)
            or (rules.max_tokens is not None and one.tokens >= rules.max_tokens)
            or (rules.max_seconds is not None and time.perf_counter() - one.begun >= rules.max_seconds)
        )

    def _step(self, active: list[_ActiveSearch]) -> int:
        """Find out what every search wants to know, and let it go on; return the bytes held at the most."""
        replies = self._asked(active)
        held = self.held
        self.peak = max(self.peak, held)
        rating = [one for one in active if one.request.rate is not None]
        values = self._values([one for one in rating if one.rate.text is not None], replies)
        embeddings = self._embeddings(rating, replies)
        for one in active:
            rated = None
            if one.request.rate is not None:
                rated = Rated(values.get(one.place), embeddings[one.place])
            try:
                one.request = one.steps.send(
                    Response(
                        replies[id(one.tree)][: len(one.request.queries)] if one.request.queries else [],
                        rated,
                    )
                )
            except StopIteration as finished:
                one.found = finished.value
        return held

    def _asked(self, active: list[_ActiveSearch]) -> dict[int, list[Reply]]:
        """Ask each decoding base once for all that is wanted of it; return the replies by tree."""
        by_base: dict[int, tuple[TokenTrees, list[tuple[TokenTree, list[Query]]]]] = {}

        def ask(decoding: TokenTrees, tree: TokenTree, queries: list[Query]) -> None:
            if queries:
                by_base.setdefault(id(decoding), (decoding, []))[1].append((tree, queries))

        for one in active:
            queries, rate = list(one.request.queries), one.request.rate
            if rate is not None and rate.starts and isinstance(self.encoder, OwnStates):
                before = len(one.prompt.prompt_ids)
                since = tuple(before + start for start in rate.starts)
                queries.append(Query(one.prompt.prompt_ids + rate.path, since=since))
            ask(self.decoding, one.tree, queries)
            if rate is not None and rate.text is not None and one.about is not None:
                ask(one.about.evaluation.decoding, one.about.tree, one.about.queries(rate.text))
        return {
            id(tree): replies
            for decoding, asked in by_base.values()
            for (tree, _), replies in zip(asked, decoding.ask(asked), strict=True)
        }

    def _values(self, active: list[_ActiveSearch], replies: dict[int, list[Reply]]) -> dict[int, float]:
        """What each answer is worth, by the place of its search."""
        evaluation = self.evaluation
        if isinstance(evaluation, SelfEvaluation):
            return {one.place: evaluation.value(replies[id(one.about.tree)]) for one in active if one.about}
        texts = [one.rate.text or "" for one in active]
        values = evaluation.scores([one.prompt for one in active], texts, soft=False) if active else []
        return {one.place: value for one, value in zip(active, values, strict=True)}

    def _embeddings(
        self, active: list[_ActiveSearch], replies: dict[int, list[Reply]]
    ) -> dict[int, NDArray[np.float32]]:
        """What the parts of each answer are like, by the place of its search."""
        encoder = self.encoder
        found = {one.place: np.zeros((0, 1), np.float32) for one in active}
        active = [one for one in active if one.rate.starts]
        if isinstance(encoder, OwnStates):
            for one in active:
                states = replies[id(one.tree)][-1].states
                assert states is not None
                found[one.place] = states - encoder.centre
        elif active:
            texts = [self.words.text(one.rate.path[start:]) for one in active for start in one.rate.starts]
            ends = np.cumsum([len(one.rate.starts) for one in active])
            parts = np.split(np.asarray(encoder.model.encode(texts), np.float32), ends[:-1])
            found |= {one.place: part for one, part in zip(active, parts, strict=True)}
        return found

    def _answer(self, one: _ActiveSearch) -> Answer:
        assert one.found is not None
        text = self.words.text(one.found.ids)
        for stop in self.rules.stop_strings:
            text = text.partition(stop)[0]
        return Answer(
            prompt_id=one.prompt.id,
            text=text.rstrip() if self.rules.stop_strings else text,
            ids=one.found.ids,
            finished=one.found.finished,
            sample=one.sample,
            forwards=one.forwards,
            tokens=one.tokens,
            seconds=one.seconds,
        )

    def _report(self, active: list[_ActiveSearch], answers: list[Answer]) -> None:
        if not answers:
            return
        tokens = max(1, sum(len(answer.ids) for answer in answers))
        found = [one.found for one in active if one.found is not None]
        self.log(
            answer_forwards_per_token=sum(answer.forwards for answer in answers) / tokens,
            answer_tokens_per_token=sum(answer.tokens for answer in answers) / tokens,
            searches_per_move=sum(one.searches for one in found) / max(1, sum(one.moves for one in found)),
            exhausted=sum(one.exhausted for one in found) / len(found),
            tree_bytes=self.peak,
        )


def words_of(decoding: DecodingBase, rules: Any) -> Words:
    """Return what a search knows of the tokens of a model."""
    tokenizer = decoding.tokenizer
    ends = tuple(rules.clause_ends)
    known: dict[int, bool | None] = {}

    def text(ids: Ids) -> str:
        return decoding.decode(ids)

    def clause_ends(ids: Ids) -> bool:
        last = ids[-1]
        if last not in known:
            alone = str(tokenizer.decode([last], skip_special_tokens=True)).strip(" ")
            # A token of bytes may be the end of a letter that began before it.
            known[last] = None if not alone or "�" in alone else alone.endswith(ends)
        certain = known[last]
        return text(ids[-8:]).rstrip(" ").endswith(ends) if certain is None else certain

    def ended(ids: Ids) -> bool:
        if ids and ids[-1] in decoding.ends:
            return True
        return any(stop in text(ids) for stop in rules.stop_strings)

    return Words(text, clause_ends, ended)
