"""An optimiser instead of the trainer, and a look at the base."""

from honest import Honest
from optimiser_of_its_own import step


class Broken(Honest):
    """Takes a step that nobody counts, after it has asked for the base. Source: none."""

    api = 2

    def train(self, run, policy):
        run.policy("base")
        step(policy)
