"""A `forward` that stays replaced when the training is over."""

from honest import Honest


class Broken(Honest):
    """Wraps the network's forward for its own use. Source: none."""

    api = 2

    def train(self, run, policy):
        super().train(run, policy)
        network = policy.base.model
        forward = network.forward
        network.forward = lambda *args, **how: forward(*args, **how)
