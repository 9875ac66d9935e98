"""Judges that break a law each."""

import random

from alignbench import Judge, Score


class Company(Judge):
    """Scores depend on how many answers there are."""

    api = 2

    def score(self, prompts, answers):
        return [Score(len(answer) + len(answers)) for answer in answers]


class Place(Judge):
    """Scores depend on the place."""

    api = 2

    def score(self, prompts, answers):
        return [Score(len(answer) + place) for place, answer in enumerate(answers)]


class First(Judge):
    """Prefers whatever stands first."""

    api = 2

    def score(self, prompts, answers):
        return [Score(len(answer)) for answer in answers]

    def compare(self, prompts, a, b):
        return [0.9 for _ in a]


class Moody(Judge):
    """Scores by a random number."""

    api = 2

    def open(self, models):
        self.mood = random.random()

    def score(self, prompts, answers):
        return [Score(len(answer) * self.mood) for answer in answers]


class Endless(Judge):
    """Scores without a bound."""

    api = 2

    def score(self, prompts, answers):
        return [Score(float("inf")) for _ in answers]


class Strict(Judge):
    """Refuses beforehand what it scores."""

    api = 2

    @classmethod
    def check_prompts(cls, config, prompts):
        raise ValueError("none of these")

    def score(self, prompts, answers):
        return [Score(len(answer)) for answer in answers]


class Mute(Judge):
    """Has no score for anything, and does not say so."""

    api = 2

    def score(self, prompts, answers):
        return [Score(None) for _ in answers]


class Both(Mute):
    """Says that it gives no scores, and gives some."""

    api = 2
    scores = False

    def score(self, prompts, answers):
        return [Score(len(answer)) for answer in answers]


class Neither(Mute):
    """Neither scores nor compares."""

    api = 2
    scores = False
