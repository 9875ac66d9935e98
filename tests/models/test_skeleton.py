"""What a configuration tells of a model without its weights is what loading it finds.

`test_architectures` compares both for every architecture.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import ModelError
from alignbench.models import load_base
from alignbench.models.skeleton import ask, check_targets, weights
from alignbench.recipe import schema

from .architectures import build


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_so_they_are_with_other_quantisations_and_targets(quantization, tmp_path: Path):
    folder = build("qwen3_moe", tmp_path / "model")
    adapter = schema.Adapter(targets=["q_proj", "experts.down_proj"])
    model = schema.Model(id=str(folder), quantization=quantization, adapter=adapter)
    assert weights(folder, quantization, ["q_proj", "experts.down_proj"]) == load_base(model).weights


def test_another_process_says_it(folder: Path):
    loaded = load_base(schema.Model(id=str(folder))).weights
    assert ask(folder, "nf4", "all-linear") == {"weights": loaded.total, "shares": loaded.shares()}


def test_a_target_that_the_model_does_not_have_is_refused_in_the_words_of_a_run(folder: Path):
    check_targets(folder, "nf4", ["q_proj", "mlp.up_proj"])
    wanted = ["q_proj", "query_key_value"]
    with pytest.raises(ModelError) as found:
        check_targets(folder, "nf4", wanted)
    with pytest.raises(ModelError) as right:
        load_base(schema.Model(id=str(folder), adapter=schema.Adapter(targets=wanted)))
    assert str(found.value) == str(right.value)
    assert "query_key_value: no layer of this name can have an adapter" in str(found.value)


def test_what_cannot_be_built_is_not_told(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    assert ask(tmp_path, "nf4", "all-linear") == {}
