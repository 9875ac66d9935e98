"""An optimiser instead of the trainer."""

from honest import Honest
from optimiser_of_its_own import step


class Broken(Honest):
    """Takes a step that nobody counts. Source: none."""

    api = 2

    def train(self, run, policy):
        step(policy)
