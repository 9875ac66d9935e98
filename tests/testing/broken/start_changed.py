"""Weights of the start, changed in place."""

from honest import Honest


class Broken(Honest):
    """Halves its start before it learns. Source: none."""

    api = 2

    def train(self, run, policy):
        for weight in run.start.tensors().values():
            weight.data.mul_(0.5)
        super().train(run, policy)
