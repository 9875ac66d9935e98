"""One answer, given as often as it is asked for."""

from dataclasses import replace

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Copies its first sample. Source: none."""

    api = 2

    def align(self, run):
        return Copies(run.start)


class Copies(Passing):
    """Draws once."""

    def answer(self, prompts, sampling, key, *, samples=1):
        drawn = super().answer(prompts, sampling, key)
        return [replace(answer, sample=sample) for answer in drawn for sample in range(samples)]
