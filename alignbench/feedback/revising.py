"""Demonstrations that a policy writes by correcting itself: critiques and revisions by drawn principles."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from alignbench.api.config import Revising
from alignbench.api.policy import Policy
from alignbench.judges.wording import asked, filled, wording
from alignbench.rows import Demonstration, Prompt


def revise(
    policy: Policy, prompts: Sequence[Prompt], how: Revising, principles: Sequence[str], *, key: int
) -> list[Demonstration]:
    """Return each prompt with the last revision of `policy`'s answer to it.

    The principle of each revision is drawn by `key`. A revision that does not end, or is empty, is not taken
    over; a prompt whose answer never ended is left out. Law: equal arguments give equal rows.
    """
    words = wording(how.wording)
    answers: dict[str, str] = {}
    for answer in policy.answer(prompts, how.sampling, key):
        if answer.finished and answer.text.strip():
            answers[answer.prompt_id] = answer.text
    kept = [prompt for prompt in prompts if prompt.id in answers]

    def written(template: str, name: str, number: int, critiques: dict[str, str]) -> dict[str, str]:
        """What the policy writes about each answer, under the principle of round `number`."""
        requests = []
        for prompt in kept:
            text = filled(
                template,
                asked(prompt.prompt, inline=words.inline),
                answer=answers[prompt.id],
                principle=Random(f"{key}/{number}/{prompt.id}").choice(principles),
                critique=critiques.get(prompt.id, ""),
            )
            turn = {"role": "user", "content": text}
            requests.append(Prompt(id=f"{prompt.id}/{name} {number}", prompt=(turn,)))
        found = policy.answer(requests, how.sampling, key)
        return {
            prompt.id: one.text
            for prompt, one in zip(kept, found, strict=True)
            if one.finished and one.text.strip()
        }

    for number in range(how.rounds):
        critiques = written(words.critique, "critique", number, {}) if how.critique else {}
        answers |= written(words.revision, "revision", number, critiques)
    return [
        Demonstration(
            id=prompt.id, prompt=prompt.prompt, response=answers[prompt.id], extra={"revisions": how.rounds}
        )
        for prompt in kept
    ]
