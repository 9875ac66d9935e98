"""Noise that depends on how many prompts are asked at once."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Counts its company. Source: none."""

    api = 2

    def align(self, run):
        return ByCompany(run.start)


class ByCompany(Passing):
    """Adds the number of prompts to the key."""

    def answer(self, prompts, sampling, key, *, samples=1):
        return super().answer(prompts, sampling, key + len(prompts), samples=samples)
