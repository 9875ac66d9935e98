"""A row filter, a judge and a reward function that raise where the last digit of a row's id is odd."""

from alignbench import Judge, Reward, RowFilter, Score


def divide(row):
    """Return 1, or raise."""
    return 1 / (1 - int(row.id[-1]) % 2)


class Filter(RowFilter):
    """Keeps what it can divide."""

    api = 2

    def keep(self, row):
        return row if divide(row) else None


class Judging(Judge):
    """Scores what it can divide."""

    api = 2
    trains = True

    def score(self, prompts, answers):
        return [Score(divide(prompt)) for prompt in prompts]


class Rewarding(Reward):
    """Rewards what it can divide."""

    api = 2

    def score(self, prompts, answers):
        return [divide(prompt) for prompt in prompts]
