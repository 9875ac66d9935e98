"""Runs a TRL trainer that draws its own answers, in groups, with the rewards that a recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

from alignbench import Policy, Prompt, Run
from alignbench.rewards import reward
from alignbench_trl.trainers import messages, named, train


def train_groups(run: Run, config: Any, trainer: str) -> Policy:
    """Train the start's copy with a trainer of groups: GRPO, RLOO, or what is built like them."""
    rows = run.rows(Prompt)
    score = reward(run, config.judge, config.rewards)
    run.record.departure("reward of an answer that does not end", "", "no penalty: TRL's trainers have none")

    def columns(row: Prompt) -> Mapping[str, Any]:
        return {"prompt": messages(row), "row": row}

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> Any:
        _compare(run, list(rows), tokenizer)
        kind, settings = named(trainer)
        inside = list(model.modules())

        def rewards(completions: Any, row: Any, **_: Any) -> list[float | None]:
            modes = [module.training for module in inside]
            found = score(row, [answer[0]["content"] for answer in completions])
            for module, mode in zip(inside, modes, strict=True):  # a judge on this base has switched it
                module.training = mode
            return found

        class InOrder(kind):
            """The trainer, which reads its prompts in the order of all methods."""

            def get_train_dataloader(self) -> DataLoader[Any]:
                args = self.args
                size = args.generation_batch_size // config.answers
                order = _Groups(self.train_dataset, size, config.answers, args.steps_per_generation)
                loader = DataLoader(
                    self.train_dataset,
                    batch_size=args.generation_batch_size,
                    sampler=order,
                    collate_fn=self.data_collator,
                    drop_last=args.dataloader_drop_last,
                )
                return self.accelerator.prepare(loader)

        return InOrder(
            model=model,
            reward_funcs=[rewards],
            args=settings(**args, shuffle_dataset=False),
            train_dataset=Dataset.from_dict({"prompt": [messages(next(iter(rows)))]}),
            processing_class=tokenizer,
            **more,
        )

    return train(run, config, rows, columns, make, answers=config.answers)


class _Groups(Sampler[int]):
    """The places of TRL's batches, one after the other: its own sampler lists all of them first, and a budget that
    counts everything has no last one."""

    def __init__(self, rows: Any, size: int, answers: int, repeats: int):
        self.rows, self.size, self.answers, self.repeats = rows, size, answers, repeats

    def __len__(self) -> int:
        return len(self.rows) // self.size * self.size * self.answers * self.repeats

    def __iter__(self) -> Iterator[int]:
        for first in range(0, len(self.rows) - self.size + 1, self.size):
            for _ in range(self.repeats):
                for place in range(first, first + self.size):
                    yield from [place] * self.answers


def _compare(run: Run, rows: list[Prompt], tokenizer: Any) -> None:
    """Record where TRL makes other token ids of the prompts than the shared ones."""
    made = tokenizer.apply_chat_template(
        [messages(row) for row in rows], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    if any(tuple(ids) != tuple(row.prompt_ids) for ids, row in zip(made, rows, strict=True)):
        run.record.departure("token ids of the prompts", "the shared ones", "as TRL makes them")
