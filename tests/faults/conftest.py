"""Fixtures of the fault tests: cells that are killed at any file mutation."""

from __future__ import annotations

import pytest

from alignbench.sandbox import TEMPLATES

from .injection import Faults

JUDGE = {"self": {"wording": "sandbox"}}
QUESTION = {"ask": TEMPLATES["harmless"], "swapped": TEMPLATES["harmless_swapped"]}

METHODS = {
    "sft": {"start": "base"},
    "dpo": {"start": "base"},
    "orpo": {"start": "base"},
    "rlhf": {
        "start": "base",
        "reward_model": {"learning_rate": 1e-3},
        "rollout_batch_size": 8,
        "ppo_epochs": 1,
        "max_new_tokens": 4,
    },
    "rlaif": {
        "start": "base",
        "judge": JUDGE,
        "labels": {"sampling": {"max_new_tokens": 16}},
        "optimizer": {"dpo": {"learning_rate": 1e-3}},
    },
    "d-rlaif": {"start": "base", "judge": JUDGE, "max_new_tokens": 4},
    "cai-sl": {"start": "base", "revisions": {"sampling": {"max_new_tokens": 16}, "wording": "sandbox"}},
    "kto": {"start": "base"},
    "grpo": {"start": "base", "rewards": ["length"], "answers": 2, "max_new_tokens": 4},
    "rloo": {"start": "base", "rewards": ["length"], "answers": 2, "max_new_tokens": 4},
    "online-dpo": {"start": "base", "judge": JUDGE, "max_new_tokens": 4},
    "raft": {"start": "base", "judge": JUDGE, "max_new_tokens": 4},
    "trl-sft": {"start": "base"},
    "trl-dpo": {"start": "base"},
    "trl-kto": {"start": "base"},
    "trl-grpo": {"start": "base", "rewards": ["length"], "answers": 2, "max_new_tokens": 4},
    "trl-rloo": {"start": "base", "rewards": ["length"], "answers": 2, "max_new_tokens": 4},
    "trl-reward": {"start": "base", "n": 2},
    "trl": {"start": "base", "trainer": "experimental.orpo.ORPOTrainer"},
    "rain": {"start": "base", "question": QUESTION, "pairs": 8, "searches": 4, "least_searches": 2},
    "best-of-n": {"start": "base", "question": QUESTION, "pairs": 8, "n": 2},
    "rain-sft": {
        "start": "base",
        "question": QUESTION,
        "pairs": 8,
        "searches": 4,
        "least_searches": 2,
        "prompts": 12,
        "max_new_tokens": 16,
        "learning_rate": 1e-3,
    },
}
"""What is killed: every method that trains or searches, as tried on the sandbox."""
LIKE_ANOTHER = ("kto", "rloo", "raft", "trl-sft", "trl-kto", "trl-rloo", "trl-reward", "trl-grpo", "trl")
"""Methods that are led as another one is: they are killed in the long version."""


@pytest.fixture(scope="session")
def faults() -> Faults:
    return Faults()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, faults: Faults):
    """Cells of every method on a base that is loaded once. Its patches end with the file: later ones load their own."""
    import torch

    from alignbench import models
    from alignbench.training import checkpoint, trainer

    from .lab import THREADS, Lab

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path_factory.mktemp("lab"), faults, METHODS)
        from alignbench.worker.run.session import Session

        base = Session(lab.task).base
        patch.setattr(models, "load_base", lambda *_, **__: base)
        patch.setattr(checkpoint, "SHARE", 0)
        step = trainer.Trainer.step

        def counted(self, *args, **more):
            lab.count_step()
            return step(self, *args, **more)

        patch.setattr(trainer.Trainer, "step", counted)
        yield lab
    torch.set_num_threads(before)
