"""Learning from one's own corrections: answers criticised and revised by principles, then imitated."""

from __future__ import annotations

from pydantic import Field

from alignbench import Method, MethodConfig, NamedMethod, NamedSource, Policy, Prompt, Revising, Run
from alignbench.feedback import prompts as prompts_of
from alignbench.feedback import revise


class ConstitutionalSL(Method):
    """The start answers, criticises and revises by drawn principles, and imitates what comes out.

    Source: Bai et al. 2022, "Constitutional AI" (arXiv:2212.08073), section 3, SL-CAI.
    """

    api = 2
    consumes = (Prompt,)

    class Config(MethodConfig):
        """What is revised and how, and who learns from it."""

        revisions: Revising = Revising()
        """How answers are criticised and revised."""
        prompts: NamedSource | None = None
        """More prompts than the recipe's, such as `red-team`: a departure."""
        limit: int = Field(256, ge=1)
        """Prompts taken of that source at most."""
        optimizer: NamedMethod = NamedMethod(name="sft")
        """The installed method that learns from the revisions, with its fields."""

    def align(self, run: Run) -> Policy:
        config = self.config
        prompts = list(run.rows(Prompt))
        if config.prompts is not None:
            prompts += prompts_of(run, config.prompts, config.limit)
        rows = revise(run, prompts, config.revisions)
        return run.stage(config.optimizer.name, rows=rows, **config.optimizer.config)
