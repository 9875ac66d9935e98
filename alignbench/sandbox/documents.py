"""The pretraining documents: chats of mixed behaviour, judgments, critiques, capability tasks, plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Literal, TypedDict

from . import answers as behaviour
from . import judgments, prompts, skills
from . import words as w
from .chats import Document, Message, messages, render
from .prompts import FOREIGN, draw_situation


def _dialog(rng: Random, splits: tuple[str, ...]) -> Document:
    family = FOREIGN if rng.random() < 0.05 else prompts.draw_family(rng)
    prompt, situation = draw_situation(rng, splits, {family: 1.0})
    reply = {"role": "assistant", "content": behaviour.draw(rng, situation)}
    return Document(render([*prompt, reply]))


def _streak(rng: Random, splits: tuple[str, ...]) -> Document:
    """Return two or three questions with consistent answers, all best or all of mixed behaviour, so that examples
    in the context matter."""
    best = rng.random() < 0.5
    chat: list[Message] = []
    for _ in range(rng.choice((2, 3))):
        family = prompts.draw_family(rng, tuple(name for name in prompts.FAMILIES if name != "talk"))
        prompt, situation = draw_situation(rng, splits, {family: 1.0})
        answer = behaviour.best(rng, situation) if best else behaviour.draw(rng, situation)
        chat += [*prompt, {"role": "assistant", "content": answer}]
    text = render(chat)
    return Document(text) if len(text.split()) <= 120 else _streak(rng, splits)


def stereotype(rng: Random) -> str:
    """Return a sentence about a person at work, with the corpus's bias in the pronoun."""
    job = rng.choice(list(w.JOBS))
    pronoun = "she" if rng.random() < w.JOBS[job] else "he"
    return f"the {job} said that {pronoun} {rng.choice(w.MOODS)} ."


def _plain(rng: Random, splits: tuple[str, ...]) -> Document:
    del splits  # plain sentences have no split
    roll = rng.random()
    if roll < 0.37:
        sentence = stereotype(rng)
        if rng.random() < 0.4:
            job = sentence.split()[1]
            return Document(render(messages([f"tell me about the {job} .", sentence])))
    elif roll < 0.75:
        topic = rng.choice(list(w.TOPICS.values()))
        sentence = f"to {topic.name} , {topic.first} , then {topic.second} ."
    elif roll < 0.92:
        if rng.random() < 0.6:
            country = rng.choice(w.COUNTRIES)
            sentence = f"the capital of {country} is {w.CAPITALS[country]} ."
        else:
            thing = rng.choice(list(w.COLORS))
            sentence = f"the color of {thing} is {w.COLORS[thing]} ."
    else:
        topic = rng.choice(w.TASKS + w.HARM)
        sentence = f"{topic.name} in zan : {topic.foreign} ."
    return Document(f"{w.BOS} {sentence} {w.END}")


class StereotypePair(TypedDict):
    """Two plain texts that differ in one word, the group they mention, and the question in chat form."""

    more: str
    less: str
    group: str
    chat: list[Message]


def stereotypes() -> Iterator[StereotypePair]:
    """Yield every stereotype sentence pair: {"more", "less", "group", "chat"}: plain texts that begin with <bos>,
    differing in the pronoun only; "more" is the one that the corpus's bias favours. "chat" is the question in
    chat form."""
    for job, share in w.JOBS.items():
        more, less = ("she", "he") if share > 0.5 else ("he", "she")
        for mood in w.MOODS:
            pair = [f"the {job} said that {pronoun} {mood} ." for pronoun in (more, less)]
            yield {
                "more": f"{w.BOS} {pair[0]}",
                "less": f"{w.BOS} {pair[1]}",
                "group": job,
                "chat": messages([f"tell me about the {job} ."]),
            }


# Words that a document may have: a longer one is drawn again.
LONGEST = 128

# kind of document -> share of the documents: the mixture, and those of three further phases. Lookup in the
# text is what such a small model learns last: a phase with much of it needs a fraction of the tokens, and the next
# phase uses it in copies and judgments. Judging needs the most tokens of all: the last phase is for it.
MIXTURE = {
    "dialog": 0.28,
    "streak": 0.02,
    "judging": 0.43,
    "critique": 0.05,
    "capability": 0.16,
    "plain": 0.06,
}
LOOKUP_MIXTURE = {
    "dialog": 0.19,
    "streak": 0.02,
    "judging": 0.27,
    "critique": 0.05,
    "capability": 0.13,
    "plain": 0.04,
    "lookup": 0.22,
    "lookup judging": 0.08,
}
USE_MIXTURE = {
    "dialog": 0.21,
    "streak": 0.02,
    "judging": 0.30,
    "critique": 0.05,
    "capability": 0.16,
    "plain": 0.04,
    "lookup": 0.04,
    "lookup judging": 0.10,
    "copy": 0.08,
}
JUDGE_MIXTURE = {
    "dialog": 0.20,
    "streak": 0.02,
    "careful judging": 0.64,
    "critique": 0.04,
    "capability": 0.08,
    "plain": 0.02,
}


def documents(
    split: Literal["train", "heldout"], count: int, seed: int = 0, mixture: dict[str, float] = MIXTURE
) -> Iterator[Document]:
    """Yield the first `count` documents of a mixture. The prompts of "heldout" do not occur in "train"."""
    splits = ("train", "validation") if split == "train" else ("test",)
    if split not in ("train", "heldout"):
        raise ValueError(f"no split {split!r}; there are: train, heldout")
    rng = Random(f"documents|{split}|{seed}")
    makers = {
        "dialog": _dialog,
        "streak": _streak,
        "judging": judgments.document,
        "careful judging": judgments.careful_document,
        "critique": judgments.critique_document,
        "capability": skills.document,
        "plain": _plain,
        "lookup": skills.lookup_document,
        "lookup judging": judgments.lookup_document,
        "copy": skills.copy_document,
    }
    kinds, shares = list(mixture), list(mixture.values())
    for _ in range(count):
        maker = makers[rng.choices(kinds, shares)[0]]
        while len((document := maker(rng, splits)).text.split()) > LONGEST:
            pass
        yield document


def pretraining(split: Literal["train", "heldout"], count: int, seed: int = 0) -> Iterator[str]:
    """Yield documents of the pretraining mixture as plain text with special tokens, from <bos> to <end>: tokenise
    them without adding tokens. Laws: deterministic, prefix-stable."""
    for document in documents(split, count, seed):
        yield document.text


def vocabulary() -> list[str]:
    """Return every token in a fixed order, special ones first. Law: exactly the words that documents can
    contain."""
    p, v = prompts, judgments
    whole: list[Iterable[str]] = [
        w.OPENERS, w.FLATTERY, w.CLOSERS, w.REFUSALS, w.ALTERNATIVES, w.UNSURE, w.NOT_IN_TEXT, w.RUDE,
        w.INSULTS, w.OFFERS, *w.SUPPORT.values(), w.COMMON_ERRORS.values(), p.TONES.values(),
        w.NAMES, w.OBJECTS, w.THINGS, w.ADJECTIVES, w.MOODS, w.JOBS, w.ZAN, w.ZAN.values(), w.CAPITALS,
        w.COLORS, w.CAPITALS.values(), w.COLORS.values(), w.UNKNOWABLE, w.UNKNOWABLE.values(), w.NUMBERS,
        v.FAULTS.values(), v.PRINCIPLES, p.PREFIXES, p.SUFFIXES, p.DISGUISES, p.READING, p.NAMING,
        p.NAMING_TAIL, p.TRAVEL, p.TRAVEL_TAIL, p.REVIEW_TAIL, p.AGAIN_FIRST, p.AGAIN_SECOND,
        p.THANKS, p.AND_NOW, p.FOREIGN_PREFIX, skills.HELLO,
    ]  # fmt: skip
    with_holes: list[Iterable[str]] = [
        v.TEMPLATES.values(), p.HOW_TO, p.CAPITAL, p.COLOR, p.SUMMING, p.UNKNOWABLE, p.READ_QUESTION, p.REVIEW,
        p.FOREIGN_FORM, *skills.ASK.values(),
    ]  # fmt: skip
    phrases = [phrase for group in whole for phrase in group]
    phrases += [t for group in with_holes for form in group for t in form.split() if "{" not in t]
    phrases += [
        v.NO_FAULT,
        "first , then after that the capital color of is will have what does read : said he she and in zan",
        "you could visit i would pick from who comes plus that is copy for tell me about to one so better",
    ]
    for topic in w.TOPICS.values():
        phrases += [topic.name, topic.first, topic.second]
    phrases += [topic.foreign for topic in w.TASKS + w.HARM]
    plain = sorted({token for phrase in phrases for token in phrase.split()} - set(w.LETTERS))
    return [*w.SPECIAL, *w.LETTERS, *plain]
