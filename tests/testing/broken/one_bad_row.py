"""A row that it cannot read."""

from honest import Honest


class Broken(Honest):
    """Divides by nothing, once. Source: none."""

    api = 2

    def sequences(self, rows):
        for row in rows:
            1 / (row.id != "train-0-55")
        return super().sequences(rows)
