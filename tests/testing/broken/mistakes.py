"""What authors of a first method write by mistake."""

from honest import Honest

from alignbench import NamedMethod, Pair


class LossAlone(Honest):
    """Logs nothing. Source: none."""

    api = 2

    def loss(self, scores, rows):
        return super().loss(scores, rows)[0]


class TextLogged(Honest):
    """Logs a word. Source: none."""

    api = 2

    def loss(self, scores, rows):
        return super().loss(scores, rows)[0], {"mood": "good"}


class Detached(Honest):
    """Learns nothing. Source: none."""

    api = 2

    def loss(self, scores, rows):
        return super().loss(scores, rows)[0].detach(), {}


class MeanOfTheLoss(Honest):
    """Takes the mean itself. Source: none."""

    api = 2

    def loss(self, scores, rows):
        return super().loss(scores, rows)[0].mean(), {}


class ListOfSequences(Honest):
    """Gives its groups no names. Source: none."""

    api = 2

    def sequences(self, rows):
        return [one for row in rows for one in row.sequences()]


class Texts(Honest):
    """Scores texts. Source: none."""

    api = 2

    def sequences(self, rows):
        return {"chosen": [row.chosen for row in rows]}


class ListOfRows(Honest):
    """Trains on a list. Source: none."""

    api = 2

    def align(self, run):
        policy = run.adapt()
        run.train(policy, list(run.rows(Pair)), self.sequences, self.loss, learning_rate=1e-4)
        return policy


class Start(Honest):
    """Trains its start. Source: none."""

    api = 2

    def align(self, run):
        run.train(run.start, run.rows(Pair), self.sequences, self.loss, learning_rate=1e-4)
        return run.start


class ViewByName(Honest):
    """Names its view. Source: none."""

    api = 2

    def align(self, run):
        return run.rows("pairs")


class StageByItsField(Honest):
    """Gives a stage the field that names it. Source: none."""

    api = 2

    def align(self, run):
        return run.stage(NamedMethod(name="dpo", config={}))


class JudgeByName(Honest):
    """Names its judge in the code. Source: none."""

    api = 2

    def align(self, run):
        return run.judge("self")


class StageWithAWrongField(Honest):
    """Builds on a method that has no such loss. Source: none."""

    api = 2

    def align(self, run):
        return run.stage("dpo", loss="best")


class NoPolicy(Honest):
    """Forgets to return what it trained. Source: none."""

    api = 2

    def align(self, run):
        super().align(run)
