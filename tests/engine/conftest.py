"""A distribution of methods that misbehave, installed the way pip would leave it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

METHODS = '''
import ctypes
import os
import subprocess
import sys
import time

from alignbench import Method, Run


class Raises(Method):
    api = 2

    def align(self, run: Run):
        raise ValueError("no such luck")


class Segfaults(Method):
    api = 2

    def align(self, run: Run):
        ctypes.string_at(0)


class Vanishes(Method):
    api = 2

    def align(self, run: Run):
        os._exit(0)


class Starves(Method):
    api = 2

    def align(self, run: Run):
        raise MemoryError


class Chats(Method):
    """Prints where it can, leaves a process behind, and returns no policy."""

    api = 2

    def align(self, run: Run):
        print("noise on stdout")
        os.system("echo noise from a child")
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "alignbench-test-orphan"])
        return "a policy"


class Meddles(Method):
    """Turns every switch it can reach, and draws from every global source."""

    api = 2

    def align(self, run: Run):
        import random

        import numpy as np
        import torch

        (run.folder / "drawn.txt").write_text(f"{random.random()} {np.random.rand()} {torch.rand(()).item()}")
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        return run.start


class Hangs(Method):
    """Does nothing for ever, and ignores every signal it can."""

    api = 2

    def align(self, run: Run):
        (run.folder / "started").touch()
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                pass


class Good(Method):
    """Returns its start, slowly enough to be killed."""

    api = 2

    def align(self, run: Run):
        (run.folder / "started").touch()
        time.sleep(float(os.environ.get("SLOW", "0")))
        return run.start
'''


@pytest.fixture(scope="session")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the distribution: put it on PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    (site / "misbehaving.py").write_text(METHODS)
    info = site / "alignbench_misbehaving-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alignbench-misbehaving\nVersion: 1.0\n")
    (info / "RECORD").write_text("misbehaving.py,,\n")
    names = ("Raises", "Segfaults", "Vanishes", "Starves", "Chats", "Meddles", "Hangs", "Good")
    points = "\n".join(f"{name.lower()} = misbehaving:{name}" for name in names)
    (info / "entry_points.txt").write_text(f"[alignbench.methods]\n{points}\n")
    return site


RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 48, max_length: 128}
training: {threads: 1, batch: 8}
evaluation: {prompts: 6, sampling: {max_new_tokens: 8}, judges: [gold], metrics: [reward, length]}
methods:
"""


class Session:
    """Runs recipes in a process of its own, as a user does."""

    def __init__(self, folder: Path, site: Path):
        self.folder = folder
        self.env = {**os.environ, "PYTHONPATH": str(site), "ALIGNBENCH_HOME": str(folder / "home")}

    def recipe(self, methods: str, name: str = "recipe") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(RECIPE + textwrap.indent(textwrap.dedent(methods), "  "))
        return path

    def start(self, recipe: Path, out: str, *options: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from alignbench.cli import app; app()"]
        return subprocess.Popen(
            [*command, "run", str(recipe), "--out", str(self.folder / out), *options],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, recipe: Path, out: str, *options: str, **env: str) -> tuple[int, str]:
        """Return the exit code and all that was printed."""
        process = self.start(recipe, out, *options, **env)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, misbehaving: Path) -> Session:
    return Session(tmp_path_factory.mktemp("session"), misbehaving)
