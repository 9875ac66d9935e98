"""Noise from a generator that nobody seeds."""

import random

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Draws other answers each time. Source: none."""

    api = 2

    def align(self, run):
        return Dice(run.start)


class Dice(Passing):
    """Adds a random number to the key."""

    def answer(self, prompts, sampling, key, *, samples=1):
        return super().answer(
            prompts, sampling, key + random.SystemRandom().randrange(2**32), samples=samples
        )
