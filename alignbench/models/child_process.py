"""The process that answers the questions of `child`: it prints a JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignbench.errors import ModelError
from alignbench.models import arithmetic, skeleton
from alignbench.recipe.schema import Model


def answer(question: str, where: Path, model: Model) -> dict[str, Any]:
    """Return the answer to a `Question` about a model; `where` is its folder, and for `loaded` the recipe's."""
    if question == "compute":
        return {"compute": arithmetic.fastest()}
    if question == "loaded":
        from alignbench.models.loading import load_base

        return load_base(model, root=where).record()
    if question == "weights":
        return skeleton.weights(where, model.quantization, model.adapter.targets).record()
    skeleton.targets_in(where, model.quantization, model.adapter.targets)
    return {}


def main() -> None:
    """Answer the question of the command line."""
    question, where, model = sys.argv[1:]
    try:
        said = answer(question, Path(where), Model.model_validate_json(model))
    except ModelError as error:
        said = {"problems": [asdict(problem) for problem in error.problems]}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
