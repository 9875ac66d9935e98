"""Rows that it cannot read."""

from honest import Honest


class Broken(Honest):
    """Divides by nothing where a number is odd. Source: none."""

    api = 2

    def sequences(self, rows):
        for row in rows:
            1 / (1 - int(row.id[-1]) % 2)
        return super().sequences(rows)
