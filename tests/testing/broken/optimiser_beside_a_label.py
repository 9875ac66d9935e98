"""An optimiser outside the trainer, by a method that has asked for another label's policy."""

from honest import Honest
from optimiser_of_its_own import step


class Broken(Honest):
    """Trains, and takes one more step that nobody counts. Source: none."""

    api = 2

    def train(self, run, policy):
        run.policy("other")
        super().train(run, policy)
        step(policy)
