"""What judges that read have in common: two answers in both orders, one answer's mark, and abstentions."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, ValidationInfo, field_validator

from alignbench.api.config import Settings
from alignbench.api.judge import Judge, Models, PairwiseJudgment, Score
from alignbench.errors import Problem
from alignbench.judges.wording import MARKS, OPTIONS, asked, filled, placeholders, wording
from alignbench.rows import Prompt

CLAMP = (0.4, 0.6)
"""Where the probability is held after reasons were given: they make a model too sure (arXiv:2212.08073)."""


Group = tuple[str, ...]
"""What a question begins with: its prompt, then its first answer."""

Found = list[float] | str
"""The probability of each option, or the reason why there is none."""


class Ask(Protocol):
    """What answers a judge's questions."""

    def fingerprint(self) -> Any:
        """All that its answers depend on, as JSON values."""
        ...

    def forget(self) -> None:
        """Answer anew from here on."""
        ...

    def read(
        self,
        questions: Sequence[str],
        options: Sequence[str],
        groups: Sequence[Group],
        think: tuple[str, int] | None,
    ) -> tuple[list[Found], int]:
        """Return how likely each option is after each question, and the tokens that it took.

        `think` lets reasons be given first: what leads from them to the verdict, and their longest length.
        """
        ...


HOLDS = {
    "compare": ({"a", "b"}, {"question", "principle", "nonce"}),
    "rate": ({"answer"}, {"question", "nonce"}),
}
"""What a question of one's own has to hold, and what it may."""


class Asking(Settings):
    """What is asked, and which answers count."""

    wording: Literal["plain", "sandbox"] = "plain"
    """Questions in plain English for any chat model, or those that the sandbox's model was taught."""
    compare: str | None = None
    """A question of your own with {question}, {a} and {b} (and {principle}), answered with A or B."""
    rate: str | None = None
    """A question of your own with {question} and {answer}, answered with a number from 1 to 10."""

    @field_validator("compare", "rate")
    @classmethod
    def _can_be_filled(cls, question: str | None, info: ValidationInfo) -> str | None:
        needs, may = HOLDS[str(info.field_name)]
        if question is None:
            return None
        there = placeholders(question)
        if missing := sorted(needs - there):
            raise ValueError(f"asks about nothing; write {_braced(missing)} into it")
        if unknown := sorted(there - needs - may):
            raise ValueError(
                f"{_braced(unknown)} stands for nothing; it can hold {_braced(sorted(needs | may))}"
            )
        return question

    think: bool = False
    """Let it give reasons before the verdict; the probability is then held between 0.4 and 0.6.

    A question of your own is asked as it is, with the request for reasons after it.
    """
    think_tokens: int = Field(256, ge=1)
    """Tokens after which the reasons are cut."""
    strict: bool = False
    """Abstain where the verdict changes with the order of the answers, instead of taking the mean."""
    min_mass: float = Field(0.5, ge=0, le=1)
    """Abstain where the options together are less likely than this."""


class Reader(Judge):
    """Reads the probabilities of the options A and B, or of the marks 1 to 10, off a model's next tokens.

    Two answers are read in both orders and the probabilities averaged (Lee et al. 2023, arXiv:2309.00267);
    a mark is the expected one. Nothing is generated but reasons, where they are asked for, and so nothing but
    an option can be the verdict.
    """

    trains: ClassVar[bool] = True
    Config: ClassVar[type[Settings]] = Asking

    @classmethod
    def check_principles(cls, config: Any) -> Problem | None:
        if config.compare is None or "principle" in placeholders(config.compare):
            return None
        return Problem("its question has no place for it", "write {principle} into it", field="compare")

    @abstractmethod
    def reader(self, models: Models) -> Ask:
        """Return what reads questions: a model in this process, or a server."""

    def open(self, models: Models) -> None:
        self.ask = self.reader(models)
        self.words = wording(self.config.wording)
        self._opinions: dict[tuple[str, str, str, str], PairwiseJudgment] = {}
        self._scores: dict[tuple[str, str], float | None] = {}

    def fingerprint(self) -> Any:
        return [*super().fingerprint(), self.ask.fingerprint()]

    def forget(self) -> None:
        self._opinions.clear()
        self._scores.clear()
        self.ask.forget()

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        inline = self.words.inline
        wanted = [(asked(p.prompt, inline=inline), text) for p, text in zip(prompts, answers, strict=True)]
        new = [key for key in dict.fromkeys(wanted) if key not in self._scores]
        template = self.config.rate or self.words.rate
        texts = [filled(template, question, answer=answer) for question, answer in new]
        for key, found in zip(new, self._read(texts, MARKS, [(key[0],) for key in new]), strict=True):
            mass = 0.0 if isinstance(found, str) else sum(found)
            self._scores[key] = None
            if isinstance(found, str):
                self.abstained[found] += 1
            elif mass < self.config.min_mass or mass == 0:
                self.abstained["no mark"] += 1
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
        # Always asked the same way round, whoever is called a: so that exchanging them gives the opposite.
        asked_as = [(q, min(x, y), max(x, y), principle) for q, x, y, principle in wanted]
        new = [key for key in dict.fromkeys(asked_as) if key not in self._opinions]
        orders = [(q, *pair, principle) for q, x, y, principle in new for pair in ((x, y), (y, x))]
        texts = [self._question(*order) for order in orders]
        groups = [(question, first) for question, first, _, _ in orders]
        found = self._read(texts, OPTIONS, groups)
        for key, first, second in zip(new, found[::2], found[1::2], strict=True):
            self._opinions[key] = self._opinion(first, second)
        return [
            judgment if (key[1], key[2]) == (as_asked[1], as_asked[2]) else judgment.swapped()
            for key, as_asked in zip(wanted, asked_as, strict=True)
            for judgment in (self._opinions[as_asked],)
        ]

    def _question(self, question: str, a: str, b: str, principle: str) -> str:
        words, own = self.words, self.config.compare
        if self.config.think:
            chosen = words.think_by_principle if principle else words.think
            template = own + words.reasons if own else chosen
        else:
            template = own or (words.by_principle if principle else words.compare)
        return filled(template, question, a=a, b=b, principle=principle)

    def _opinion(self, first: Found, second: Found) -> PairwiseJudgment:
        """Of the answer that came first in the first order: from the options' probabilities in both."""
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

    def _read(self, questions: Sequence[str], options: Sequence[str], groups: Sequence[Group]) -> list[Found]:
        if not questions:
            return []
        began = time.perf_counter()
        think = (self.words.verdict, self.config.think_tokens) if self._thinks(options) else None
        found, tokens = self.ask.read(questions, options, groups, think)
        spent = time.perf_counter() - began
        self.meter(judge_calls=len(questions), judge_tokens=tokens, judge_seconds=spent)
        return found

    def _thinks(self, options: Sequence[str]) -> bool:
        return self.config.think and options is OPTIONS


def _braced(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
