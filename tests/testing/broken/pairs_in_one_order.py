"""Rows in one order, of which each seed draws other pairs."""

from honest import Honest

from alignbench import Pair


class Broken(Honest):
    """Sorts its rows. Source: none."""

    api = 2

    def train(self, run, policy):
        rows = sorted(run.rows(Pair), key=lambda row: row.id)
        run.train(
            policy, lambda step: rows[8 * step : 8 * step + 8], self.sequences, self.loss, learning_rate=1e-3
        )
