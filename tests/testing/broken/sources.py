"""Data sources that break a law each."""

import random

from alignbench import Demonstration, Pair, Source


class Honest(Source):
    """Twenty questions."""

    api = 2

    def view(self):
        return Demonstration

    def rows(self, split, limit, seed):
        count = 20 if limit is None else min(limit, 20)
        yield from (self.row(number) for number in range(count))

    def row(self, number):
        """Return one row."""
        prompt = ({"role": "user", "content": f"question {number}"},)
        return Demonstration(id=f"row-{number}", prompt=prompt, response="yes")


class Endless(Honest):
    """Forgets the limit."""

    api = 2

    def rows(self, split, limit, seed):
        return super().rows(split, None, seed)


class Dice(Honest):
    """Draws other rows at each reading."""

    api = 2

    def row(self, number):
        return super().row(random.randrange(10**6))


class Resampled(Honest):
    """Other rows for another limit."""

    api = 2

    def rows(self, split, limit, seed):
        rows = list(super().rows(split, None, seed))
        random.Random(limit).shuffle(rows)
        return iter(rows[:limit])


class Doubled(Honest):
    """Two rows of one id."""

    api = 2

    def row(self, number):
        return super().row(number // 2)


class Tokenised(Honest):
    """Token ids of its own."""

    api = 2

    def row(self, number):
        prompt = ({"role": "user", "content": f"question {number}"},)
        return Demonstration(id=f"row-{number}", prompt=prompt, response="yes", response_ids=(1, 2))


class Speaker(Honest):
    """A role that no template knows."""

    api = 2

    def row(self, number):
        return Demonstration(
            id=f"row-{number}", prompt=({"role": "human", "content": "why?"},), response="yes"
        )


class Promising(Honest):
    """Names another view than its rows have."""

    api = 2

    def view(self):
        return Pair
