"""Plugins that return something of another kind, or too little: each class says what."""

from alignbench import (
    Answer,
    Decoder,
    Demonstration,
    Judge,
    Measure,
    Method,
    Metric,
    Reward,
    Score,
    Settings,
    Source,
)

TURN = {"role": "user", "content": "question"}


class Reading(Source):
    """Reads a row of `what`, after a good one."""

    api = 2

    class Config(Settings):
        """What it reads."""

        what: str = ""
        """The name of a row."""

    def view(self):
        return Demonstration

    def rows(self, split, limit, seed):
        if self.config.what == "nothing":
            return None
        return iter([self.row("0"), self.bad()])

    def row(self, id, prompt=(TURN,)):
        """Return a row."""
        return Demonstration(id=id, prompt=prompt, response="answer")

    def bad(self):
        """Return a row that is none."""
        return {
            "dict": {"prompt": "question"},
            "number": self.row(1),
            "twice": self.row("0"),
            "text": self.row("1", "question"),
            "role": self.row("1", ({**TURN, "role": "human"},)),
        }[self.config.what]


class Judging(Judge):
    """Judges by numbers that are no scores, or all answers but one."""

    api = 2
    trains = True

    class Config(Settings):
        """What it says."""

        short: bool = False
        """Whether it leaves out the first."""

    def score(self, prompts, answers):
        return [Score(1.0) for _ in answers[1:]] if self.config.short else [1.0 for _ in answers]


class Rewarding(Reward):
    """Rewards by words."""

    api = 2

    def score(self, prompts, answers):
        return ["good" for _ in answers]


class Measuring(Metric):
    """Measures `what`."""

    api = 2

    class Config(Settings):
        """What it returns."""

        what: str = ""
        """The name of it."""

    def measure(self, evidence):
        cell = evidence.cells[0]
        good = {"metric": "odd", "label": cell.label, "seed": cell.seed, "values": {"p1": 1.0}}
        return {
            "nothing": None,
            "dict": {cell.label: 1.0},
            "numbers": [1.0],
            "nobody": [Measure(**{**good, "label": "nobody"})],
            "nan": [Measure(**{**good, "values": {"p1": float("nan")}})],
        }[self.config.what]


class Answering(Method):
    """Answers by texts. Source: none."""

    api = 2
    consumes = ()

    class Config(Method.Config):
        """What it answers."""

        what: str = "texts"
        """`texts`, or answers to the prompts `backwards`."""

    def align(self, run):
        return Dec(self.config.what)

    def restore(self, folder, run):
        return Dec(self.config.what)


class Dec(Decoder):
    """What it says."""

    def __init__(self, what):
        self.what = what

    def answer(self, prompts, sampling, key, *, samples=1):
        if self.what == "texts":
            return ["yes" for _ in prompts]
        return [Answer(one.id, "yes", (1,), True) for one in reversed(prompts)]
