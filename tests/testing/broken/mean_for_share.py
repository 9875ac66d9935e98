"""A mean over the tokens of a micro-batch, where the mean over those of the step is asked for."""

from honest import Honest


class Broken(Honest):
    """Divides by the tokens it sees. Source: none."""

    api = 2

    def loss(self, scores, rows):
        chosen = scores["chosen"]
        return (-chosen.logps.sum() / chosen.mask.sum()).expand(len(rows)), {}
