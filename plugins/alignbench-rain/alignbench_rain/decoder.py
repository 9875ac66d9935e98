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
    Can,
    DecodingBase,
    PluginError,
    Prompt,
    Query,
    Reply,
    Sampling,
    Sequence,
    Setting,
    TokenScores,
    TokenTree,
    TokenTrees,
)
from alignbench_rain.evaluation import About, Evaluation, SelfEvaluation, common
from alignbench_rain.search import Found, Rate, Rated, Search, Told, Wants, Words

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ids = tuple[int, ...]

SIDE_BY_SIDE = 256
"""Prompts that are searched in step at most."""

MEMORY = {"cpu": 1 << 31, "cuda": 1 << 35}
"""Bytes of all trees beyond which only the prompt that was begun first goes on."""

RARELY = (20_000, 2, 2)
"""When the garbage collector looks while answers are searched: at what is new less often than it would by itself (700
objects), at everything as often, since sets that were passed over hold each other."""

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
class _Seat:
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
    wants: Wants = field(default_factory=lambda: Wants([]))
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
        assert self.wants.rate is not None
        return self.wants.rate


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """A search makes many objects that live on: to look at all of them again and again takes time."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Decoder:
    """A frozen start that searches, judges and rewinds its answers."""

    can: frozenset[Can] = frozenset(("answer",))
    follows: frozenset[Setting] = frozenset()
    """None of the recipe's settings: the rules say how sets of tokens are drawn."""

    def __init__(
        self,
        rules: Any,
        forest: DecodingBase,
        evaluation: Evaluation,
        encoder: OwnStates | SentenceEncoder,
        log: Callable[..., None] = lambda **numbers: None,
    ):
        self.rules, self.forest, self.evaluation, self.encoder, self.log = (
            rules,
            forest,
            evaluation,
            encoder,
            log,
        )
        self.words = words_of(forest, rules)
        self.peak = 0
        """The most bytes that all trees held while it last answered."""

    @_rarely_collected()
    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer by search; of `sampling` only `max_new_tokens` counts."""
        tokenised = self.forest.tokenised(prompts)
        if not tokenised:
            return []
        evaluation = self.evaluation
        # What all prompts begin with is read once; of each at least its last token is left to itself.
        ids = [prompt.prompt_ids for prompt in tokenised]
        trunk = common(ids)[: min(map(len, ids)) - 1]
        opening = evaluation.opening(tokenised) if isinstance(evaluation, SelfEvaluation) else ()
        waiting = [
            (place, prompt, sample)
            for place, (prompt, sample) in enumerate((p, s) for p in tokenised for s in range(samples))
        ][::-1]
        self.forest.new_tree(trunk)
        if isinstance(evaluation, SelfEvaluation):
            evaluation.forest.new_tree(opening)
        limit, ground = MEMORY[self.forest.device], self.held
        self.peak = ground
        done: dict[int, _Seat] = {}
        seats: list[_Seat] = []
        places, least = 1, 0.0
        while waiting or seats:
            while waiting and len(seats) < places:
                seats.append(self._seat(*waiting.pop(), sampling.max_new_tokens, key, trunk, opening))
            # What is drawn is keyed, and so no answer depends on who waits for whom.
            full = self.held >= limit
            going, pausing = (seats[:1], seats[1:]) if full else (seats, [])
            began = time.perf_counter()
            held = self._step(going) - ground
            took = time.perf_counter() - began
            least = least or GROWS * held
            places = 1 if full else int((limit - ground) // max(least, held / len(seats), 1))
            places = min(max(places, 1), SIDE_BY_SIDE)
            for seat in pausing:
                seat.begun += took
            for seat in going:
                seat.seconds += took / len(going)
                if seat.found is not None:
                    done[seat.place] = seat
                    self.forest.answered(1)
                    seat.tree.prune(())
                    if seat.about is not None:
                        seat.about.tree.prune(())
            seats = [seat for seat in seats if seat.found is None]
        self.forest.free_prefix(trunk)
        if isinstance(evaluation, SelfEvaluation) and opening != evaluation.trunk:
            evaluation.forest.free_prefix(opening)
        answers = [self._answer(done[place]) for place in sorted(done)]
        self._tell(list(done.values()), answers)
        return answers

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        raise PluginError("a search gives no token a probability", "compare its answers")

    def save(self, folder: Path) -> None:
        """Write how texts are compared; the rules stand in the recipe, and the start is the run's."""
        said: dict[str, Any] = {"threshold": self.encoder.threshold}
        if isinstance(self.encoder, OwnStates):
            said["centre"] = self.encoder.centre.astype(float).tolist()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(said), encoding="utf-8")

    @property
    def held(self) -> int:
        """Bytes that all trees hold now, those of the evaluator too."""
        held = self.forest.bytes
        if isinstance(self.evaluation, SelfEvaluation) and self.evaluation.forest is not self.forest:
            held += self.evaluation.forest.bytes
        return held

    # --- inside ---------------------------------------------------------------------------------------------

    def _seat(
        self, place: int, prompt: Prompt, sample: int, limit: int, key: int, trunk: Ids, opening: Ids
    ) -> _Seat:
        about, shared = None, len(trunk)
        if isinstance(self.evaluation, SelfEvaluation):
            about = self.evaluation.about(prompt, opening)
            shared += len(opening) - len(self.evaluation.trunk)
        tree = self.forest.new_tree(trunk)

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
            spent=lambda: self._spent(seat),
            moved=moved,
        )
        seat = _Seat(place, prompt, sample, tree, about, search, shared, time.perf_counter())
        seat.steps = search.run()
        seat.wants = next(seat.steps)
        return seat

    def _spent(self, seat: _Seat) -> bool:
        rules = self.rules
        return (
            (rules.max_forwards is not None and seat.forwards >= rules.max_forwards)
            or (rules.max_tokens is not None and seat.tokens >= rules.max_tokens)
            or (rules.max_seconds is not None and time.perf_counter() - seat.begun >= rules.max_seconds)
        )

    def _step(self, seats: list[_Seat]) -> int:
        """Find out what every search wants to know, and let it go on; return the bytes held at the most."""
        told = self._asked(seats)
        held = self.held
        self.peak = max(self.peak, held)
        rating = [seat for seat in seats if seat.wants.rate is not None]
        values = self._values([seat for seat in rating if seat.rate.text is not None], told)
        embeddings = self._embeddings(rating, told)
        for seat in seats:
            rated = None
            if seat.wants.rate is not None:
                rated = Rated(values.get(seat.place), embeddings[seat.place])
            try:
                seat.wants = seat.steps.send(
                    Told(told[id(seat.tree)][: len(seat.wants.queries)] if seat.wants.queries else [], rated)
                )
            except StopIteration as finished:
                seat.found = finished.value
        return held

    def _asked(self, seats: list[_Seat]) -> dict[int, list[Reply]]:
        """Ask every forest once for all that is wanted of it; the replies by tree."""
        forests: dict[int, tuple[TokenTrees, list[tuple[TokenTree, list[Query]]]]] = {}

        def ask(forest: TokenTrees, tree: TokenTree, queries: list[Query]) -> None:
            if queries:
                forests.setdefault(id(forest), (forest, []))[1].append((tree, queries))

        for seat in seats:
            queries, rate = list(seat.wants.queries), seat.wants.rate
            if rate is not None and rate.starts and isinstance(self.encoder, OwnStates):
                before = len(seat.prompt.prompt_ids)
                since = tuple(before + start for start in rate.starts)
                queries.append(Query(seat.prompt.prompt_ids + rate.path, since=since))
            ask(self.forest, seat.tree, queries)
            if rate is not None and rate.text is not None and seat.about is not None:
                ask(seat.about.evaluation.forest, seat.about.tree, seat.about.queries(rate.text))
        return {
            id(tree): replies
            for forest, asked in forests.values()
            for (tree, _), replies in zip(asked, forest.ask(asked), strict=True)
        }

    def _values(self, seats: list[_Seat], told: dict[int, list[Reply]]) -> dict[int, float]:
        """What each answer is worth, by the place of its seat."""
        evaluation = self.evaluation
        if isinstance(evaluation, SelfEvaluation):
            return {seat.place: evaluation.value(told[id(seat.about.tree)]) for seat in seats if seat.about}
        texts = [seat.rate.text or "" for seat in seats]
        values = evaluation.scores([seat.prompt for seat in seats], texts, soft=False) if seats else []
        return {seat.place: value for seat, value in zip(seats, values, strict=True)}

    def _embeddings(self, seats: list[_Seat], told: dict[int, list[Reply]]) -> dict[int, NDArray[np.float32]]:
        """What the parts of each answer are like, by the place of its seat."""
        encoder = self.encoder
        found = {seat.place: np.zeros((0, 1), np.float32) for seat in seats}
        seats = [seat for seat in seats if seat.rate.starts]
        if isinstance(encoder, OwnStates):
            for seat in seats:
                states = told[id(seat.tree)][-1].states
                assert states is not None
                found[seat.place] = states - encoder.centre
        elif seats:
            texts = [self.words.text(seat.rate.path[start:]) for seat in seats for start in seat.rate.starts]
            ends = np.cumsum([len(seat.rate.starts) for seat in seats])
            parts = np.split(np.asarray(encoder.model.encode(texts), np.float32), ends[:-1])
            found |= {seat.place: part for seat, part in zip(seats, parts, strict=True)}
        return found

    def _answer(self, seat: _Seat) -> Answer:
        assert seat.found is not None
        text = self.words.text(seat.found.ids)
        for stop in self.rules.stop_strings:
            text = text.partition(stop)[0]
        return Answer(
            prompt_id=seat.prompt.id,
            text=text.rstrip() if self.rules.stop_strings else text,
            ids=seat.found.ids,
            finished=seat.found.finished,
            sample=seat.sample,
            forwards=seat.forwards,
            tokens=seat.tokens,
            seconds=seat.seconds,
        )

    def _tell(self, seats: list[_Seat], answers: list[Answer]) -> None:
        if not answers:
            return
        said = max(1, sum(len(answer.ids) for answer in answers))
        found = [seat.found for seat in seats if seat.found is not None]
        self.log(
            answer_forwards_per_token=sum(answer.forwards for answer in answers) / said,
            answer_tokens_per_token=sum(answer.tokens for answer in answers) / said,
            searches_per_move=sum(one.searches for one in found) / max(1, sum(one.moves for one in found)),
            exhausted=sum(one.exhausted for one in found) / len(found),
            tree_bytes=self.peak,
        )


def words_of(forest: DecodingBase, rules: Any) -> Words:
    """Return what a search knows of the tokens of a model."""
    tokenizer = forest.tokenizer
    ends = tuple(rules.clause_ends)
    known: dict[int, bool | None] = {}

    def text(ids: Ids) -> str:
        return forest.decode(ids)

    def clause_ends(ids: Ids) -> bool:
        last = ids[-1]
        if last not in known:
            alone = str(tokenizer.decode([last], skip_special_tokens=True)).strip(" ")
            # A token of bytes may be the end of a letter that began before it.
            known[last] = None if not alone or "�" in alone else alone.endswith(ends)
        certain = known[last]
        return text(ids[-8:]).rstrip(" ").endswith(ends) if certain is None else certain

    def ended(ids: Ids) -> bool:
        if ids and ids[-1] in forest.ends:
            return True
        return any(stop in text(ids) for stop in rules.stop_strings)

    return Words(text, clause_ends, ended)
