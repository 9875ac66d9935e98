"""What the data tests share: small files of rows, recipes over them, and a tokenizer built in code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.prepare import prepare
from alignbench.data.table import Table, open_table
from alignbench.errors import DataError
from alignbench.recipe.schema import Recipe

WriteRows = Callable[..., str]
MakeRecipe = Callable[..., Recipe]
Prepare = Callable[..., Table]

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pairs(count: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows that differ in every text."""
    return [
        {"prompt": f"question {n}", "chosen": f"good answer {n}", "rejected": f"bad answer {n}", **columns}
        for n in range(count)
    ]


def problems(source: Any) -> DataError:
    """Read all rows of a source that has bad ones."""
    with pytest.raises(DataError) as raised:
        list(source.rows("train", None, 0))
    return raised.value


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    """Write rows as JSON lines and return the file's name."""

    def write(rows: Iterable[Any] | bytes, name: str = "data.jsonl") -> str:
        if not isinstance(rows, bytes):
            lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
            rows = "".join(f"{line}\n" for line in lines).encode()
        (tmp_path / name).write_bytes(rows)
        return name

    return write


@pytest.fixture
def recipe() -> MakeRecipe:
    """A recipe on the sandbox's model: words are its tokens."""

    def recipe(
        train: str,
        *,
        model: dict[str, Any] | None = None,
        batch: int = 4,
        prompts: int = 2,
        answer_tokens: int = 16,
        **data: Any,
    ) -> Recipe:
        return Recipe.model_validate(
            {
                "model": model or {"id": "sandbox"},
                "data": {"train": train, "split": {"validation": 0.1, "test": 0.2}, "max_length": 64, **data},
                "training": {"batch": batch},
                "methods": {"any": {}},
                "evaluation": {"prompts": prompts, "sampling": {"max_new_tokens": answer_tokens}},
            }
        )

    return recipe


@pytest.fixture
def table(recipe: MakeRecipe, tmp_path: Path) -> Prepare:
    """Prepare a table and open it."""

    def table(train: str, *, root: Path | None = None, folder: str = "table", **data: Any) -> Table:
        prepare(recipe(train, **data), tmp_path / folder, root=root or tmp_path)
        return open_table(tmp_path / folder)

    return table


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with the special tokens of ChatML, saved without a template or a pad."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("a", "n"), ("Ġ", "a"), ("i", "n"), ("Ċ", "Ċ")]
    vocabulary = {**alphabet, **{"".join(pair): len(alphabet) + n for n, pair in enumerate(merges)}}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = ["<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    built.add_special_tokens([AddedToken(text, special=True) for text in special])
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<s>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 128}', encoding="utf-8")
    return folder
