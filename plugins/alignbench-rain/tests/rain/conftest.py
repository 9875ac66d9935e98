"""The sandbox's base in float32 arithmetic, prompts, and a decoder on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alignbench_rain import RAIN
from alignbench_rain.decoder import OwnStates, SearchDecoder
from alignbench_rain.evaluation import SelfEvaluation
from alignbench_rain.questions import Question

from alignbench import DecodingBase, Prompt
from alignbench.models import load_base
from alignbench.recipe import schema
from alignbench.sandbox import TEMPLATES, rows

QUESTION = Question(ask=TEMPLATES["harmless"], swapped=TEMPLATES["harmless_swapped"])
THRESHOLD = 0.97


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base():
    return load_base(schema.Model(id="sandbox"))


@pytest.fixture(scope="session")
def prompts(base):
    asked = [Prompt(id=row["id"], prompt=tuple(row["prompt"])) for row in rows("test", 24)]
    return base.policy().tokenised(asked)


@pytest.fixture
def make(base):
    """Make a decoder: `make(candidates=4)`."""

    def make(policy=None, evaluator=None, log=lambda **numbers: None, question=QUESTION, **rules):
        decoding = DecodingBase(policy or base.policy())
        judging = decoding if evaluator is None else DecodingBase(evaluator)
        config = RAIN.Config(question=question, **rules)
        evaluation = SelfEvaluation(judging, question, soft=config.votes == "soft")
        return SearchDecoder(config, decoding, evaluation, OwnStates(np.zeros(1, np.float32), THRESHOLD), log)

    return make
