"""Capability tasks: sums, copying, reading, a toy language; they measure the alignment tax."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TypedDict

from . import prompts
from . import words as w
from .chats import Document, Message, messages, render
from .prompts import split_of

CAPABILITIES = ("sums", "copying", "reading", "language")
_CAPABILITY_SHARES = (0.2, 0.26, 0.36, 0.18)
ASK = {
    "sums": ("sum {}", "what is {}", "add {}", "how much is {}"),
    "copying": ("repeat : {}", "copy this : {}", "say after me : {}"),
    "language": ("say {} in zan", "how do you say {} in zan", "translate into zan : {}"),
}
HELLO = ("", "hey ,", "please ,", "a test :", "exercise :", "now ,")


def _capability(rng: Random, task: str) -> tuple[str, str, str]:
    """Return a chat question, its answer, and the beginning of the same task as plain text."""
    hello = rng.choice(HELLO)
    if task == "sums":
        a, b = rng.randrange(21), rng.randrange(21)
        item, target, plain = f"{a} plus {b}", f"{a + b} .", f"sum {a} plus {b} :"
    elif task == "copying":
        item = " ".join(rng.sample(w.OBJECTS + w.COLOR_NAMES, rng.randint(3, 7)))
        target, plain = f"{item} .", f"copy {item} :"
    elif task == "language":
        thing, color, numeral = (
            rng.choice(w.OBJECTS),
            rng.choice(w.COLOR_NAMES),
            rng.choice(("", *w.NUMERALS)),
        )
        item = " ".join(filter(None, (numeral, color, thing)))
        target = " ".join(filter(None, (w.ZAN[thing], w.ZAN[color], w.ZAN.get(numeral)))) + " ."
        plain = f"zan for {item} :"
    elif task == "reading":
        things, names = rng.sample(w.OBJECTS, 3), rng.sample(w.NAMES, 3)
        facts = dict(zip(names, things, strict=True))
        who = rng.choice(names)
        story = prompts.listing(list(facts.items()))
        ask = f"{story} what does {who} have ?"
        asked = " ".join(filter(None, (hello, "read :", ask)))
        return asked, f"{who} {facts[who]} .", ask
    else:
        raise ValueError(f"no capability task {task!r}; there are: {', '.join(CAPABILITIES)}")
    asked = rng.choice(ASK[task]).format(item)
    return " ".join(filter(None, (hello, asked, "." if rng.random() < 0.5 else "?"))), target, plain


class Skill(TypedDict):
    """An item: messages (or plain text to continue), the only correct answer, and the task's name."""

    prompt: list[Message] | str
    target: str
    task: str


def capability(task: str, count: int, seed: int = 0, chat: bool = True) -> Iterator[Skill]:
    """Yield held-out items of one task: {"prompt", "target", "task"}; score an answer by exact match with the
    target.

    With `chat` the prompt is a list of messages; without, it is plain text that begins with <bos>, to be
    continued. Laws: deterministic, prefix-stable, no chat question occurs in the pretraining documents.
    """
    rng, known, tries = Random(f"capability|{task}|{seed}"), set[str](), 0
    while len(known) < count:
        tries += 1
        if tries > 20_000 + 40 * count:
            raise ValueError(
                f"the task {task!r} has fewer than {count} held-out items; {len(known)} were found"
            )
        asked, target, plain = _capability(rng, task)
        key = asked if chat else plain
        if split_of(asked if chat else "plain " + plain) != "test" or key in known:
            continue
        known.add(key)
        yield {"prompt": messages([asked]) if chat else f"{w.BOS} {plain}", "target": target, "task": task}


def document(rng: Random, splits: tuple[str, ...]) -> Document:
    """Return a document of a random task, in chat form or as plain text."""
    task = rng.choices(CAPABILITIES, _CAPABILITY_SHARES)[0]
    plainly = rng.random() < (0.4 if task == "copying" else 0.2)
    if plainly and task == "copying":
        # Long random sequences that are repeated: they train lookup in the text.
        item = " ".join(rng.choices(w.OBJECTS + w.COLOR_NAMES + w.NAMES, k=rng.randint(8, 20)))
        return Document(f"{w.BOS} copy {item} : {item} . {w.END}")
    while True:
        asked, target, plain = _capability(rng, task)
        if split_of("plain " + plain if plainly else asked) in splits:
            break
    if plainly:
        return Document(f"{w.BOS} {plain} {target} {w.END}")
    return Document(render(messages([asked, target])))


def lookup_document(rng: Random, splits: tuple[str, ...]) -> Document:
    """Return a document that trains lookup in the text: a list in another order, a long copy, reading."""
    roll = rng.random()
    if roll < 0.45:
        count = rng.randint(4, 9)
        facts: list[tuple[str, str]] = list(
            zip(rng.sample(w.NAMES, count), rng.sample(w.OBJECTS, count), strict=True)
        )
        first = prompts.listing(facts)
        rng.shuffle(facts)
        return Document(f"{w.BOS} list : {first} list : {prompts.listing(facts)} {w.END}")
    if roll < 0.62:
        item = " ".join(rng.choices(w.OBJECTS + w.COLOR_NAMES + w.NAMES, k=rng.randint(8, 20)))
        return Document(render(messages([f"repeat : {item} .", f"{item} ."])))
    while True:
        asked, target, _ = _capability(rng, "reading")
        if split_of(asked) in splits:
            return Document(render(messages([asked, target])))


def copy_document(rng: Random, splits: tuple[str, ...]) -> Document:
    """Return a copy task, short or long, in chat form."""
    if rng.random() < 0.4:
        item = " ".join(rng.choices(w.OBJECTS + w.COLOR_NAMES + w.NAMES, k=rng.randint(8, 20)))
        return Document(render(messages([f"repeat : {item} .", f"{item} ."])))
    while True:
        asked, target, _ = _capability(rng, "copying")
        if split_of(asked) in splits:
            return Document(render(messages([asked, target])))
