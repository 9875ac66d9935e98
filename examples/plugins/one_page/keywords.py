"""A judge on one page: the share of wanted words that an answer holds."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench import Judge, Models, Prompt, Score, Settings


class Keywords(Judge):
    """The share of a list of words that stand in an answer; methods may learn from it."""

    api = 2
    trains = True

    class Config(Settings):
        """Which words."""

        words: list[str] = ["please", "thank", "you"]
        """Words that an answer should hold."""
        path: str = ""
        """A file of the recipe's folder with more of them, one on each line."""

    def open(self, models: Models) -> None:
        more = (models.root / self.config.path).read_text("utf-8").split() if self.config.path else []
        self.wanted = {word.casefold() for word in (*self.config.words, *more)}

    def fingerprint(self) -> object:
        return [super().fingerprint(), sorted(self.wanted)]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        answered = [set(answer.casefold().split()) for answer in answers]
        return [Score(len(self.wanted & words) / max(1, len(self.wanted))) for words in answered]
