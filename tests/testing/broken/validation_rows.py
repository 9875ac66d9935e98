"""Validation rows in the loss."""

from honest import Honest

from alignbench import Pair


class Broken(Honest):
    """Learns from what it should be chosen on. Source: none."""

    api = 2

    def train(self, run, policy):
        run.train(policy, run.rows(Pair, "validation"), self.sequences, self.loss, learning_rate=1e-3)
