"""A tokenizer that was loaded without torch is the same tokenizer, and the process can still load a model."""

from __future__ import annotations

import subprocess
import sys

from alignbench.sandbox import MODEL

SCRIPT = """
import os, sys
from alignbench.data.tokens import fingerprint, load_tokenizer
from alignbench.data.torchless import without_torch
from alignbench.recipe.schema import Model

def read():
    tokenizer = load_tokenizer(Model(id=sys.argv[1]))
    turn = [{"role": "user", "content": "which colour ?"}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    return fingerprint(tokenizer), type(tokenizer).__name__, ids

before = dict(os.environ)
with without_torch():
    alone = read()
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]
assert dict(os.environ) == before
assert read() == alone
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert torch.isfinite(model(torch.tensor([alone[2]])).logits).all()
with without_torch():
    assert sys.modules["torch"] is torch
assert sys.modules["torch"] is torch
"""


def test_the_sandbox_is_read_alike_with_and_without_torch():
    command = [sys.executable, "-c", SCRIPT, str(MODEL)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PyTorch was not found" not in done.stderr
