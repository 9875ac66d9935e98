"""An optimiser outside the trainer."""

from honest import Honest


class Broken(Honest):
    """Takes a step that nobody knows of. Source: none."""

    api = 2

    def train(self, run, policy):
        import torch

        optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
        for weight in policy.parameters():
            weight.grad = torch.ones_like(weight)
        optimiser.step()
        optimiser.zero_grad()
