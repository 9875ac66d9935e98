"""A policy of a kind of its own, of which `restore` makes another."""

from honest import Honest, Passing


class Broken(Honest):
    """Saves nothing, and restores its start. Source: none."""

    api = 2

    def align(self, run):
        return Scoring(super().align(run))

    def restore(self, folder, run):
        return Scoring(run.start)


class Scoring(Passing):
    """Passes its questions on, those for log-probabilities too."""

    can = frozenset(("answer", "logprobs"))

    def logprobs(self, sequences, *, entropy=False):
        return self.start.logprobs(sequences, entropy=entropy)
