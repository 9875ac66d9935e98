"""A method that keeps the laws: what the broken ones are made of."""

from __future__ import annotations

from alignbench import Decoder, Method, Pair, Policy, Run


class Honest(Method):
    """Preference optimisation by mean log-probability. Source: arXiv:2405.14734."""

    api = 2
    consumes = (Pair,)

    def align(self, run: Run) -> Policy:
        policy = run.adapt()
        self.train(run, policy)
        return policy

    def train(self, run: Run, policy: Policy) -> None:
        """Train until the budget is spent."""
        run.train(policy, run.rows(Pair), self.sequences, self.loss, learning_rate=1e-3)

    def sequences(self, rows):
        chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
        return {"chosen": chosen, "rejected": rejected}

    def loss(self, scores, rows):
        from torch.nn.functional import logsigmoid

        return -logsigmoid(scores["chosen"].means() - scores["rejected"].means()), {}


class HonestDecoder(Method):
    """Answers as its start does. Source: none."""

    api = 2
    consumes = ()

    def align(self, run: Run) -> Policy:
        return Passing(run.start)

    def restore(self, folder, run: Run) -> Policy:
        return self.align(run)


class Passing(Decoder):
    """Passes its questions on."""

    def __init__(self, start: Policy):
        self.start, self.follows = start, start.follows

    def answer(self, prompts, sampling, key, *, samples=1):
        return self.start.answer(prompts, sampling, key, samples=samples)
