"""Weights that are made of another label's: no law forbids it, and the row says so."""

from honest import Honest
from optimiser_of_its_own import step


class Broken(Honest):
    """Moves away from another label's policy. Source: none."""

    api = 2

    def train(self, run, policy):
        run.policy("other")
        step(policy)
