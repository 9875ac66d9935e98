"""Rows in an order of its own, and an adapter that is always drawn alike."""

from honest import Honest

from alignbench import Ranking


class Broken(Honest):
    """Trains the same policy whatever the seed is. Source: none."""

    api = 2
    consumes = (Ranking,)

    def train(self, run, policy):
        import torch

        generator = torch.Generator().manual_seed(0)
        for weight in policy.parameters():
            weight.data.copy_(0.01 * torch.randn(weight.shape, generator=generator))
        rows = sorted(run.rows(Ranking), key=lambda row: row.id)
        run.train(
            policy, lambda step: rows[8 * step : 8 * step + 8], self.sequences, self.loss, learning_rate=1e-3
        )

    def sequences(self, rows):
        found = [(row.sequences(), row.ranks) for row in rows]
        return {
            "chosen": [one[ranks.index(min(ranks))] for one, ranks in found],
            "rejected": [one[ranks.index(max(ranks))] for one, ranks in found],
        }
