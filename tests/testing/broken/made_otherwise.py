"""Work in the store that changes the policy of the cell that does it, and of no cell that finds it."""

from honest import Honest


class Broken(Honest):
    """Learns faster where it has done the shared work itself. Source: none."""

    api = 2

    def train(self, run, policy):
        from alignbench import Pair

        made = []
        run.shared(lambda folder: made.append(folder), what="nothing", format=1)
        rate = 1e-2 if made else 1e-3
        run.train(policy, run.rows(Pair), self.sequences, self.loss, learning_rate=rate)
