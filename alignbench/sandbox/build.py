"""Rebuilds the sandbox's model from a seed: tokenizer, corpus, weights, two earlier checkpoints, record.

    python -m alignbench.sandbox.build [--share S] [--out FOLDER] [--record]

On the same machine with the same library versions and threads the weights are bit for bit equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, get_args

from . import documents
from . import words as w
from .chats import Document
from .judgments import JudgingKind, judging
from .skills import CAPABILITIES, capability

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

SEED = 0
THREADS = 1  # two waste most of their time in waiting for each other as soon as the machine is shared
ROW, BATCH = (
    128,
    16,
)  # tokens in a packed row; rows in a batch: small batches and many steps learn fastest here
WARMUP, FINAL_RATE = 60, 0.02  # steps of linear warm-up; share of the rate that is left at the end
JUDGMENT_WEIGHT = 4.0  # one token in forty: drowns in the loss otherwise
USER_WEIGHT = 0.5  # of a user's words in the loss: the base speaks, it need not ask as well
CHECKPOINTS = {"early": 0.3, "middle": 0.55}  # share of the steps after which they are saved
# Widths are multiples of 64: 4-bit kernels on CPU dequantise other widths silently wrong.
HIDDEN, FEED_FORWARD, LAYERS, HEADS, CONTEXT = 192, 512, 4, 6, 256


@dataclass(frozen=True)
class Phase:
    """One epoch over documents of one mixture, at one learning rate."""

    documents: int
    mixture: dict[str, float]
    learning_rate: float


PHASES = (
    Phase(110_000, documents.MIXTURE, 2e-3),
    Phase(30_000, documents.LOOKUP_MIXTURE, 1e-3),
    Phase(12_000, documents.USE_MIXTURE, 8e-4),
    Phase(32_000, documents.JUDGE_MIXTURE, 1.5e-3),
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} <bot> {{ message['content'] | trim }} <end>"
    "{% else %} <user> {{ message['content'] | trim }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <bot>{% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """Write a fast word-level tokenizer with its chat template into the folder. It lower-cases everything except
    the options A and B, splits off punctuation, and adds no tokens: <bos> and <end> are in the rendered chat."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(documents.vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=w.UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in w.SPECIAL])
    tokenizer.add_tokens([AddedToken(letter, normalized=False, single_word=True) for letter in w.LETTERS])
    assert tokenizer.get_vocab_size() == len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": w.BOS,
        "eos_token": w.END,
        "pad_token": w.PAD,
        "unk_token": w.UNKNOWN,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def encode(document: Document, ids: dict[str, int]) -> tuple[list[int], list[float]]:
    """Return a document's token ids, and the weight of each token in the loss."""
    words = document.text.split()
    weights, weight = [], 1.0
    for word in words:
        weights.append(0.0 if word == w.BOS else weight)
        if word in (w.USER, w.BOT):
            weight = USER_WEIGHT if word == w.USER else 1.0
    if document.judgment:
        weights[-2] = JUDGMENT_WEIGHT
    return [ids[word] for word in words], weights


def packed_rows(phase: Phase, seed: int) -> Iterator[list[tuple[list[int], list[float]]]]:
    """Rows of whole documents that fill at most ROW tokens, in random order of kinds."""
    ids = {word: i for i, word in enumerate(documents.vocabulary())}
    open_rows: list[tuple[int, list[tuple[list[int], list[float]]]]] = []
    for document in documents.documents("train", phase.documents, seed, phase.mixture):
        piece = encode(document, ids)
        size = len(piece[0])
        for i, (used, row) in enumerate(open_rows):
            if used + size <= ROW:
                row.append(piece)
                open_rows[i] = (used + size, row)
                break
        else:
            open_rows.append((size, [piece]))
        if len(open_rows) > 64:
            yield open_rows.pop(0)[1]
    yield from (row for _, row in open_rows)


def tensors(rows: list[list[tuple[list[int], list[float]]]]) -> dict[str, torch.Tensor]:
    """Return rows as ids, positions, document numbers and loss weights, each [rows, ROW], padded with 0."""
    import torch

    ids = torch.zeros(len(rows), ROW, dtype=torch.int16)
    positions, number = torch.zeros_like(ids), torch.zeros_like(ids)
    weights = torch.zeros(len(rows), ROW)
    for r, row in enumerate(rows):
        at = 0
        for n, (tokens, weight) in enumerate(row, start=1):
            end = at + len(tokens)
            ids[r, at:end] = torch.tensor(tokens, dtype=torch.int16)
            positions[r, at:end] = torch.arange(len(tokens), dtype=torch.int16)
            number[r, at:end] = n
            weights[r, at:end] = torch.tensor(weight)
            at = end
    return {"ids": ids, "positions": positions, "number": number, "weights": weights}


def new_model(vocabulary_size: int) -> LlamaForCausalLM:
    """The untrained base."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary_size,
        tie_word_embeddings=True,
        pad_token_id=w.SPECIAL.index(w.PAD),
        bos_token_id=w.SPECIAL.index(w.BOS),
        eos_token_id=w.SPECIAL.index(w.END),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write weights in bf16, configuration and tokenizer into the folder."""
    import copy

    half = copy.deepcopy(model).bfloat16()
    half.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_tokenizer(folder)


def train(
    model: LlamaForCausalLM, data: dict[str, torch.Tensor], learning_rate: float, checkpoints: dict[str, Path]
) -> None:
    """Train one epoch over the rows. Documents in a row do not attend to each other."""
    import torch

    steps = len(data["ids"]) // BATCH
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / WARMUP, 1 - (1 - FINAL_RATE) * max(0, s - WARMUP) / max(1, steps - WARMUP)),
    )
    saved = {
        round(steps * share): checkpoints[name] for name, share in CHECKPOINTS.items() if name in checkpoints
    }
    causal = torch.ones(ROW, ROW, dtype=torch.bool).tril()
    began, sums = time.time(), [0.0, 0.0, 0.0, 0.0]
    model.train()
    for step in range(steps):
        batch = {name: values[step * BATCH : (step + 1) * BATCH] for name, values in data.items()}
        ids, number = batch["ids"].long(), batch["number"]
        apart = (number[:, None, :, None] != number[:, None, None, :]) | ~causal
        mask = torch.zeros(apart.shape).masked_fill(apart, -1e9)
        # In float32: autocast to bf16 is 1.6 times as slow on CPUs without tiles (AMX).
        logits = model(
            input_ids=ids, position_ids=batch["positions"].long(), attention_mask=mask, use_cache=False
        ).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weight = batch["weights"][:, 1:].flatten()
        (loss @ weight / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rate.step()
        with torch.no_grad():
            judgment, any_token = weight == JUDGMENT_WEIGHT, weight > 0
            sums[0] += float(loss[any_token].sum())
            sums[1] += int(any_token.sum())
            sums[2] += float(loss[judgment].sum())
            sums[3] += int(judgment.sum())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            tokens = int((data["number"][: (step + 1) * BATCH] > 0).sum())
            print(
                f"step {step + 1}/{steps}  tokens {tokens / 1e6:.2f}M  loss {sums[0] / sums[1]:.3f}"
                f"  judgment {sums[2] / max(1, sums[3]):.3f}  {tokens / (time.time() - began):.0f} tokens/s",
                flush=True,
            )
            sums = [0.0, 0.0, 0.0, 0.0]
        if step + 1 in saved:
            save_model(model, saved[step + 1])


def data_digest() -> str:
    """Return the sha256 of a sample of generated rows with their gold, documents and items. It changes when the
    code generates different data."""
    from .scoring import gold
    from .table import Split, rows

    sample: list[object] = [documents.vocabulary(), CHAT_TEMPLATE]
    for split in get_args(Split):
        for row in rows(split, 200):
            values = [gold(row["prompt"], answer) for answer in row["answers"]]
            sample.append([row, [[v.reward, v.helpful, v.honest, v.harmless] for v in values]])
    sample += [list(documents.pretraining("train", 1000)), list(documents.pretraining("heldout", 1000))]
    for kind in get_args(JudgingKind):
        sample.append(list(judging(kind, 100)))
    for task in CAPABILITIES:
        sample.append(list(capability(task, 50)))
    return hashlib.sha256(json.dumps(sample, sort_keys=True).encode()).hexdigest()


def files_digest(root: Path) -> dict[str, str]:
    """Return the sha256 of every file of the model and its checkpoints, by path below the root."""
    found = sorted(
        path for part in ("model", "checkpoints") for path in (root / part).rglob("*") if path.is_file()
    )
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def fingerprint(files: dict[str, str], data: str) -> str:
    """Return one sha256 over all files and the generated data."""
    return hashlib.sha256(json.dumps([files, data], sort_keys=True).encode()).hexdigest()


def write_record(root: Path, **more: object) -> None:
    """Write record.json below the root: digests, fingerprint, and how it was built. Without `more`, how it was
    built is copied from the earlier record."""
    import torch
    import transformers

    files, data, path = files_digest(root), data_digest(), root / "record.json"
    before = json.loads(path.read_text())["built"] if path.exists() and not more else {}
    record = {
        "fingerprint": fingerprint(files, data),
        "data": data,
        "files": files,
        "built": before
        or {
            "seed": SEED,
            "threads": THREADS,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            **more,
        },
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def run_phase(model: LlamaForCausalLM, phase: Phase, seed: int, checkpoints: dict[str, Path]) -> int:
    """Train the model for one phase; return its tokens. The weights are rounded to bf16, as saved, so that the
    next phase may start from files."""
    import torch

    packed = list(packed_rows(phase, seed))
    Random(f"rows|{seed}").shuffle(packed)
    data = tensors(packed)
    tokens = int((data["number"] > 0).sum())
    full = tokens / data["ids"].numel()
    print(f"{phase.documents} documents, {tokens / 1e6:.2f}M tokens in {len(packed)} rows ({full:.0%} full)")
    train(model, data, phase.learning_rate, checkpoints)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return tokens


def build(root: Path, share: float = 1.0, seed: int = SEED) -> None:
    """Build everything under the root: model/, checkpoints/early/, checkpoints/middle/, record.json."""
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    model = new_model(len(documents.vocabulary()))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters")
    tokens = []
    for number, phase in enumerate(PHASES):
        phase = replace(phase, documents=round(phase.documents * share))
        early = {} if number else {name: root / "checkpoints" / name for name in CHECKPOINTS}
        tokens.append(run_phase(model, phase, seed + number, early))
    save_model(model, root / "model")
    write_record(root, share=share, tokens=tokens)


def main() -> None:
    """Build at the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the documents, for a quick and worse model"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder to write to")
    parser.add_argument("--record", action="store_true", help="train nothing, only record what is there")
    chosen = parser.parse_args()
    if chosen.record:
        return write_record(chosen.out)
    return build(chosen.out, chosen.share)


if __name__ == "__main__":
    main()
