"""A stage that changes weights outside of the trainer."""

from honest import Honest


class Broken(Honest):
    """Returns what another method has trained. Source: none."""

    api = 2

    def align(self, run):
        return run.stage("optimiser_of_its_own")
