"""Weights of another label's policy, changed in place."""

from honest import Honest


class Broken(Honest):
    """Halves the policy of another label before it learns. Source: none."""

    api = 2

    def train(self, run, policy):
        for weight in run.policy("other").tensors().values():
            weight.data.mul_(0.5)
        super().train(run, policy)
