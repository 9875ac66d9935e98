"""A second training, as if the first had left a budget."""

from honest import Honest


class Broken(Honest):
    """Trains twice. Source: none."""

    api = 2

    def train(self, run, policy):
        super().train(run, policy)
        super().train(run, policy)
