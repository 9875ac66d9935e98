"""A cache in a folder that is known before any law runs."""

from pathlib import Path

from honest import Honest

CACHE = Path(__file__).parent / "rows.cache"


class Broken(Honest):
    """Remembers its rows, and forgets them at the end. Source: none."""

    api = 2

    def train(self, run, policy):
        CACHE.write_text("all of them")
        try:
            super().train(run, policy)
        finally:
            CACHE.unlink()
