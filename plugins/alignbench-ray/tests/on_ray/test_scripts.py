"""The scripts for Slurm and Kubernetes: they parse, say what this launcher has, and stand in the documentation."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from alignbench_ray import RayConfig

from alignbench.launchers.choose import choose
from alignbench.recipe import yaml

ROOT = Path(__file__).parents[4]
SLURM, KUBERAY = ROOT / "examples/cluster/slurm.sh", ROOT / "examples/cluster/kuberay.yaml"


def settings(command: str) -> list[str]:
    """What a command line sets."""
    words = shlex.split(command)
    return [after for word, after in pairwise(words) if word == "--set"]


def test_the_script_for_slurm_is_a_script_whose_options_exist():
    subprocess.run(["bash", "-n", SLURM], check=True)
    text = SLURM.read_text()
    names = " ".join(re.findall(r"--set \"?(launcher\.\w+)=", text))
    assert set(names.split()) <= {f"launcher.{name}" for name in RayConfig.model_fields}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "symmetric-run", "--help"]
    asked = subprocess.run(ray, capture_output=True, text=True)
    for option in ("--address", "--min-nodes"):
        assert option in text
        assert option in asked.stdout


def test_the_job_for_kubernetes_is_yaml_whose_options_exist():
    job = yaml.parse(KUBERAY.read_text(), str(KUBERAY)).data
    assert (job["kind"], job["apiVersion"]) == ("RayJob", "ray.io/v1")
    command = job["spec"]["entrypoint"]
    assert command.startswith("alignbench run recipe.yaml")
    made = choose("ray", settings(command))
    assert made.config.trust_network
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins


@pytest.mark.parametrize("file", [SLURM, KUBERAY], ids=lambda file: file.name)
def test_the_documentation_shows_the_file(file: Path):
    page = (ROOT / "docs/scale.md").read_text()
    name = file.relative_to(ROOT).as_posix()
    (shown,) = re.findall(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert shown == file.read_text()
