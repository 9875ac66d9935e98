"""The model card of an exported label: its numbers, how to load it and how to reproduce it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from alignbench.report import text
from alignbench.report.leaderboard import Row, leaderboard, places, start_of
from alignbench.report.metrics import metric_infos, title
from alignbench.results import Results

PEFT = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}{how})
policy = PeftModel.from_pretrained(base, {folder!r})
"""
MERGED = """\
from transformers import AutoModelForCausalLM

policy = AutoModelForCausalLM.from_pretrained({folder!r})
"""
QUANTISED = {
    "nf4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)',
    "fp4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)',
    "int8": "BitsAndBytesConfig(load_in_8bit=True)",
}


def card(
    results: Results,
    label: str,
    seed: int,
    *,
    base: str,
    folder: str,
    merged: Mapping[str, float] | None = None,
) -> str:
    """Return a label's model card as Markdown, with the hub's metadata as front matter."""
    row = next(row for row in leaderboard(results).rows if row.name == label)
    head = {"library_name": "transformers" if merged else "peft", "tags": ["alignbench", row.label.method]}
    if base.count("/") == 1 and not base.startswith(("/", ".")):
        head |= {"base_model": base}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {_plain(results.run)}: {_plain(label)}",
        f"`{label}`, seed {seed}, of a comparison run with alignbench: method `{row.label.method}` "
        f"({_plain(row.label.distribution)} {_plain(row.label.version)}), "
        f"started from `{_plain(start_of(row.label))}`.",
        *([_plain(row.verdict.sentence)] if row.verdict else []),
        "## Load it",
        _code(MERGED.format(folder=folder) if merged else _loading(results, base, folder)),
        "## Numbers",
        _numbers(results, row),
        *([_merge(merged)] if merged else []),
        *(["## Notes", _list(row)] if row.notes else []),
        "## How to reproduce it",
        _code(results.command, "sh"),
        _code(yaml.safe_dump(results.recipe, sort_keys=False, allow_unicode=True), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(results: Results, base: str, folder: str) -> str:
    model = results.recipe.get("model", {})
    kind, file = model.get("quantization"), model.get("gguf")
    if base.endswith(".gguf"):  # a file of this machine
        where, _, file = base.rpartition("/")
        base = where or "."
    plain = PEFT.format(base=base, how=f", gguf_file={file!r}" if file else "", folder=folder)
    if kind not in QUANTISED:
        return plain
    how = f"# The numbers below were measured on the base in {kind}: give from_pretrained\n"
    return f"{plain}\n{how}# quantization_config={QUANTISED[kind]}\n"


def _numbers(results: Results, row: Row) -> str:
    lines = ["| metric | value, 95% interval |", "|---|---|"]
    for name in metric_infos(results):
        one = row.label.metrics.get(name)
        if one is not None:
            shown = text.estimate(one, places([results], name)) if one.value is not None else one.missing
            lines.append(f"| {_plain(title(name))} | {_plain(shown)} |")
    return "\n".join(lines)


def _merge(merged: Mapping[str, float]) -> str:
    return (
        f"Merged into the base in full precision. On {merged['tokens']:.0f} tokens of its own answers a "
        f"log-probability is off by {merged['written_from_adapter_mean']:.2g} nats on average against the "
        f"adapter on the same base, and by {merged['written_from_measured_mean']:.2g} nats against the "
        "quantised policy that the numbers above were measured on."
    )


def _list(row: Row) -> str:
    return "\n".join(f"- {_plain(note)}" for note in row.notes)


def _code(code: str, language: str = "python") -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in code.split() if set(run) == {"`"}), default=0))
    return f"{fence}{language}\n{text.visible(code).rstrip()}\n{fence}"


def _plain(value: Any) -> str:
    """Return text that Markdown shows as it is."""
    plain = text.line("nothing" if value is None else value)
    for sign in "\\`*_[]<>|#":
        plain = plain.replace(sign, f"\\{sign}")
    return plain
