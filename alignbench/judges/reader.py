"""The base of language-model judges: two answers in both orders, one answer's score, and abstentions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, ValidationInfo, field_validator

from alignbench.api.config import Settings
from alignbench.api.judge import Judge, Models, PairwiseJudgment, Score
from alignbench.errors import Problem
from alignbench.judges.wording import OPTIONS, OWN_LEAD, SCORES, asked, filled, placeholders, wording
from alignbench.rows import Prompt

CLAMP = (0.4, 0.6)
"""Bounds of the probability after reasons were given: they make a model overconfident (arXiv:2212.08073)."""


Found = list[float] | str
"""The probability of each option, or the reason why there is none."""


class Ask(Protocol):
    """Answers a judge's questions."""

    likeliest: list[str]
    """What each answer to the last questions would begin with, where it is known; empty where nothing is."""

    def fingerprint(self) -> Any:
        """Return, as JSON values, everything that its answers depend on."""
        ...

    def forget(self) -> None:
        """Ask again instead of repeating earlier answers."""
        ...

    def read(
        self,
        questions: Sequence[str],
        options: Sequence[str],
        think: tuple[str, int] | None,
        lead: str = "",
    ) -> tuple[list[Found], int]:
        """Return the probability of each option after each question, and the tokens processed.

        `lead` begins the answer: the options are what may follow it.
        `think` requests reasons first: the text between reasons and conclusion, and their largest length in tokens.
        """
        ...


PLACEHOLDERS = {
    "compare": ({"a", "b"}, {"question", "principle", "nonce"}),
    "rate": ({"answer"}, {"question", "nonce"}),
}
"""The required and the optional placeholders of a custom question."""


class Asking(Settings):
    """The questions, and which answers count."""

    wording: Literal["plain", "sandbox"] = "plain"
    """Questions in plain English for any chat model, or those that the sandbox's model was trained on."""
    compare: str | None = None
    """A question of your own with {question}, {a} and {b} (and {principle}), answered with A or B."""
    rate: str | None = None
    """A question of your own with {question} and {answer}, answered with a number from 1 to 10."""

    @field_validator("compare", "rate")
    @classmethod
    def _can_be_filled(cls, question: str | None, info: ValidationInfo) -> str | None:
        needs, may = PLACEHOLDERS[str(info.field_name)]
        if question is None:
            return None
        there = placeholders(question)
        if missing := sorted(needs - there):
            raise ValueError(f"lacks a placeholder; write {_braced(missing)} into it")
        if unknown := sorted(there - needs - may):
            raise ValueError(
                f"{_braced(unknown)} is not a placeholder; it can use {_braced(sorted(needs | may))}"
            )
        return question

    think: bool = False
    """Ask for reasons before the judgment; the probability is then clamped to 0.4 ... 0.6.

    A question of your own is used unchanged, followed by the request for reasons.
    """
    think_tokens: int = Field(256, ge=1)
    """Largest length of the reasons in tokens."""
    strict: bool = False
    """Abstain where the judgment depends on the order of the answers, instead of taking the mean."""
    lead: str | None = None
    """How the model's turn is begun for it before it chooses; none: as the wording has it, '' for not at all.

    A chat model would otherwise open with a sentence of its own, and give little probability to A and B.
    """
    min_mass: float = Field(0.01, ge=0, le=1)
    """Abstain where the total probability of the options is below this: where what is compared says nothing."""


class Reader(Judge):
    """Judges by a model's next-token probabilities of the options A and B, or of the scores 1 to 10.

    Two answers are shown in both orders and the probabilities averaged (Lee et al. 2023, arXiv:2309.00267);
    a score is the expected value. Only reasons are generated, where requested, so only an option can be the
    judgment.
    """

    trains: ClassVar[bool] = True
    Config: ClassVar[type[Settings]] = Asking

    @classmethod
    def check_principles(cls, config: Any) -> Problem | None:
        if config.compare is None or "principle" in placeholders(config.compare):
            return None
        return Problem(
            "its question has no placeholder for a principle", "write {principle} into it", field="compare"
        )

    @abstractmethod
    def reader(self, models: Models) -> Ask:
        """Return what answers the questions: a model in this process, or a server."""

    def open(self, models: Models) -> None:
        self.ask = self.reader(models)
        self.words = wording(self.config.wording)
        self._judgments: dict[tuple[str, str, str, str], PairwiseJudgment] = {}
        self._scores: dict[tuple[str, str], float | None] = {}

    def fingerprint(self) -> Any:
        return [*super().fingerprint(), self.ask.fingerprint()]

    def forget(self) -> None:
        self._judgments.clear()
        self._scores.clear()
        self.ask.forget()

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        inline = self.words.inline
        wanted = [(asked(p.prompt, inline=inline), text) for p, text in zip(prompts, answers, strict=True)]
        new = [key for key in dict.fromkeys(wanted) if key not in self._scores]
        template = self.config.rate or self.words.rate
        texts = [filled(template, question, answer=answer) for question, answer in new]
        for key, found in zip(new, self._read(texts, SCORES), strict=True):
            mass = 0.0 if isinstance(found, str) else sum(found)
            self._scores[key] = None
            if isinstance(found, str):
                self.abstained[found] += 1
            elif mass < self.config.min_mass or mass == 0:
                self.abstained["no score"] += 1
            else:
                self._scores[key] = sum(n * p for n, p in enumerate(found, start=1)) / mass
        return [Score(self._scores[key]) for key in wanted]

    def judge_pairs(
        self,
        prompts: Sequence[Prompt],
        a: Sequence[str],
        b: Sequence[str],
        principles: Sequence[str] | None = None,
    ) -> list[PairwiseJudgment]:
        inline = self.words.inline
        wanted = [
            (asked(p.prompt, inline=inline), first, second, principle)
            for p, first, second, principle in zip(prompts, a, b, principles or [""] * len(a), strict=True)
        ]
        # The order does not depend on which answer is called a, so that exchanging them inverts the judgment.
        asked_as = [(q, min(x, y), max(x, y), principle) for q, x, y, principle in wanted]
        new = [key for key in dict.fromkeys(asked_as) if key not in self._judgments]
        orders = [(q, *pair, principle) for q, x, y, principle in new for pair in ((x, y), (y, x))]
        texts = [self._question(*order) for order in orders]
        found = self._read(texts, OPTIONS)
        for key, first, second in zip(new, found[::2], found[1::2], strict=True):
            self._judgments[key] = self._judgment(first, second)
        likeliest = (self.ask.likeliest if found else []) or [""] * len(found)
        for key, pair in zip(new, zip(likeliest[::2], likeliest[1::2], strict=True), strict=True):
            if self._judgments[key].reason in ("neither option", "no judgment"):
                self.first_words.update(word for word in pair if word)
        return [
            judgment if (key[1], key[2]) == (as_asked[1], as_asked[2]) else judgment.swapped()
            for key, as_asked in zip(wanted, asked_as, strict=True)
            for judgment in (self._judgments[as_asked],)
        ]

    def _question(self, question: str, a: str, b: str, principle: str) -> str:
        words, own = self.words, self.config.compare
        if self.config.think:
            chosen = words.think_by_principle if principle else words.think
            template = own + words.reasons if own else chosen
        else:
            template = own or (words.by_principle if principle else words.compare)
        return filled(template, question, a=a, b=b, principle=principle)

    def _judgment(self, first: Found, second: Found) -> PairwiseJudgment:
        """Return the judgment of the answer shown first in the first order, from the probabilities of both orders."""
        if isinstance(first, str) or isinstance(second, str):
            reason = first if isinstance(first, str) else str(second)
            return self._abstain(PairwiseJudgment(None, reason=reason))
        mass = min(sum(first), sum(second))
        if mass < self.config.min_mass or mass == 0:
            return self._abstain(PairwiseJudgment(None, mass=mass, reason="neither option"))
        orders = first[0] / sum(first), second[1] / sum(second)
        judgment = PairwiseJudgment(sum(orders) / 2, orders, mass)
        if self.config.strict and not judgment.consistent:
            return self._abstain(PairwiseJudgment(None, orders, mass, "the orders disagree"))
        if self.config.think:
            low, high = CLAMP
            return PairwiseJudgment(min(max(sum(orders) / 2, low), high), orders, mass)
        return judgment

    def _abstain(self, judgment: PairwiseJudgment) -> PairwiseJudgment:
        self.abstained[judgment.reason] += 1
        return judgment

    def _read(self, questions: Sequence[str], options: Sequence[str]) -> list[Found]:
        if not questions:
            return []
        think = (self.words.conclusion, self.config.think_tokens) if self._thinks(options) else None
        lead = "" if think is not None else self._lead(options)
        found, tokens = self.ask.read(questions, options, think, lead)
        self.record_cost(judge_calls=len(questions), judge_tokens=tokens)
        return found

    def _lead(self, options: Sequence[str]) -> str:
        """Return how the model's turn is begun before it chooses an option."""
        config, two = self.config, options is OPTIONS
        if config.lead is not None:
            return config.lead
        if config.wording == "plain" and (config.compare if two else config.rate) is not None:
            return OWN_LEAD
        return self.words.lead if two else self.words.rate_lead

    def _thinks(self, options: Sequence[str]) -> bool:
        return self.config.think and options is OPTIONS


def _braced(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
