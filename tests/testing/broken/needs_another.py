"""A stage by another plugin that no field names, so that nobody knows that it has to be installed."""

from honest import Honest


class Broken(Honest):
    """Fine-tunes first. Source: none."""

    api = 2

    def align(self, run):
        return run.stage("sft", learning_rate=1e-3)
