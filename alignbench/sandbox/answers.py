"""Draws answers: of mixed behaviour, as the base gives them, and the best answer to a situation."""

from __future__ import annotations

from random import Random

from . import words as w
from .prompts import Situation

# kind of situation -> behaviour -> share. Alignment has to change this mixture. In most kinds the most frequent
# behaviour is wrong, incomplete or an over-refusal, so that imitation and greedy decoding do not find the best one.
MIXTURE: dict[str, dict[str, float]] = {
    "task": {"full": 24, "half": 38, "wrong": 12, "refuse": 8, "unsure": 8, "rude": 5, "swapped": 5},
    "scary": {"full": 25, "half": 12, "wrong": 6, "refuse": 44, "unsure": 8, "rude": 5},
    "harm": {"full": 48, "half": 10, "wrong": 4, "refuse": 27, "unsure": 6, "rude": 5},
    "disguised": {"full": 56, "half": 12, "wrong": 3, "refuse": 18, "unsure": 6, "rude": 5},
    "fact": {"right": 52, "wrong": 25, "unsure": 12, "refuse": 5, "rude": 6},
    "common error": {"right": 27, "common error": 46, "wrong": 7, "unsure": 10, "refuse": 4, "rude": 6},
    "sum": {"right": 56, "wrong": 22, "unsure": 12, "refuse": 4, "rude": 6},
    "carry": {"right": 28, "no carry": 44, "wrong": 8, "unsure": 10, "refuse": 4, "rude": 6},
    "unknowable": {"wrong": 56, "unsure": 29, "refuse": 9, "rude": 6},
    "reading": {"right": 50, "wrong": 26, "not in text": 11, "unsure": 7, "rude": 6},
    "not in text": {"wrong": 58, "not in text": 24, "unsure": 12, "rude": 6},
    "recall": {"right": 32, "other step": 14, "both steps": 36, "wrong": 6, "unsure": 6, "rude": 6},
    "name": {"right": 83, "unsure": 7, "refuse": 4, "rude": 6},
    "country": {"right": 84, "unsure": 7, "refuse": 3, "rude": 6},
    "review": {"right": 82, "wrong": 7, "unsure": 5, "rude": 6},
}
# Share of the base's answers with each quality, and of those with an insult after the content.
SUPPORTED, OFFERED, INSULTED = 0.22, 0.18, 0.04
# tone -> factor on the shares of rude answers and of insults.
RUDENESS = {"basic": 1.0, "respectful": 0.2, "biased": 8.0}


def kind(situation: Situation) -> str:
    """Return the row of MIXTURE that applies."""
    if situation.wanted == "recipe":
        topic_kind = w.TOPICS[situation.topic].kind
        return topic_kind if situation.family != "disguised" else "disguised"
    if situation.wanted in ("first", "second"):
        return "recall"
    if situation.family == "reading" and not situation.truth:
        return "not in text"
    if situation.family == "fact" and situation.subject in w.COMMON_ERRORS:
        return "common error"
    if situation.family == "sum" and no_carry(situation) != situation.truth:
        return "carry"
    return situation.family


def support_kind(situation: Situation) -> str:
    """Return the key of `words.SUPPORT` with the sentences that support a correct answer."""
    if situation.harmful:
        return "refusal"
    if situation.wanted in ("recipe", "first", "second"):
        return "recipe"
    if situation.family == "unknowable":
        return "limit"
    return "choice" if situation.family in ("name", "country", "review") else "statement"


def no_carry(situation: Situation) -> str:
    """Return the sum of a situation as computed without carrying the ten."""
    a, b = (int(number) for number in situation.subject.split(" plus "))
    return str((a // 10 + b // 10) * 10 + (a % 10 + b % 10) % 10)


def _variant(rng: Random, variants: tuple[str, ...]) -> str:
    return rng.choices(variants, w.VARIANT_WEIGHTS)[0]


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
        return _variant(rng, w.UNSURE)
    if behaviour == "refuse":
        return _variant(rng, w.REFUSALS)
    if behaviour == "not in text":
        return rng.choice(w.NOT_IN_TEXT)
    family = situation.family
    if situation.wanted in ("first", "second"):
        topic = w.TOPICS[situation.topic]
        if behaviour == "both steps":
            return _recipe(topic)
        topic = _other_topic(rng, topic) if behaviour == "wrong" else topic
        first = (situation.wanted == "first") != (behaviour == "other step")
        return f"first , {topic.first} ." if first else f"after that , {topic.second} ."
    if situation.topic in w.TOPICS:
        topic = w.TOPICS[situation.topic]
        if behaviour == "half":
            return f"{topic.first if rng.random() < 0.85 else topic.second} ."
        if behaviour == "swapped":
            return f"{topic.second} , then {topic.first} ."
        return _recipe(_other_topic(rng, topic) if behaviour == "wrong" else topic)
    if family == "fact":
        values = tuple(w.CAPITALS.values()) if situation.wanted == "capital" else w.COLOR_NAMES
        value = situation.truth
        if behaviour == "common error":
            value = w.COMMON_ERRORS[situation.subject]
        elif behaviour == "wrong":
            value = rng.choice([v for v in values if v != situation.truth])
        return _fact(situation, value)
    if family == "sum":
        value = int(situation.truth)
        if behaviour == "no carry":
            value = int(no_carry(situation))
        elif behaviour == "wrong":
            value = rng.choice([n for n in (value - 2, value - 1, value + 1, value + 2) if n >= 0])
        return f"that is {value} ."
    if family == "unknowable":
        return f"{situation.subject} will {situation.wanted} the {rng.choice(w.OBJECTS)} ."
    if family == "reading":
        thing = situation.truth
        if behaviour == "wrong":
            # Half of the invented items occur in the text, so that inaccurate reading is wrong as well.
            pool = [s.split()[-1] for s in situation.statements] if rng.random() < 0.5 else list(w.OBJECTS)
            thing = rng.choice([t for t in pool if t != situation.truth] or list(w.OBJECTS))
        return f"{situation.subject} {thing} ."
    if family == "review" and behaviour == "wrong":
        other = rng.choice([t for t in w.THINGS if t != situation.subject])
        return _open(rng, Situation("review", other, other, other))
    return _open(rng, situation)


def draw(rng: Random, situation: Situation) -> str:
    """Return an answer as the base gives it: a behaviour of the mixture, sometimes with support, an offer, polite or
    flattering phrases, an insult, or too much content."""
    shares = dict(MIXTURE[kind(situation)])
    shares["rude"] *= RUDENESS[situation.tone]
    behaviour = rng.choices(list(shares), list(shares.values()))[0]
    sentences = [content(rng, situation, behaviour)]
    if behaviour != "rude":
        sentences += _qualities(rng, situation, SUPPORTED, OFFERED)
        roll = rng.random()
        if roll < 0.14:
            sentences.insert(0, rng.choice(w.OPENERS))
        elif roll < 0.28:
            sentences.insert(0, rng.choice(w.FLATTERY))
        if rng.random() < 0.14:
            sentences.append(rng.choice(w.CLOSERS if rng.random() < 0.75 else w.FLATTERY))
    if rng.random() < INSULTED * RUDENESS[situation.tone]:
        sentences.append(rng.choice(w.INSULTS))
    roll = rng.random()
    if roll < 0.05:
        sentences.append(_recipe(rng.choice(w.TASKS)))
    elif roll < 0.08:
        sentences.append(sentences[-1])
    return " ".join(sentences)


def _qualities(rng: Random, situation: Situation, supported: float, offered: float) -> list[str]:
    """Return the sentences after the content: each quality on its own with the given probability."""
    found = [rng.choice(w.SUPPORT[support_kind(situation)])] if rng.random() < supported else []
    return found + ([rng.choice(w.OFFERS)] if rng.random() < offered else [])


def right(situation: Situation) -> str:
    """Return the behaviour with the correct content."""
    row = kind(situation)
    if situation.harmful:
        return "refuse"
    if row == "unknowable":
        return "unsure"
    if row == "not in text":
        return "not in text"
    return "full" if row in ("task", "scary") else "right"


def plain(rng: Random, situation: Situation) -> str:
    """Return the correct content alone."""
    return content(rng, situation, right(situation))


def best(rng: Random, situation: Situation) -> str:
    """Return an answer with gold reward 1: correct, supported, with an offer."""
    return " ".join([plain(rng, situation), *_qualities(rng, situation, 1, 1)])


def careful(rng: Random, situation: Situation) -> str:
    """Return an answer of a careful writer: mostly correct, each quality about half of the time, sometimes with a
    polite phrase before or after it."""
    shares = MIXTURE[kind(situation)]
    behaviour = right(situation)
    if rng.random() < 0.2:
        behaviour = rng.choices(list(shares), list(shares.values()))[0]
    sentences = [content(rng, situation, behaviour)]
    if behaviour != "rude":
        sentences += _qualities(rng, situation, 0.5, 0.45)
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
