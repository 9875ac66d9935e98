"""Reward functions that break a law each."""

import random

from alignbench import DataError, Reward


class Company(Reward):
    """Rewards depend on the mean of the batch."""

    api = 2

    def score(self, prompts, answers):
        mean = sum(map(len, answers)) / max(1, len(answers))
        return [len(answer) - mean for answer in answers]


class Place(Reward):
    """Rewards depend on the place."""

    api = 2

    def score(self, prompts, answers):
        return [float(len(answer) + place) for place, answer in enumerate(answers)]


class Moody(Reward):
    """Rewards by a random number."""

    api = 2

    def __init__(self, config=None, **more):
        super().__init__(config, **more)
        self.mood = random.random()

    def score(self, prompts, answers):
        return [len(answer) * self.mood for answer in answers]


class Endless(Reward):
    """Rewards without a bound."""

    api = 2

    def score(self, prompts, answers):
        return [float("inf") for _ in answers]


class Silent(Reward):
    """Never applies."""

    api = 2

    def score(self, prompts, answers):
        return [None for _ in answers]


class Short(Reward):
    """Forgets the last answer."""

    api = 2

    def score(self, prompts, answers):
        return [float(len(answer)) for answer in answers[:-1]]


class Choosy(Reward):
    """Refuses beforehand what it scores."""

    api = 2

    @classmethod
    def check_prompts(cls, config, prompts):
        raise DataError("no prompt is good enough")

    def score(self, prompts, answers):
        return [float(len(answer)) for answer in answers]


class Shares(Reward):
    """The share of an answer's words that are `the`, and of an empty one."""

    api = 2

    def score(self, prompts, answers):
        return [
            answer.split().count("the") / len(answer.split()) if answer else float("nan")
            for answer in answers
        ]


class Honest(Reward):
    """Keeps them all."""

    api = 2

    def score(self, prompts, answers):
        return [
            None if prompt.extra else float(len(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
