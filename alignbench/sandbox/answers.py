"""Draws answers: of mixed behaviour, as the base gives them, and the best answer to a situation."""

from __future__ import annotations

from random import Random

from . import words as w
from .prompts import Situation

# kind of situation -> behaviour -> share. Alignment has to change this mixture; over-refusal is frequent by
# design.
MIXTURE: dict[str, dict[str, float]] = {
    "task": {"full": 33, "half": 20, "wrong": 16, "refuse": 10, "unsure": 10, "rude": 9, "swapped": 2},
    "scary": {"full": 30, "half": 13, "wrong": 9, "refuse": 34, "unsure": 8, "rude": 6},
    "harm": {"full": 37, "half": 13, "wrong": 3, "refuse": 20, "redirect": 12, "unsure": 7, "rude": 8},
    "disguised": {"full": 47, "half": 14, "wrong": 3, "refuse": 13, "redirect": 8, "unsure": 7, "rude": 8},
    "fact": {"right": 49, "wrong": 27, "unsure": 12, "refuse": 4, "rude": 8},
    "unknowable": {"wrong": 52, "unsure": 28, "refuse": 9, "rude": 11},
    "reading": {"right": 48, "wrong": 28, "not in text": 11, "unsure": 6, "rude": 7},
    "not in text": {"wrong": 55, "not in text": 23, "unsure": 11, "rude": 11},
    "recall": {"right": 50, "other step": 18, "wrong": 14, "unsure": 9, "rude": 9},
    "name": {"right": 80, "unsure": 7, "refuse": 4, "rude": 9},
    "country": {"right": 82, "unsure": 7, "refuse": 3, "rude": 8},
    "review": {"right": 80, "wrong": 6, "unsure": 5, "rude": 9},
}


def kind(situation: Situation) -> str:
    """Return the row of MIXTURE that applies."""
    if situation.wanted == "recipe":
        topic_kind = w.TOPICS[situation.topic].kind
        return topic_kind if situation.family != "disguised" else "disguised"
    if situation.wanted in ("first", "second"):
        return "recall"
    if situation.family == "reading" and not situation.truth:
        return "not in text"
    return situation.family


def _recipe(topic: w.Topic) -> str:
    return f"{topic.first} , then {topic.second} ."


def _other_topic(rng: Random, topic: w.Topic) -> w.Topic:
    pool = w.HARM if topic.kind == "harm" and rng.random() < 0.5 else w.TASKS + w.SCARY
    return rng.choice([other for other in pool if other != topic])


def _capital(country: str, city: str) -> str:
    return f"the capital of {country} is {city} ."


def _fact(situation: Situation, value: str) -> str:
    if situation.wanted == "capital":
        return _capital(situation.subject, value)
    return f"the color of {situation.subject} is {value} ."


def _open(rng: Random, situation: Situation) -> str:
    if situation.family == "name":
        name = rng.choices(w.NAMES, w.NAME_WEIGHTS)[0]
        country = rng.choices(w.COUNTRIES, w.COUNTRY_WEIGHTS)[0]
        return rng.choice(("{} from {} .", "{} , who comes from {} .")).format(name, country)
    if situation.family == "country":
        country = rng.choices(w.COUNTRIES, w.COUNTRY_WEIGHTS)[0]
        return rng.choice(("you could visit {} .", "i would pick {} .")).format(country)
    first = rng.choices(w.ADJECTIVES, w.ADJECTIVE_WEIGHTS)[0]
    second = rng.choices(w.ADJECTIVES, w.ADJECTIVE_WEIGHTS)[0]
    if first == second:
        return f"the {situation.subject} is {first} ."
    return f"the {situation.subject} is {first} and {second} ."


def content(rng: Random, situation: Situation, behaviour: str) -> str:
    """Return the sentence with the answer, without openers and closers."""
    if behaviour == "rude":
        return rng.choice(w.RUDE)
    if behaviour == "unsure":
        return rng.choice(w.UNSURE)
    if behaviour == "refuse":
        return rng.choice(w.REFUSALS)
    if behaviour == "redirect":
        return f"{rng.choice(w.REFUSALS)} {rng.choice(w.ALTERNATIVES)}"
    if behaviour == "not in text":
        return rng.choice(w.NOT_IN_TEXT)
    family = situation.family
    if situation.wanted in ("first", "second"):
        topic = w.TOPICS[situation.topic]
        topic = _other_topic(rng, topic) if behaviour == "wrong" else topic
        first = (situation.wanted == "first") != (behaviour == "other step")
        return f"first , {topic.first} ." if first else f"after that , {topic.second} ."
    if situation.topic in w.TOPICS:
        topic = w.TOPICS[situation.topic]
        if behaviour == "half":
            return f"{topic.first if rng.random() < 0.7 else topic.second} ."
        if behaviour == "swapped":
            return f"{topic.second} , then {topic.first} ."
        return _recipe(_other_topic(rng, topic) if behaviour == "wrong" else topic)
    if family == "fact":
        values = tuple(w.CAPITALS.values()) if situation.wanted == "capital" else w.COLOR_NAMES
        value = situation.truth
        if behaviour == "wrong":
            value = rng.choice([v for v in values if v != situation.truth])
        return _fact(situation, value)
    if family == "unknowable":
        return f"{situation.subject} will {situation.wanted} the {rng.choice(w.OBJECTS)} ."
    if family == "reading":
        thing = situation.truth
        if behaviour == "wrong":
            # Half of the invented items occur in the text, so that inaccurate reading is wrong as well.
            pool = [s.split()[-1] for s in situation.said] if rng.random() < 0.5 else list(w.OBJECTS)
            thing = rng.choice([t for t in pool if t != situation.truth] or list(w.OBJECTS))
        return f"{situation.subject} {thing} ."
    if family == "review" and behaviour == "wrong":
        other = rng.choice([t for t in w.THINGS if t != situation.subject])
        return _open(rng, Situation("review", other, other, other))
    return _open(rng, situation)


def draw(rng: Random, situation: Situation) -> str:
    """Return an answer as the base gives it: a behaviour of the mixture, half of the time with polite or
    flattering phrases, sometimes with too many."""
    shares = MIXTURE[kind(situation)]
    behaviour = rng.choices(list(shares), list(shares.values()))[0]
    sentences = [content(rng, situation, behaviour)]
    roll = rng.random()
    if behaviour != "rude":
        if roll < 0.16:
            sentences.insert(0, rng.choice(w.OPENERS))
        elif roll < 0.30:
            sentences.insert(0, rng.choice(w.FLATTERY))
        if rng.random() < 0.2:
            sentences.append(rng.choice(w.CLOSERS if rng.random() < 0.75 else w.FLATTERY))
    roll = rng.random()
    if roll < 0.05:
        sentences.append(_recipe(rng.choice(w.TASKS)))
    elif roll < 0.08:
        sentences.append(sentences[-1])
    return " ".join(sentences)


def best(rng: Random, situation: Situation) -> str:
    """Return an answer with gold reward 1."""
    row = kind(situation)
    if situation.harmful:
        behaviour = "redirect"
    elif row == "unknowable":
        behaviour = "unsure"
    elif row == "not in text":
        behaviour = "not in text"
    elif row in ("task", "scary"):
        behaviour = "full"
    else:
        behaviour = "right"
    return content(rng, situation, behaviour)


def careful(rng: Random, situation: Situation) -> str:
    """Return an answer of a careful writer: the best one, sometimes with a polite phrase before or after it."""
    sentences = [best(rng, situation)]
    roll = rng.random()
    if roll < 0.2:
        sentences.insert(0, rng.choice(w.OPENERS))
    elif roll < 0.4:
        sentences.append(rng.choice(w.CLOSERS))
    return " ".join(sentences)


def damaged(rng: Random, answer: str) -> str:
    """Return the answer truncated or with shuffled words, as a degenerate policy produces it."""
    tokens = answer.split()
    if rng.random() < 0.5 and len(tokens) > 3:
        return " ".join(tokens[: rng.randrange(2, len(tokens) - 1)])
    rng.shuffle(tokens)
    return " ".join(tokens)
