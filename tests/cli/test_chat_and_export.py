"""A finished run is talked to, and a label leaves it for plain transformers and peft."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignbench import results
from alignbench.api.config import Sampling
from alignbench.commands.open_run import finished, reopen
from alignbench.models.streaming import can_stream, stream
from alignbench.rows import Prompt
from alignbench.worker.finished import samples
from alignbench.worker.run.context import finished_policy

CLI = [sys.executable, "-c", "from alignbench.cli import app; app()"]
RECIPE = """
model: {id: sandbox, quantization: none}
data: {train: sandbox, limit: 48, max_length: 128}
training: {threads: 1, batch: 8}
evaluation:
  prompts: 6
  sampling: {max_new_tokens: 8}
  judges: [gold]
  metrics: [reward, length]
  curve: {evaluations: 2, prompts: 4}
methods:
  sft: {start: base, learning_rate: 3.0e-3}
  best-of-n: {start: sft, n: 2}
"""


def alignbench(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talk")
    (folder / "talk.yaml").write_text(RECIPE)
    ran = alignbench(
        "run", folder / "talk.yaml", "--out", folder / "run", ALIGNBENCH_HOME=str(folder / "home")
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "exported"
    ran = alignbench("export", run, "sft", "--out", out)
    assert ran.returncode == 0, ran.stderr
    return out


def test_the_record_has_the_learning_curve_of_a_policy(run: Path):
    record = results.read(run)
    (sft,), (decoder,) = record.cells_of("sft"), record.cells_of("best-of-n")
    assert [one.step for one in sft.learning_curve] == [0, 3, 6]
    assert all(one.score and one.score.ci95 and not one.proxy for one in sft.learning_curve)
    assert (sft.warnings, decoder.learning_curve) == ((), ())  # a decoder trains nothing


def test_all_policies_answer_one_prompt(run: Path):
    ran = alignbench("chat", run, "-p", "hello", "--max-new-tokens", "5", "--labels", "sft,best-of-n")
    assert ran.returncode == 0, ran.stderr
    answers = [line for line in ran.stdout.splitlines() if line.strip()]
    assert [line.split("]")[0] for line in answers] == ["[sft", "[best-of-n"]
    assert all(len(line.split("] ")[1]) > 0 for line in answers)


def test_a_label_that_is_not_there_is_named_with_those_that_are(run: Path):
    ran = alignbench("chat", run, "-p", "hello", "--labels", "nobody")
    assert ran.returncode == 2
    assert "nobody: no finished cell; finished are base, sft, best-of-n" in ran.stderr


def test_a_streamed_answer_is_the_answer(run: Path):
    session = reopen(run, 1)
    cells = finished(results.read(run), ["base", "sft"])
    policies = [finished_policy(session, cell.label, cell.seed) for cell in cells]
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=12)
    prompts = [
        Prompt(id=f"p{i}", prompt=({"role": "user", "content": found},)) for i, found in enumerate("ab")
    ]
    for prompt in prompts:
        assert all(map(can_stream, policies))
        together = [stream(policy, prompt, sampling, 7) for policy in policies]
        found = ["", ""]
        while together:  # in turn, on one base
            for place, one in enumerate(list(together)):
                found[place] = next(one, found[place])
            together = [one for one in together if one.gi_frame is not None]
        for policy in policies:
            whole = policy.answer([prompt], sampling, 7)[0].text
            assert list(stream(policy, prompt, sampling, 7))[-1] == whole


THREE_LINES = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

folder, where, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
base = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
policy = PeftModel.from_pretrained(base, folder).eval()
logps = []
for prompt, response in asked:
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    logps.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist())
print(json.dumps(logps))
"""

OURS = """
import json, sys
from pathlib import Path
from alignbench.commands.open_run import reopen
from alignbench.rows import Sequence
from alignbench.worker.run.context import finished_policy

session = reopen(Path(sys.argv[1]), 1)
asked = [Sequence(*map(tuple, one)) for one in json.loads(sys.argv[2])]
policies = [finished_policy(session, label, 0) for label in ("sft", "base")]
print(json.dumps([[one.logps.tolist() for one in policy.logprobs(asked)] for policy in policies]))
"""


def in_a_process_of_its_own(script: str, *arguments: str) -> Any:
    """What a script prints last, as a user would run it: nothing that another test has set is set there."""
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_an_exported_adapter_loads_with_transformers_and_peft_in_three_lines(run: Path, exported: Path):
    where = json.loads((exported / "adapter_config.json").read_text())["base_model_name_or_path"]
    prompts = {one.id: one.prompt_ids for one in reopen(run, 1).table.prompts("test", 6)}
    answers = samples.read_all(run / "cells" / "sft" / "seed-0")[:4]
    asked = json.dumps([[list(prompts[one.prompt_id]), list(one.ids)] for one in answers])
    theirs = in_a_process_of_its_own(THREE_LINES, str(exported), where, asked)
    ours, untouched = in_a_process_of_its_own(OURS, str(run), asked)
    for one, mine, before in zip(theirs, ours, untouched, strict=True):
        assert one == pytest.approx(mine, abs=1e-4)
        assert max(abs(a - b) for a, b in zip(one, before, strict=True)) > 1e-2  # the adapter is not idle


def test_its_tokenizer_comes_with_it(exported: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)


def test_its_card_has_the_numbers_and_the_recipe(run: Path, exported: Path):
    card = (exported / "README.md").read_text()
    reward = results.read(run).label("sft").metrics["reward"].value
    assert f"| reward | {reward:.2f}"[:-1] in card
    for word in ("method `sft`", "learning_rate: 0.003", "PeftModel.from_pretrained", "library_name: peft"):
        assert word in card


def test_a_merged_model_is_written_and_agrees(run: Path):
    out = run.parent / "merged"
    ran = alignbench("export", run, "sft", "--merge", "--out", out, "--json")
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)["merge"]
    assert record["merging_changes_at_most"] < 1e-3
    assert 0 < record["written_from_measured_mean"] < 0.1  # the base's own dtype is bfloat16
    assert (out / "model.safetensors").is_file()
    assert not (out / "adapter_config.json").exists()


def test_a_decoder_has_no_weights_to_export(run: Path):
    ran = alignbench("export", run, "best-of-n", "--out", run.parent / "none")
    assert ran.returncode == 5
    assert "is a decoder of 'best-of-n' and has no weights to export" in ran.stderr


def test_nothing_is_pushed_while_the_hub_is_switched_off(run: Path):
    out = run.parent / "pushed"
    ran = alignbench("export", run, "sft", "--out", out, "--push", "me/mine", HF_HUB_OFFLINE="1")
    assert ran.returncode == 2
    assert "HF_HUB_OFFLINE" in ran.stderr
    assert not out.exists()
