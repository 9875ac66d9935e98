"""Noise that depends on where a prompt stands in the batch."""

from honest import HonestDecoder, Passing


class Broken(HonestDecoder):
    """Counts its prompts. Source: none."""

    api = 2

    def align(self, run):
        return ByPlace(run.start)


class ByPlace(Passing):
    """Adds the place of a prompt to the key."""

    def answer(self, prompts, sampling, key, *, samples=1):
        answered = [
            super(ByPlace, self).answer([prompt], sampling, key + place, samples=samples)
            for place, prompt in enumerate(prompts)
        ]
        return [answer for answers in answered for answer in answers]
