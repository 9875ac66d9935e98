"""A temperature of its own, and the start's word that it follows the recipe's."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Draws at temperature 1, whatever it is asked for. Source: none."""

    api = 2

    def align(self, run):
        return Warm(run.start)


class Warm(Passing):
    """Forgets the temperature."""

    def answer(self, prompts, sampling, key, *, samples=1):
        warm = sampling.model_copy(update={"temperature": 1.0})
        return super().answer(prompts, warm, key, samples=samples)
