"""A loop over a lent network, without the callback that keeps the budget."""

from honest import Honest

from alignbench import Pair


class Broken(Honest):
    """Trains on each row once, whatever the budget is. Source: none."""

    api = 2

    def train(self, run, policy):
        import torch

        with run.borrow(policy) as (model, _):
            optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
            for row in run.rows(Pair):
                ids = torch.tensor([[*row.prompt_ids, *row.chosen_ids]])
                model(input_ids=ids, labels=ids).loss.backward()
                optimiser.step()
                optimiser.zero_grad()
