"""Who says how good an answer is: a model, by a question in both orders, or a judge of the platform."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

from alignbench import DecodingBase, Judge, ModelError, PluginError, Prompt, Query, Reply, TokenTree
from alignbench_rain.questions import Question

Ids = tuple[int, ...]
AT_ONCE = 128
"""Answers that are judged in one step."""

WORDS = ("a", "the", "?")
"""Beginnings of different texts."""

NEAR = 64
"""Letters before a text that may change how its beginning is divided into tokens, at most."""

_QUESTION, _ANSWER = "{question}", "{answer}"


class SelfEvaluation:
    """A model's own vote on an answer: two options, asked with the good one first and second.

    What all questions begin with is read once, then what all questions about one prompt begin with.
    """

    def __init__(self, decoding: DecodingBase, question: Question, *, soft: bool):
        self.decoding, self.question, self.soft = decoding, question, soft
        self.tokenizer: Any = decoding.tokenizer
        forms = [self._opened(form) for form in (question.ask, question.swapped) if form]
        self.good, self.bad = self._options(forms[0])
        asked = [form.replace(_QUESTION, word) for form in forms for word in WORDS]
        self.prefix: Ids = common([self._ids(text) for text in asked])
        self.cuts = all(self._cut_well(text) for text in asked)
        """Whether a text's tokens are those of its parts."""
        self.forms = [self.begun(form, _QUESTION) for form in forms]
        """The tokens with which each form begins, and the text that follows them."""

    def about(self, prompt: Prompt, opening: Ids | None = None) -> About:
        """Return the questions about one prompt's answers, which all begin with `opening`."""
        return About(self, prompt, self.prefix if opening is None else opening)

    def opening(self, prompts: Many[Prompt]) -> Ids:
        """Return what the questions about all these prompts' answers begin with."""
        abouts = [self.about(prompt) for prompt in prompts]
        return common([query.path for about in abouts for word in WORDS for query in about.queries(word)])

    def begun(self, text: str, until: str) -> tuple[Ids, str]:
        """Tokenise a text up to a space well before `until`; return the tokens, and the text after them."""
        at = text.rfind(" ", 0, max(0, text.index(until) - NEAR))
        return (self._ids(text[:at]), text[at:]) if self.cuts and at > 0 else ((), text)

    def value(self, replies: Many[Reply], *, soft: bool | None = None) -> float:
        """Return the value in [-1, 1] that the replies to the questions about one answer amount to.

        Hard: each order casts a vote; soft: the mean probability of the good option.
        """
        soft = self.soft if soft is None else soft
        good = []
        for order, reply in enumerate(replies):
            shares = dict(zip(reply.tokens, reply.probabilities, strict=True))
            sums = [sum(shares[token] for token in tokens) for tokens in (self.good, self.bad)]
            probability = sums[order]
            good.append(probability if soft else float(probability > sums[1 - order]))
        return 2 * sum(good) / len(good) - 1

    def scores(self, prompts: Many[Prompt], answers: Many[str], *, soft: bool) -> list[float]:
        """Return the value of each answer."""
        return self.scored(prompts, answers, soft=soft)[0]

    def scored(
        self, prompts: Many[Prompt], answers: Many[str], *, soft: bool
    ) -> tuple[list[float], list[tuple[int, int]]]:
        """Return the value of each answer, and the forwards and positions that finding it took."""
        values: list[float] = []
        costs: list[tuple[int, int]] = []
        for at in range(0, len(answers), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            about = [self.about(prompt) for prompt in prompts[part]]
            asked = [(one.tree, one.queries(text)) for one, text in zip(about, answers[part], strict=True)]
            values += [self.value(replies, soft=soft) for replies in self.decoding.ask(asked)]
            costs += [(tree.forwards, tree.tokens) for tree, _ in asked]
            for tree, _ in asked:
                tree.prune(())
        return values, costs

    def _cut_well(self, text: str) -> bool:
        places = [at for at, letter in enumerate(text) if letter == " "]
        cuts = {places[round(share * (len(places) - 1))] for share in (0.3, 0.6, 0.9)} if places else set()
        whole = self._ids(text)
        return all(self._ids(text[:at]) + self._ids(text[at:]) == whole for at in cuts)

    def _opened(self, form: str) -> str:
        turns = [{"role": "user", "content": form}]
        opened = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if _ANSWER not in opened or _QUESTION not in opened:
            raise PluginError(
                f"the question {form!r} lacks {_QUESTION} or {_ANSWER}", "it says what is judged"
            )
        return opened + self.question.lead

    def _ids(self, text: str) -> Ids:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _options(self, opened: str) -> tuple[Ids, Ids]:
        """The tokens with which each option can begin, with a space before it and without."""
        before = self._ids(opened)
        first: list[Ids] = []
        for option in self.question.options:
            written = [self._ids(opened + text) for text in (option, f" {option}")]
            found = {
                ids[len(before)] for ids in written if len(ids) > len(before) and ids[: len(before)] == before
            }
            first.append(tuple(sorted(found - {self.tokenizer.unk_token_id})))
        if not all(first) or set(first[0]) & set(first[1]):
            raise ModelError(
                f"the tokenizer cannot tell the options {' and '.join(self.question.options)} apart",
                "name options that begin with different tokens",
            )
        return first[0], first[1]


class About:
    """The questions about one prompt's answers, and the tree of what was read for them."""

    def __init__(self, evaluation: SelfEvaluation, prompt: Prompt, opening: Ids):
        self.evaluation = evaluation
        self.options = (*evaluation.good, *evaluation.bad)
        text = "\n".join(turn["content"] for turn in prompt.prompt)
        self.forms: list[tuple[Ids, str]] = []
        for begun, rest in evaluation.forms:
            more, rest = evaluation.begun(rest.replace(_QUESTION, text), _ANSWER)
            self.forms.append((begun + more, rest))
        self._opening = opening
        self._tree: TokenTree | None = None
        self._stem: Ids | None = None

    @property
    def tree(self) -> TokenTree:
        if self._tree is None:
            self._tree = self.evaluation.decoding.new_tree(self._opening)
        return self._tree

    def queries(self, answer: str) -> list[Query]:
        """Return the questions about an answer, one for each order."""
        paths = self._paths(answer)
        if self._stem is None:
            self._stem = common([paths[0], self._paths("")[0]])
        return [Query(path, options=self.options) for path in paths]

    def _paths(self, answer: str) -> list[Ids]:
        rests = [rest.replace(_ANSWER, answer) for _, rest in self.forms]
        found = self.evaluation.tokenizer(rests, add_special_tokens=False)["input_ids"]
        return [begun + tuple(ids) for (begun, _), ids in zip(self.forms, found, strict=True)]

    def forget(self) -> None:
        """Free what was read of answers; what all of them begin with stays."""
        if self._stem is not None:
            self.tree.prune(self._stem)


class JudgeEvaluation:
    """A judge's word: an answer whose score is above `good_above` is good."""

    def __init__(self, judge: Judge, part: str, good_above: float, *, soft: bool):
        self.judge, self.part, self.good_above, self.soft = judge, part, good_above, soft

    def scores(self, prompts: Many[Prompt], answers: Many[str], *, soft: bool) -> list[float]:
        """Return 1 or -1 for each answer, 0 where the judge abstains; soft: the score itself."""
        found = self.judge.score(prompts, answers)
        raw = [score.parts.get(self.part) if self.part else score.value for score in found]
        if soft:
            return [self.good_above if value is None else value for value in raw]
        return [0.0 if value is None else 1.0 if value > self.good_above else -1.0 for value in raw]


def common(sequences: Many[Ids]) -> Ids:
    """What all of them begin with."""
    first, last = min(sequences), max(sequences)  # in the order of tuples these two differ soonest
    same = next((at for at, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first))
    return first[:same]


Evaluation = SelfEvaluation | JudgeEvaluation
