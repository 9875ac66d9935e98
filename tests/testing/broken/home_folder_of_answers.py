"""A cache of answers in the home folder."""

from pathlib import Path

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Remembers its answers between runs. Source: none."""

    api = 2

    def align(self, run):
        return Remembering(run.start)


class Remembering(Passing):
    """Writes what it answers."""

    def answer(self, prompts, sampling, key, *, samples=1):
        answers = super().answer(prompts, sampling, key, samples=samples)
        folder = Path.home() / ".cache" / "broken"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answers.txt").write_text("\n".join(answer.text for answer in answers))
        return answers
