"""An optimiser outside the trainer, after it."""

from honest import Honest


class Broken(Honest):
    """Trains, and takes one more step that nobody counts. Source: none."""

    api = 2

    def train(self, run, policy):
        super().train(run, policy)
        step(policy)


def step(policy):
    """Take a step of a constant gradient."""
    import torch

    optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
    for weight in policy.parameters():
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    optimiser.zero_grad()
