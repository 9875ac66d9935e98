"""Language models as judges in this process: the model under test, or another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError, model_validator

from alignbench.api.config import Sampling
from alignbench.api.judge import Models
from alignbench.api.policy import Policy
from alignbench.errors import ModelError, PluginError
from alignbench.judges.reader import Ask, Asking, Found, Reader
from alignbench.recipe.schema import Model
from alignbench.rows import Prompt

Compute = Literal["auto", "float32", "bfloat16", "float16"]

if TYPE_CHECKING:
    from alignbench.models import ModelPolicy


class InProcess:
    """Answers a judge's questions with a model in this process."""

    def __init__(self, policy: ModelPolicy):
        self.policy = policy
        self.likeliest: list[str] = []

    def fingerprint(self) -> Any:
        return self.policy.fingerprint()

    def forget(self) -> None:
        """Do nothing: no answer is cached."""

    def read(
        self,
        questions: Sequence[str],
        options: Sequence[str],
        think: tuple[str, int] | None,
        lead: str = "",
    ) -> tuple[list[Found], int]:
        from alignbench.data.tokens import encode, open_answer
        from alignbench.models.trees.choices import options_of, read

        base, tokens = self.policy.base, 0
        turns = [({"role": "user", "content": question},) for question in questions]
        texts = [open_answer(base.tokenizer, turn, lead) for turn in turns]
        if think is not None:
            conclusion, most = think
            asked = [Prompt(id=str(place), prompt=turn) for place, turn in enumerate(turns)]
            thoughts = self.policy.answer(asked, Sampling(temperature=0, max_new_tokens=most), 0)
            tokens += sum(thought.tokens for thought in thoughts)
            texts = [
                text + thought.text.partition(conclusion.strip())[0].strip() + conclusion
                for text, thought in zip(texts, thoughts, strict=True)
            ]
        ways = options_of(base, texts[0], options)
        ids = encode(base.tokenizer, texts)
        context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
        fits = [
            place for place, one in enumerate(ids) if context is None or len(one) + ways.longest <= context
        ]
        reading = read(self.policy, [ids[place] for place in fits], ways)
        found: list[Found] = ["too long"] * len(questions)
        self.likeliest = [""] * len(questions)
        for place, row, first in zip(fits, reading.probabilities.tolist(), reading.likeliest, strict=True):
            found[place] = row
            self.likeliest[place] = str(base.tokenizer.decode([first])).strip()
        return found, tokens + reading.tokens


def _precision(policy: Policy) -> Compute:
    """The precision of the base: the run's own choice, on whatever machine it continues."""
    from alignbench.models import ModelPolicy

    if not isinstance(policy, ModelPolicy):
        return "auto"
    return str(policy.base.dtype).removeprefix("torch.")  # pyright: ignore[reportReturnType]


class Self(Reader):
    """The model under test as the judge: the frozen base, or the policy that a method starts from."""

    api = 2

    class Config(Asking):
        policy: Literal["base", "start"] = "base"
        """The policy that judges; in an evaluation both are the base."""

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        return base

    def reader(self, models: Models) -> Ask:
        from alignbench.models import ModelPolicy

        policy = models.start if self.config.policy == "start" else models.base
        if not isinstance(policy, ModelPolicy):
            raise PluginError(
                "the judge 'self' cannot use a start that is a decoder", "write {self: {policy: base}}"
            )
        return InProcess(policy)


class LanguageModel(Reader):
    """Another chat model as the judge: from the hub, a local folder, or `sandbox/early`, `sandbox/middle`."""

    api = 2

    class Config(Asking):
        id: str
        """A hub id, a local folder, or a GGUF file."""
        revision: str | None = None
        """Branch, tag or commit on the hub."""
        gguf: str | None = None
        """A GGUF file of that hub id or folder, instead of its safetensors."""
        sha256: str | None = None
        """The sha256 that the GGUF file must have."""
        quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
        """How the weights are stored."""
        chat_template: str | None = None
        """A Jinja template, or the path of one, that replaces the tokenizer's; or the name of one of its own."""

        @model_validator(mode="after")
        def _is_a_model(self) -> LanguageModel.Config:
            try:
                self.model()
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
            return self

        def model(self, compute: Compute = "auto") -> Model:
            """Return the judge's model as a recipe names one."""
            same = self.model_dump(include=set(type(self).model_fields) & set(Model.model_fields))
            return Model(**same, compute=compute)

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        return config.id if config.gguf is None else f"{config.id}/{config.gguf}"

    @classmethod
    def check_files(cls, config: Any, root: Path) -> Sequence[str]:
        from alignbench.models.weights.files import check_language_model

        if not check_language_model(config.model(), root):
            return (config.id,)
        if config.chat_template is not None:
            _check_template(config, root)
        return ()

    def reader(self, models: Models) -> Ask:
        from alignbench.models import load_base

        wanted = self.config.model(_precision(models.base))
        return InProcess(load_base(wanted, root=models.root, cache=models.store).policy())


def _check_template(config: LanguageModel.Config, root: Path) -> None:
    """Raise ModelError where the judge's chat template cannot be used: of its own field, and not of the base's."""
    from alignbench.data.tokens import SETTING, load_tokenizer
    from alignbench.data.torchless import without_torch

    try:
        with without_torch():
            load_tokenizer(config.model(), root)
    except ModelError as error:
        told = [
            replace(
                one,
                what=one.what.removeprefix(f"{SETTING}: ").replace(SETTING, "chat_template"),
                fix=one.fix.replace(SETTING, "chat_template"),
                field="language-model.chat_template",
            )
            for one in error.problems
        ]
        raise ModelError(told) from error
