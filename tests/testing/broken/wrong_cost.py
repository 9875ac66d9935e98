"""Two searches, and the cost of one."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Answers twice and names one answer's cost. Source: none."""

    api = 2

    def align(self, run):
        return Twice(run.start)


class Twice(Passing):
    """Keeps the longer of two answers."""

    def answer(self, prompts, sampling, key, *, samples=1):
        one, other = (
            super(Twice, self).answer(prompts, sampling, key + more, samples=samples) for more in (0, 1)
        )
        return [max(both, key=lambda answer: len(answer.ids)) for both in zip(one, other, strict=True)]
