"""A cache in the home folder."""

from pathlib import Path

from honest import Honest


class Broken(Honest):
    """Remembers its rows between runs. Source: none."""

    api = 2

    def train(self, run, policy):
        folder = Path.home() / ".cache" / "broken"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.txt").write_text("all of them")
        super().train(run, policy)
