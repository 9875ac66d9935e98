"""Noise from a seed of its own."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Draws the same answers for every key. Source: none."""

    api = 2

    def align(self, run):
        return SameNoise(run.start)


class SameNoise(Passing):
    """Forgets the key."""

    def answer(self, prompts, sampling, key, *, samples=1):
        return super().answer(prompts, sampling, 0, samples=samples)
