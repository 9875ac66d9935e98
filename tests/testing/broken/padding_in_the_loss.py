"""A mean over all places of a response, those without a token included."""

from honest import Honest


class Broken(Honest):
    """Divides by the width of the batch. Source: none."""

    api = 2

    def loss(self, scores, rows):
        return -scores["chosen"].logps.mean(1), {}
