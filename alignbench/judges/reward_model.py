"""A reward model as a judge: a sequence classifier from the hub or a folder, or one trained in the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from alignbench.api.config import Settings
from alignbench.api.judge import Judge, Models, Score
from alignbench.errors import ModelError, Problem
from alignbench.rows import Demonstration, Messages, Prompt

if TYPE_CHECKING:
    from torch import Tensor


class RewardModel(Judge):
    """Scores a conversation with its answer by one unbounded number: only differences have a meaning.

    The input is formatted by the classifier's chat template where it has one, else it is the pair (prompt,
    answer). A text longer than the classifier's context gets no score. Equal texts get equal scores in any
    batch, so that equal answers tie.
    """

    api = 2
    trains: ClassVar[bool] = True
    cheap: ClassVar[bool] = True

    class Config(Settings):
        id: str = ""
        """A hub id or a local folder."""
        train_on: Literal["held-out", "train"] | None = None
        """Instead of `id`: train it on rows that no method sees, to evaluate, or on the methods' own rows."""
        share: float = Field(0.2, gt=0, lt=1)
        """Share of the training rows that is held out for it."""
        after: float = Field(0.0, ge=0, lt=1)
        """Share of the training rows before its own, which belong to another judge. It is set for the tuning judge."""
        learning_rate: float = Field(1e-4, gt=0)
        """Peak learning rate of its adapter, if trained."""
        head_learning_rate: float = Field(1e-3, gt=0)
        """Peak learning rate of its head."""
        epochs: float = Field(1.0, gt=0)
        """Epochs over its rows."""
        revision: str | None = None
        """Branch, tag or commit on the hub."""
        quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
        """How the weights are stored."""
        max_length: int = Field(2048, ge=2)
        """Largest length of prompt and answer in tokens; a longer text gets no score."""
        batch: int = Field(16, ge=1)
        """Texts per forward pass."""

        @model_validator(mode="after")
        def _of_one_kind(self) -> Self:
            if bool(self.id) == bool(self.train_on):
                raise ValueError("a reward model is either loaded or trained; set either `id` or `train_on`")
            if self.train_on == "held-out" and self.after + self.share >= 1:
                raise ValueError(
                    f"holding out the share {self.after:g} to {self.after + self.share:g} leaves no rows to the "
                    "methods; lower `share` (the tuning judge of a sweep or of temperatures needs as much again)"
                )
            return self

    @property
    def held_out(self) -> float:
        return self.config.after + self.config.share if self.config.train_on == "held-out" else 0.0

    @classmethod
    def check_evaluation(cls, config: Any) -> Problem | None:
        if config.train_on != "train":
            return None
        what = "a reward model of the methods' own rows cannot evaluate"
        return Problem(what, "set train_on: held-out", field="train_on")

    @classmethod
    def tuning_judge(cls, config: Any) -> dict[str, Any]:
        return {"after": config.after + config.share} if config.train_on == "held-out" else {}

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        return config.id

    @classmethod
    def check_files(cls, config: Any, root: Path) -> Sequence[str]:
        from alignbench.models.weights.files import check_classifier, labels_of

        if not config.id:
            return ()
        found = check_classifier(config.id, root, config.revision)
        if found is None:
            return (config.id,)
        _check_one_output(config.id, len(labels_of(found)))
        return ()

    def open(self, models: Models) -> None:
        from alignbench.models import load_classifier

        config: RewardModel.Config = self.config
        self._known: dict[Any, float] = {}
        if config.train_on is not None:
            how = {name: getattr(config, name) for name in ("learning_rate", "head_learning_rate", "epochs")}
            part = (config.after, config.after + config.share)
            self.own = models.own_reward_model("train" if config.train_on == "train" else part, **how)
            self.quality = self.own.quality
            return
        self.network, self.tokenizer = load_classifier(
            config.id, root=models.root, revision=config.revision, quantization=config.quantization
        )
        settings = self.network.config
        _check_one_output(config.id, settings.num_labels)
        # Tokenizers without a limit report 1e30.
        limits = config.max_length, self.tokenizer.model_max_length, _context(settings)
        self.max_length = min(limit for limit in limits if limit)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        if self.config.train_on is not None:
            return self._score_own(prompts, answers)
        texts = [self._encode(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        keys = [tuple(text["input_ids"]) for text in texts]
        unread = {
            key: text
            for key, text in zip(keys, texts, strict=True)
            if key not in self._known and len(key) <= self.max_length
        }
        by_length = sorted(unread, key=lambda key: (len(key), key))
        for start in range(0, len(by_length), self.config.batch):
            batch = by_length[start : start + self.config.batch]
            self._known.update(zip(batch, self._read([unread[key] for key in batch]), strict=True))
        self._record(map(len, unread))
        return [Score(self._known.get(key)) for key in keys]

    def _score_own(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        from alignbench.data.tokens import ending, tokenise

        tokenizer = self.own.adapter.tokenizer
        rows = [
            Demonstration(id=str(place), prompt=prompt.prompt, response=answer)
            for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        made = tokenise(rows, tokenizer, ending(tokenizer))
        keys = [row.sequences()[0] if isinstance(row, Demonstration) else None for row in made]
        unread = [key for key in dict.fromkeys(keys) if key is not None and key not in self._known]
        self._known.update(zip(unread, self.own.score(unread).tolist(), strict=True))
        self._record(map(len, unread))
        return [Score(None if key is None else self._known[key]) for key in keys]

    def _record(self, lengths: Iterable[int]) -> None:
        """Record the cost of scoring texts of these lengths in tokens: one call for each."""
        read = list(lengths)
        if read:
            self.record_cost(judge_calls=len(read), judge_tokens=sum(read))

    def _encode(self, prompt: Prompt, answer: str) -> Mapping[str, list[int]]:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            return self.tokenizer(_plain(prompt.prompt), answer)
        conversation = [*map(dict, prompt.prompt), {"role": "assistant", "content": answer}]
        try:
            encoded: Any = self.tokenizer.apply_chat_template(conversation, return_dict=True)
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self.config.id} rejects row {prompt.id}: {error}",
                "name a reward model for such conversations",
            ) from error
        return encoded

    def _read(self, texts: Sequence[Mapping[str, list[int]]]) -> list[float]:
        import torch

        # A decoder reads its score at the last token that is not the padding token. That is one token too
        # early where the end-of-sequence token also pads. Then another token pads.
        ends = {text["input_ids"][-1] for text in texts}
        pad: Any = next(id for id in (self.tokenizer.pad_token_id, *range(len(ends) + 1)) if id not in ends)
        self.network.config.get_text_config().pad_token_id = pad

        def padded(name: str, value: int) -> Tensor:
            # Right padding: a causal model then needs no position ids.
            width = max(len(text[name]) for text in texts)
            rows = [[*text[name], *[value] * (width - len(text[name]))] for text in texts]
            return torch.tensor(rows, device=self.network.device)

        inputs = {"input_ids": padded("input_ids", pad), "attention_mask": padded("attention_mask", 0)}
        # Many tokenizers return token types for models that have none.
        if "token_type_ids" in texts[0] and getattr(self.network.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = padded("token_type_ids", 0)
        with torch.inference_mode():
            return self.network(**inputs).logits[:, 0].float().tolist()


def _check_one_output(id: str, labels: int | None) -> None:
    if labels != 1:
        raise ModelError(
            f"{id} has {labels} classes; a reward model has one output",
            "name a sequence classifier with num_labels 1",
        )


def _plain(prompt: Messages) -> str:
    """Return the text of a single turn, or several turns with their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def _context(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)
