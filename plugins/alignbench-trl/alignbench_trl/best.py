"""A reward model by TRL's RewardTrainer, and the best of several answers by it."""

from __future__ import annotations

import copy
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportPrivateImportUsage]

from alignbench import (
    Answer,
    Decoder,
    DecodingBase,
    Pair,
    Policy,
    Prompt,
    Run,
    Sampling,
    ScoringGroup,
    Sequence,
    TrainablePolicy,
)
from alignbench_trl.trainers import train

FILE = "reward.safetensors"
HEAD = "head.weight"


def train_reward(run: Run, config: Any) -> Policy:
    """Return the start's best of n answers by a reward model that TRL trains on the shared token ids."""
    heads: list[nn.Linear] = []

    def columns(row: Pair) -> dict[str, list[int]]:
        return {
            "chosen_ids": [*row.prompt_ids, *row.chosen_ids],
            "rejected_ids": [*row.prompt_ids, *row.rejected_ids],
        }

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> RewardTrainer:
        scorer = _Scorer(model, run.seed)
        heads.append(scorer.head)
        settings = RewardConfig(**args, max_length=None)
        nothing = Dataset.from_dict({"chosen_ids": [[0]], "rejected_ids": [[0]]})
        return RewardTrainer(
            scorer,  # pyright: ignore[reportArgumentType]
            settings,
            train_dataset=nothing,
            processing_class=tokenizer,
            **more,
        )

    adapter = train(run, config, run.rows(Pair), columns, make)
    return BestOf(run, adapter, heads[0].requires_grad_(False), config.n)


def restored(run: Run, folder: Path, n: int) -> Policy:
    """Return what `BestOf.save` wrote."""
    kept = load_file(folder / FILE)
    weight = kept.pop(HEAD)
    adapter = run.adapt(dropout=False)
    with torch.no_grad():
        for name, tensor in adapter.tensors().items():
            tensor.copy_(kept[name])
            tensor.requires_grad_(False)
        device = next(iter(adapter.tensors().values())).device
        head = nn.Linear(weight.shape[1], 1, bias=False, device=device).requires_grad_(False)
        head.weight.copy_(weight)
    return BestOf(run, adapter, head, n)


class BestOf(Decoder):
    """The start, asked n times; the answer with the highest reward is given, ties to the first."""

    def __init__(self, run: Run, adapter: TrainablePolicy, head: nn.Linear, n: int):
        self.run, self.start, self.adapter, self.head, self.n = run, run.start, adapter, head, n
        self.base, self.follows = DecodingBase(run.start), run.start.follows

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer `samples` times, each the best of n draws of its own."""
        drawn = self.start.answer(prompts, sampling, key, samples=samples * self.n)
        ids = {one.id: one.prompt_ids for one in self.base.tokenised(prompts)}
        rewards = self.rewards([Sequence(ids[one.prompt_id], one.ids) for one in drawn])
        answers = []
        for number, at in enumerate(range(0, len(drawn), self.n)):
            group = range(at, at + self.n)
            best = drawn[max(group, key=lambda place: rewards[place])]
            read = sum(len(ids[best.prompt_id]) + len(drawn[place].ids) for place in group)
            answers.append(
                replace(
                    best,
                    sample=number % samples,
                    forwards=sum(drawn[place].forwards + 1 for place in group),
                    tokens=read + sum(drawn[place].tokens for place in group),
                    seconds=sum(drawn[place].seconds for place in group),
                )
            )
        return answers

    def rewards(self, sequences: Many[Sequence]) -> list[float]:
        """Return the reward of each answer, read at its last token."""
        # A head reads the state before each token: one more, of any kind, gives the state after the end.
        items = [replace(one, response=(*one.response, 0)) for one in sequences]
        found = self.run.score({"rewards": ScoringGroup(items, self.adapter, self.head)})["rewards"]
        last = found.mask.sum(1, keepdim=True) - 1
        return found.values.gather(1, last)[:, 0].tolist()

    def save(self, folder: Path) -> None:
        """Write the adapter's weights and the head."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = {**self.adapter.tensors(), HEAD: self.head.weight}
        save_file({name: one.detach().cpu().contiguous() for name, one in kept.items()}, folder / FILE)


class _Scorer(nn.Module):
    """The borrowed network as a classifier with one output, which TRL trains."""

    def __init__(self, model: Any, seed: int):
        super().__init__()
        self.model = model
        self.config = copy.deepcopy(model.config)
        self.config.num_labels = 1
        width = self.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed % 2**63)
            self.head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)
        self.head.to(model.device)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False
    ) -> SequenceClassifierOutputWithPast:
        decoder = self.model.get_base_model().get_decoder()
        found = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)
        states = found.last_hidden_state
        last = attention_mask.sum(1) - 1
        ends = states[torch.arange(len(states), device=states.device), last]
        logits = self.head(ends.float())
        return SequenceClassifierOutputWithPast(logits=logits)  # pyright: ignore[reportArgumentType]

    def get_base_model(self) -> Any:
        """The network, whose work is counted."""
        return self.model.get_base_model()

    def add_model_tags(self, tags: Any) -> None:
        """TRL tags what is pushed to a hub; this is not."""
