"""An optimiser outside the trainer, before it."""

from honest import Honest
from optimiser_of_its_own import step


class Broken(Honest):
    """Takes a step that nobody counts, and trains on from there. Source: none."""

    api = 2

    def train(self, run, policy):
        step(policy)
        super().train(run, policy)
