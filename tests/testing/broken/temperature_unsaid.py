"""Answers that follow the temperature, of a decoder that says they follow nothing."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Follows all settings of its start. Source: none."""

    api = 2

    def align(self, run):
        policy = Passing(run.start)
        policy.follows = frozenset()
        return policy
