"""Models that people really have, in `shared/cases`: each computes as transformers does, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from alignbench.api.config import Sampling
from alignbench.cli import app
from alignbench.errors import ModelError
from alignbench.models import Base, Query, TokenTrees, load_base
from alignbench.models.forward.groups import Group, lay_out, response_states
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

PROMPTS = [
    Prompt(id=str(size), prompt=(), prompt_ids=tuple(range(20, 20 + size)))
    for size in (3, 8, 5, 11, 9, 4, 7, 6)
]


@pytest.fixture
def model(shared: Path):
    def model(name: str) -> Path:
        path = shared / "cases" / "models" / name
        if not path.is_dir():
            pytest.skip(f"needs shared/cases/models/{name}")
        return path

    return model


def load(folder: Path, **settings) -> Base:
    template = str(folder.parents[1] / "plain.jinja")
    return load_base(
        schema.Model(id=str(folder), chat_template=template, **{"quantization": "none", **settings})
    )


def test_mamba_gives_transformers_greedy_tokens(model):
    folder = model("arch-mamba")
    base, plain = load(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = base.policy().answer(PROMPTS, Sampling(temperature=0, max_new_tokens=12), 0)
    assert len({answer.ids for answer in answers}) > 1
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([prompt.prompt_ids])
        how = {
            "use_cache": False,
            "do_sample": False,
            "max_new_tokens": 12,
            "attention_mask": torch.ones_like(ids),
        }
        assert list(answer.ids) == plain.generate(ids, **how)[0, len(prompt.prompt_ids) :].tolist()


def test_a_hybrid_goes_on_once_part_of_a_batch_has_ended(model, monkeypatch):
    base = load(model("vlm-qwen3_5"))
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", list(range(2, 90)))
    policy, sampling, few = base.policy(), Sampling(max_new_tokens=20), PROMPTS[:4]
    together = policy.answer(few, sampling, 0)
    assert len({len(answer.ids) for answer in together}) > 2
    assert [one.ids for one in together] == [policy.answer([prompt], sampling, 0)[0].ids for prompt in few]


def test_adapters_of_a_multimodal_model_go_where_text_does(model):
    base = load(model("vlm-gemma3"))
    policy = base.add_adapter("policy", seed=0)
    assert policy.tensors()
    assert all(".language_model." in name for name in policy.tensors())
    base.checkpointing(True)
    base.model.train()
    sequences = [Sequence((20, 21, 22), (23, 24, 2))]
    groups = {"all": Group(sequences)}
    with base.using(policy):
        layout = lay_out(groups, base.device)
        loss = response_states(base, layout).square().sum()
        gradients = torch.autograd.grad(loss, policy.parameters())
    assert sum(float(gradient.abs().max()) > 0 for gradient in gradients) == len(gradients) // 2


def test_a_mixture_is_quantised_and_adapted_with_its_experts(model):
    base = load(model("arch-qwen3_moe"), quantization="nf4")
    shares = base.weights.shares()
    assert shares["quantised"] > 0.85
    assert shares["adapted"] > 0.85
    assert any(".experts." in name for name in base.add_adapter("policy", seed=0).tensors())


def test_a_mixture_is_trained_in_a_run(model, tmp_path: Path):
    recipe = model("arch-qwen3_moe").parents[1] / "50-moe-nf4" / "recipe.yaml"
    small = ["budget.steps=1", "evaluation={prompts: 2, metrics: [length], sampling: {max_new_tokens: 2}}"]
    options = [part for one in small for part in ("--set", one)]
    done = CliRunner().invoke(
        app, ["run", str(recipe), "--out", str(tmp_path / "run"), "--jobs", "1", *options]
    )
    assert done.exit_code == 0, done.output


def test_a_hybrid_gets_adapters_on_the_layers_that_peft_can_adapt(model):
    base = load(model("arch-falcon_h1"))
    names = base.add_adapter("policy", seed=0).tensors()
    assert any(".in_proj." in name for name in names)
    assert not any(".out_proj." in name for name in names)


def test_weights_that_are_not_finite_are_refused_by_their_names(model):
    with pytest.raises(ModelError, match=r"holds weights that are not finite: model\.") as loaded:
        load(model("nanw"))
    names = str(loaded.value).partition("finite: ")[2]
    done = CliRunner().invoke(
        app, ["check", str(model("nanw").parents[1] / "47-nan-weights" / "recipe.yaml")]
    )
    assert done.exit_code != 0
    assert "not finite" in done.stderr
    assert names.split(";")[0].split(",")[0].strip() in done.stderr.replace("\n", "")


def test_a_search_that_does_not_fit_the_context_is_refused_by_name(model):
    base = load(model("neo256"))
    assert base.context == 256
    trees = TokenTrees(base.policy())
    with pytest.raises(ModelError, match="a path of 257 tokens does not fit the model's context of 256"):
        trees.ask([(trees.new_tree(), [Query(tuple([5] * 257))])])
    tree = trees.new_tree((7, 8, 9))
    paths = [tuple([7, 8, 9, first] + [20 + first] * 100) for first in range(5)]
    (found,) = trees.ask([(tree, [Query(path, likeliest=3) for path in paths])])
    for path, reply in zip(paths, found, strict=True):
        assert reply.tokens == tuple(trees.alone(path).topk(3).indices[0].tolist())


def test_an_answer_ends_where_the_context_does(model):
    base = load(model("neo256"))
    long = Prompt(id="long", prompt=(), prompt_ids=tuple([9] * 250))
    (answer,) = base.policy().answer([long], Sampling(max_new_tokens=40), 0)
    assert len(answer.ids) <= 6
    with pytest.raises(ModelError, match="leaves no room for an answer"):
        base.policy().answer([Prompt(id="full", prompt=(), prompt_ids=tuple([9] * 256))], Sampling(), 0)
