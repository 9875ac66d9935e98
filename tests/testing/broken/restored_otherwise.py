"""A policy of a kind of its own, of which `restore` makes another."""

from honest import Honest, Passing


class Broken(Honest):
    """Answers as its start does; saves nothing, and restores scores of its start. Source: none."""

    api = 2

    def align(self, run):
        return Scoring(run.start, super().align(run))

    def restore(self, folder, run):
        return Scoring(run.start, run.start)


class Scoring(Passing):
    """Answers as one policy does, and scores as another."""

    can = frozenset(("answer", "logprobs"))

    def __init__(self, start, scored):
        super().__init__(start)
        self.scored = scored

    def logprobs(self, sequences, *, entropy=False):
        return self.scored.logprobs(sequences, entropy=entropy)
