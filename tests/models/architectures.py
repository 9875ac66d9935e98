"""Tiny random models of many architectures of transformers, and the page that lists what is found of each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from alignbench.models.weights.skeleton import kind_of

if TYPE_CHECKING:
    from alignbench.models import Base

TOKENS = 95
"""Words of the tokenizer in `conftest.build_tokenizer`."""

COMMON = {
    "vocab_size": TOKENS,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}

LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
FOUR = {**LLAMA, "num_hidden_layers": 4}
WINDOW = {**LLAMA, "sliding_window": 32}
GEMMA = {**WINDOW, "query_pre_attn_scalar": 16}
GPT = {"n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4}
NEOX = {key: LLAMA[key] for key in LLAMA if key not in ("head_dim", "num_key_value_heads")}
EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL_EXPERTS = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
LINEAR = {
    **FOUR,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 64,
}
STATE = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}

PATCHES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CLIP = {**PATCHES, "model_type": "clip_vision_model"}
SIGLIP = {**PATCHES, "model_type": "siglip_vision_model"}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 64,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0],
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # dense, attention only
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "phi", "phi3", "stablelm", "starcoder2", "olmo",
         "olmo2", "olmo3", "cohere", "granite", "smollm3", "glm", "glm4", "nemotron", "helium", "ernie4_5", "seed_oss",
         "arcee", "apertus", "hunyuan_v1_dense"),
        LLAMA,
    ),
    **dict.fromkeys(("cohere2", "exaone4"), WINDOW),
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "sliding_window_pattern": 2},
    **dict.fromkeys(("gpt_neox", "persimmon"), NEOX),
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 8},
    "codegen": {**GPT, "rotary_dim": 8},
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 32,
    },
    "opt": {**NEOX, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon": {**NEOX, "alibi": False},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    # mixtures of experts
    **dict.fromkeys(("qwen3_moe", "olmoe"), EXPERTS),
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 64},
    **dict.fromkeys(("mixtral", "granitemoe", "phimoe"), LOCAL_EXPERTS),
    "gpt_oss": {**LOCAL_EXPERTS, "sliding_window": 32},
    "deepseek_v3": {**LLAMA, **LATENT},
    "jetmoe": {**LOCAL_EXPERTS, "num_key_value_heads": 4, "kv_channels": 16},
    # recurrent, and mixtures of recurrence and attention
    **dict.fromkeys(("mamba", "falcon_mamba"), STATE),
    "mamba2": {**STATE, "num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1},
    "rwkv": {"hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64, "intermediate_size": 128},
    "recurrent_gemma": {**LLAMA, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 32},
    "bamba": {**LLAMA, **MAMBA, "attn_layer_indices": [1], "mamba_n_groups": 1},
    "falcon_h1": {**LLAMA, **MAMBA, "mamba_d_ssm": 128},
    "jamba": {
        **FOUR,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "use_mamba_kernels": False,
    },
    "lfm2": {**LLAMA, "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 128},
    "qwen3_next": {**LINEAR, **EXPERTS, "num_hidden_layers": 4, "shared_expert_intermediate_size": 64},
    "qwen3_5_text": LINEAR,
    "granitemoehybrid": {
        **LLAMA,
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 64,
    },
    "nemotron_h": {
        **LLAMA,
        "hybrid_override_pattern": "M*-",
        "num_hidden_layers": 3,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "minimax": {
        **LOCAL_EXPERTS,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["linear_attention", "full_attention"],
    },
    # multimodal
    **{
        name: {"text_config": {"model_type": text, **COMMON, **LLAMA, **more}, "vision_config": vision}
        for name, text, more, vision in (
            ("llava", "llama", {}, CLIP),
            ("mistral3", "mistral", {}, {**PATCHES, "model_type": "pixtral", "head_dim": 16}),
            ("gemma3", "gemma3_text", {"sliding_window": 32, "query_pre_attn_scalar": 16}, SIGLIP),
            ("qwen2_5_vl", "qwen2_5_vl_text", MROPE, QWEN_VISION),
            ("qwen3_vl", "qwen3_vl_text", MROPE, QWEN_VISION),
        )
    },
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write a random model of this architecture and a tokenizer to `folder`; equal for equal names."""
    import transformers

    from .conftest import build_tokenizer

    given = ARCHITECTURES[name]
    whole = given if "text_config" in given else {**COMMON, **given}
    config = transformers.CONFIG_MAPPING[name](**whole)
    config.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, kind_of(folder)).from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


PAGE = "docs/models.md"
WRITE = "python -m tests.models.architectures"
"""The command that writes the table of the page."""

HEAD = """\
| architecture | answers | training and scoring | searches and judges | quantised | adapted |
| --- | --- | --- | --- | ---: | ---: |"""


def row(name: str, base: Base) -> str:
    """Return a line of the page's table: the paths of an NF4 base, and the shares of its weights."""
    paths, shares = base.paths, base.weights.shares()
    answers = "cache" if paths.cache else "no cache"
    answers += {"padded": "", "equal lengths": ", equal lengths together", "one by one": ", one by one"}[
        paths.batch
    ]
    scored = "one row" if paths.one_row else "padded" if paths.padding else "one by one"
    cells = (name, answers, scored, paths.trees)
    return f"| {' | '.join(cells)} | {shares['quantised']:.0%} | {shares['adapted']:.0%} |"


def main() -> None:
    """Write the table of the page; takes a minute."""
    from alignbench.models import load_base
    from alignbench.recipe import schema

    page = Path(PAGE)
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- architectures -->\n")
    after = rest.partition("<!-- /architectures -->")[2]
    lines = [HEAD]
    with TemporaryDirectory() as work:
        for name in ARCHITECTURES:
            lines.append(row(name, load_base(schema.Model(id=str(build(name, Path(work) / name))))))
    table = "\n".join(lines)
    page.write_text(
        f"{before}<!-- architectures -->\n{table}\n<!-- /architectures -->{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
