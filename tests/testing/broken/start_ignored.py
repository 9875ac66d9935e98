"""An adapter on the base, whatever the start is."""

from honest import Honest


class Broken(Honest):
    """Starts from the base. Source: none."""

    api = 2

    def align(self, run):
        policy = run.adapt(run.policy("base"))
        self.train(run, policy)
        return policy
