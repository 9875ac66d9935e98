"""The process that answers the questions of `child`: it prints a JSON object."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignbench.data import gguf
from alignbench.errors import ModelError
from alignbench.recipe.schema import Model


def answer(question: str, where: Path, model: Model) -> dict[str, Any]:
    """Return the answer to a `Question` about a model; `where` is its folder or file, and for `loaded` the recipe's."""
    gc.disable()  # the imports make a million objects that stay; garbage collection would take a fifth of their time
    if question == "compute":
        from alignbench.models import arithmetic

        return {"compute": arithmetic.fastest()}
    if question == "targets":
        # peft and transformers import them where they find them, which takes a fifth of the whole answer.
        for name in ("bitsandbytes", "scipy"):
            sys.modules[name] = None  # pyright: ignore[reportArgumentType]  (what Python takes for: not installed)
    from alignbench.models.weights import skeleton

    if question == "loaded":
        from alignbench.models.loading import load_base

        return load_base(model, root=where).record()
    from alignbench.models.weights.lora_config import check_dropout

    if where.is_file():
        where = gguf.text_folder(where)
    if question == "weights":
        return skeleton.weights(where, model.quantization, model.adapter.targets).record()
    targets = skeleton.targets_in(where, model.quantization, model.adapter.targets)
    check_dropout(targets, model.adapter.dropout)
    return {}


def main() -> None:
    """Answer the question of the command line."""
    question, where, model = sys.argv[1:]
    try:
        reply = answer(question, Path(where), Model.model_validate_json(model))
    except ModelError as error:
        reply = {"problems": [asdict(problem) for problem in error.problems]}
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
