"""Metrics that break a law each."""

from dataclasses import replace

from alignbench import Measure, Metric, by_prompt


class Honest(Metric):
    """Words of an answer."""

    api = 2
    by_cell = True

    def measure(self, evidence):
        found = []
        for cell in evidence.cells:
            samples = evidence.samples(cell)
            values = by_prompt(samples, self.values(evidence, cell, samples))
            found.append(
                Measure(metric="words", label=cell.label, seed=cell.seed, values=values, span=(0, 99))
            )
        return found

    def values(self, evidence, cell, samples):
        """Return a value for each answer."""
        return [len(one.text.split()) for one in samples]


class Forgetful(Honest):
    """Leaves the base out."""

    api = 2

    def measure(self, evidence):
        return super().measure(evidence)[1:]


class Endless(Honest):
    """Divides by nothing."""

    api = 2

    def values(self, evidence, cell, samples):
        return [float("inf") for _ in samples]


class Needy(Honest):
    """Needs what is called otherwise."""

    api = 2
    needs = frozenset({"sample"})


class Wide(Honest):
    """Names a span that its values leave."""

    api = 2

    def values(self, evidence, cell, samples):
        return [100 + len(one.text) for one in samples]


class Place(Honest):
    """Counts from the first prompt."""

    api = 2

    def values(self, evidence, cell, samples):
        return list(range(len(samples)))


class OneSided(Honest):
    """Sees only what the first label does better."""

    api = 2

    def differences(self, evidence, measures, a, b):
        return [
            replace(one, values={id: abs(value) for id, value in one.values.items()})
            for one in super().differences(evidence, measures, a, b)
        ]


class Company(Honest):
    """Reads the other cells, and says that it reads one."""

    api = 2

    def values(self, evidence, cell, samples):
        return [len(evidence.cells) for _ in samples]
