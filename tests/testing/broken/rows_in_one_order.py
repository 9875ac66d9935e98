"""Rows in an order of its own, which no seed changes."""

from random import Random

from honest import Honest

from alignbench import Ranking


class Broken(Honest):
    """Shuffles its rows by a number that it made up. Source: none."""

    api = 2
    consumes = (Ranking,)

    def train(self, run, policy):
        rows = sorted(run.rows(Ranking), key=lambda row: row.id)
        Random(0).shuffle(rows)
        run.train(
            policy, lambda step: rows[8 * step : 8 * step + 8], self.sequences, self.loss, learning_rate=1e-3
        )

    def sequences(self, rows):
        found = [(row.sequences(), row.ranks) for row in rows]
        return {
            "chosen": [one[ranks.index(min(ranks))] for one, ranks in found],
            "rejected": [one[ranks.index(max(ranks))] for one, ranks in found],
        }
