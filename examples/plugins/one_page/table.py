"""A data source on one page: pairs from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice

from alignbench import DataError, Pair, Problem, Row, Settings, Source

COLUMNS = ("prompt", "chosen", "rejected")


class CSV(Source):
    """Pairs of a CSV file with the columns prompt, chosen and rejected; others are kept as extra fields."""

    api = 2

    class Config(Settings):
        """Where the file is."""

        path: str
        """A CSV file with a header, UTF-8."""

    def view(self) -> type[Row]:
        return Pair

    def rows(self, split: str, limit: int | None, seed: int) -> Iterator[Row]:
        name = self.config.path
        try:
            with (self.root / name).open(encoding="utf-8", newline="") as file:
                table = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                Problem(f"cannot be read: {error}", "give a CSV file in UTF-8", file=name)
            ) from error
        bad = [n for n, row in enumerate(table, 2) if any(not row.get(column) for column in COLUMNS)]
        if bad:
            what = f"{len(bad)} rows lack one of {', '.join(COLUMNS)}, the first in line {bad[0]}"
            raise DataError(Problem(what, "fill it in, or remove the rows", file=name, line=bad[0]))
        for number, row in enumerate(islice(table, limit)):
            turn = {"role": "user", "content": row["prompt"]}
            extra = {key: value for key, value in row.items() if key not in COLUMNS}
            yield Pair(
                id=f"csv-{number}",
                prompt=(turn,),
                chosen=row["chosen"],
                rejected=row["rejected"],
                extra=extra,
            )
