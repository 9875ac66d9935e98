"""RAIN: a frozen model searches, judges and rewinds its own answers; with best-of-n and distillation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from alignbench import (
    Answer,
    Demonstration,
    GroupScores,
    Label,
    Method,
    MethodConfig,
    NamedJudge,
    Pair,
    Policy,
    Prompt,
    Run,
    Sampling,
    Sequence,
)
from alignbench.spending import counts_everything, parts
from alignbench_rain.questions import Named, Question

if TYPE_CHECKING:
    from torch import Tensor

ANSWERS = "answers.jsonl"
"""What rain-sft trains on: an ordinary file of demonstrations."""

SEARCH = "search.json"
"""The cost of finding them, stored with them."""

SEARCH_SHARE = 0.5
"""Share of a budget in tokens, FLOPs or seconds that the searches of rain-sft may take; the training gets the rest."""


class Evaluating(MethodConfig):
    """Who says how good an unfinished answer is."""

    evaluator: Literal["start", "base"] | NamedJudge = "start"
    """The model that answers, the untouched base, or a judge of the platform."""
    question: Named | Question = "harmless"
    """What the model is asked about an answer: one of the plugin's questions, or one of your own."""
    votes: Literal["hard", "soft"] = "hard"
    """One vote for each order of the options, or the mean probability of the good one."""
    judged_part: str = ""
    """A part of the judge's score, as `harmless`, used instead of the whole."""
    good_above: float = 0.5
    """An answer is good if the judge's score is above this."""
    pairs: int = Field(64, ge=0)
    """Held-out pairs by which the self-evaluation of start and base is measured."""


class Searching(Evaluating):
    """How an answer is searched; the defaults are those of the authors' code for HH, and bounds on its cost."""

    flavour: Literal["code", "paper"] = "code"
    """Where the authors' code and their paper differ: which one is followed."""
    searches: int = Field(50, ge=1)
    """Searches for one set of tokens at most (T)."""
    least_searches: int = Field(6, ge=0)
    """Visits to the best child (code) or searches (paper) before a set may be taken early (T_m)."""
    good_enough: float = Field(0.8, ge=-1, le=1)
    """Value of the most visited child at which it is taken early (V)."""
    candidates: int = Field(10, ge=2)
    """Sets proposed below a node (q), the greedy one among them."""
    most_candidates: int = Field(20, ge=2)
    """Sets below a node after all additions."""
    lengths: tuple[int, ...] = Field((1, 2, 4, 10), min_length=1)
    """Tokens in a set, by the number of sets before it; the last for all that follow."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits before a candidate is drawn."""
    top_k: int = Field(15, ge=0)
    """Draw candidates among the k likeliest tokens; 0 for all."""
    exploration: float = Field(2.0, ge=0)
    """Weight of what may still be found against what is known (c)."""
    similarity: float = Field(0.2, ge=0)
    """Share of a visit that counts for a sibling that is alike (gamma)."""
    spread: float = Field(0.03, ge=0)
    """Spread of the embeddings below a node, for each token of a set, under which bad sets get company."""
    encoder: str = "own"
    """The model's own states, or a model of sentence-transformers by hub id or folder: the authors' is
    `sentence-transformers/all-MiniLM-L6-v2`."""
    threshold: float | None = Field(None, ge=-1, le=1)
    """Cosine from which siblings are alike; none: 0.95 for a sentence encoder, calibrated for own states."""
    clause_ends: str = ",.?:;\n、。，．？！：；"  # noqa: RUF001  (full-width punctuation is meant)
    """Characters at which a simulation stops."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end an answer, as the tokenizer's own end tokens do; they are cut off."""
    max_forwards: int | None = Field(1_000, ge=1)
    """Model calls for one prompt; then the best answer so far is given, its end greedily. Null: any number."""
    max_tokens: int | None = Field(20_000, ge=1)
    """Positions computed for one prompt; then the same. Null: any number."""
    max_seconds: float | None = Field(None, gt=0)
    """Wall time of one prompt; then the same. Outside the promise of equal bytes."""


class RAIN(Method):
    """Self-evaluation and rewind at inference: the start searches its own continuations; nothing is trained.

    Source: Li, Wei, Zhao, Zhang and Zhang 2023, "RAIN: Your Language Models Can Align Themselves without
    Finetuning" (arXiv:2309.07124), and the authors' code (https://github.com/SafeAILab/RAIN).
    """

    api = 2
    consumes = (Pair,)
    on_decoders = False
    Config = Searching

    def align(self, run: Run) -> Policy:
        from alignbench_rain.builder import Maker

        return Maker(run, self.config).decoder()

    def restore(self, folder: Path, run: Run) -> Policy:
        from alignbench_rain.builder import Maker

        return Maker(run, self.config).restored(folder)


class BestOfN(Method):
    """The best of n answers by RAIN's evaluator: the control that a search has to beat at the same cost.

    Sources: Stiennon et al. 2020 (arXiv:2009.01325), appendix G; the evaluator as in RAIN (arXiv:2309.07124).
    """

    api = 2
    consumes = (Pair,)
    on_decoders = False
    same_cost_as = "like"

    class Config(Evaluating):
        """How many answers are drawn, and who says which is best."""

        n: int = Field(16, ge=1)
        """Answers drawn for each prompt."""
        like: Label | None = None
        """Draw as many answers as cost what this label's do, measured on training prompts at each temperature."""

    def align(self, run: Run) -> Policy:
        from alignbench_rain.builder import Maker

        return Maker(run, self.config).best_of_n()

    def restore(self, folder: Path, run: Run) -> Policy:
        from alignbench_rain.best import read_n
        from alignbench_rain.builder import Maker

        return Maker(run, self.config).best_of_n(read_n(folder))


class RainSFT(Method):
    """RAIN's answers to the training prompts, learnt by supervised fine-tuning: the cost is paid once.

    Source: Li et al. 2023 (arXiv:2309.07124), section 5, who propose it to save the cost of inference.
    """

    api = 2
    consumes = (Pair,)

    class Config(Searching):
        """The search whose answers are learnt, and how."""

        learning_rate: float = Field(2e-4, gt=0, le=1)
        """Peak learning rate of the adapter."""
        prompts: int | None = Field(None, ge=1)
        """Training prompts that are answered; none: all."""
        max_new_tokens: int = Field(128, ge=1)
        """Tokens after which an answer is cut; what is cut is not learnt."""

    def align(self, run: Run) -> Policy:
        from alignbench_rain.builder import Maker

        rows = list(run.rows(Prompt))[: self.config.prompts]
        # Outside of what is shared: a cell that finds the answers in the store reports the same.
        decoder = Maker(run, self.config).decoder()
        numbers: dict[str, float] = {}
        decoder.log = numbers.update

        def make(folder: Path) -> None:
            sampling = Sampling(max_new_tokens=self.config.max_new_tokens)
            asked: list[Prompt] = []
            answers: list[Answer] = []
            for some in parts(run, rows, share=SEARCH_SHARE):
                answers += decoder.answer(some, sampling, run.seed)
                asked += some
            write(folder / ANSWERS, asked, answers)
            (folder / SEARCH).write_text(json.dumps(numbers), encoding="utf-8")

        left = run.left if counts_everything(run) else None
        folder = run.shared(
            make, what="answers", config=self.config.model_dump(mode="json"), start=run.start, left=left
        )
        run.log(0, **json.loads((folder / SEARCH).read_text(encoding="utf-8")))
        shown = run.rows(Demonstration, given=read(folder / ANSWERS, rows))
        policy = run.adapt()
        run.train(
            policy,
            lambda step: run.draw(shown, step, run.batch),
            _sequences,
            _loss,
            learning_rate=self.config.learning_rate,
        )
        return policy


def write(file: Path, prompts: list[Prompt], answers: list[Answer]) -> None:
    """Write the finished answers as demonstrations under TRL's names, with their token ids."""
    with file.open("w", encoding="utf-8") as out:
        for row, answer in zip(prompts, answers, strict=True):
            if answer.finished:
                prompt = [dict(turn) for turn in row.prompt]
                record = {"id": row.id, "prompt": prompt, "completion": answer.text, "ids": answer.ids}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")


def read(file: Path, prompts: list[Prompt]) -> list[Demonstration]:
    """Return the answers that `write` wrote as demonstrations of their prompts."""
    with file.open(encoding="utf-8") as lines:
        found = {one["id"]: one for one in map(json.loads, lines)}
    return [
        Demonstration(
            id=row.id,
            length=len(row.prompt_ids) + len(found[row.id]["ids"]),
            prompt=row.prompt,
            prompt_ids=row.prompt_ids,
            response=found[row.id]["completion"],
            response_ids=tuple(found[row.id]["ids"]),
        )
        for row in prompts
        if row.id in found
    ]


def _sequences(rows: list[Demonstration]) -> Mapping[str, list[Sequence]]:
    return {"response": [sequence for row in rows for sequence in row.sequences()]}


def _loss(
    scores: Mapping[str, GroupScores], rows: list[Demonstration]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    response = scores["response"]
    return -response.logps, {"logps/chosen": response.sums()}
