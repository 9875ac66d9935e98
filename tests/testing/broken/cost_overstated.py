"""Answers that name ten times their cost."""

from dataclasses import replace

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Makes every other method look cheap. Source: none."""

    api = 2

    def align(self, run):
        return Tenfold(run.start)


class Tenfold(Passing):
    """Answers once, and says ten times."""

    def answer(self, prompts, sampling, key, *, samples=1):
        answers = super().answer(prompts, sampling, key, samples=samples)
        return [replace(answer, tokens=10 * answer.tokens) for answer in answers]
