"""An optimiser instead of the trainer."""

from honest import Honest


class Broken(Honest):
    """Takes a step that nobody counts. Source: none."""

    api = 2

    def train(self, run, policy):
        import torch

        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(0.01)
