"""The command `doctor`: whether this machine can run a comparison, and what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignbench.cli.shell import print_json, show_table
from alignbench.errors import Exit

if TYPE_CHECKING:
    from alignbench import plugins

FREE_BYTES = 5 << 30
"""Free disk space below which a run of a small model may not fit."""

# Runs in a separate process: importing torch takes seconds and, on CUDA, device memory.
_ASK_TORCH = """
import json, torch
import bitsandbytes
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "torch": torch.__version__,
    "devices": [f"{d.name}, {d.total_memory / 2**30:.0f} GiB" for d in devices],
    "memory": [d.total_memory for d in devices],
    "cpu": torch.backends.cpu.get_cpu_capability(),
}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    state: Literal["good", "note", "bad"]
    message: str


def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A hub id or a local folder, to load as a base.")
    ] = None,
    quantization: Annotated[
        Literal["nf4", "fp4", "int8", "none"], typer.Option(help="How the model's weights are stored.")
    ] = "nf4",
    chat_template: Annotated[
        str | None, typer.Option(help="The file of a chat template, for a model that has none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: Python, libraries, devices, disk, network mode, plugins; and a model, where one is named.

    The model is loaded as a run loads its base. Shown are the fast paths that fit it, and its quantised and adapted
    weights.
    """
    findings = [*_python(), *_libraries(), *_torch(), *_disk(), *_network(), *_plugins()]
    if model is not None:
        findings += _model(model, quantization, chat_template)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        show_table(("", "", ""), ((one.name, one.state, one.message) for one in findings))
    raise typer.Exit(Exit.FAILED if any(one.state == "bad" for one in findings) else Exit.DONE)


def _python() -> Iterator[Finding]:
    import platform

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("python", "good", f"{platform.python_version()} on {platform.system()}, {cores} cores")


def _libraries() -> Iterator[Finding]:
    """Check the requirements of the package."""
    from importlib import metadata

    from packaging.requirements import Requirement

    for requirement in metadata.requires("alignbench") or ():
        needed = Requirement(requirement)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding(needed.name, "bad", f"not installed; pip install '{requirement}'")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield Finding(
                needed.name, "bad", f"version {version} is not supported; pip install '{requirement}'"
            )
        elif needed.name in ("torch", "transformers", "peft", "bitsandbytes", "trl", "datasets"):
            yield Finding(needed.name, "good", version)


def ask_torch() -> subprocess.CompletedProcess[str]:
    """Return what torch reports about this machine, from a separate process."""
    return subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)


def device_memory() -> tuple[str, int, bool]:
    """Return the name of the device that cells run on, its memory in bytes, and whether cells share it."""
    asked = ask_torch()
    found = json.loads(asked.stdout.strip().splitlines()[-1]) if asked.returncode == 0 else {"memory": []}
    if found["memory"]:
        return found["devices"][0], int(found["memory"][0]), False
    from alignbench.models.forward.memory import machine

    whole = machine()
    return f"CPU, {whole / 2**30:.0f} GiB", whole, True


def _torch() -> Iterator[Finding]:
    asked = ask_torch()
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("devices", "bad", f"torch or bitsandbytes cannot be imported: {last}")
        return
    found = json.loads(asked.stdout.strip().splitlines()[-1])
    if found["devices"]:
        yield Finding("devices", "good", "; ".join(found["devices"]))
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "devices", "bad", f"a driver is installed, but torch {found['torch']} finds no CUDA device"
        )
    else:
        yield Finding("devices", "note", f"no CUDA device: cells run on the CPU ({found['cpu']})")


def _disk() -> Iterator[Finding]:
    from alignbench.store import default_root

    for what, folder in (("disk of runs", Path.cwd()), ("disk of the store", default_root())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        state = "bad" if not writable else "note" if free < FREE_BYTES else "good"
        yield Finding(
            what, state, f"{free / 2**30:.0f} GiB free{'' if writable else ', not writable'}: {folder}"
        )


def _network() -> Iterator[Finding]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    mode = (
        "offline: hub ids must be in the local cache" if offline else "online (HF_HUB_OFFLINE=1 turns it off)"
    )
    yield Finding("hub", "note" if offline else "good", mode)


def _model(id: str, quantization: str, chat_template: str | None) -> Iterator[Finding]:
    """Load a model as a base, in a separate process, and report what was found."""
    from alignbench import results
    from alignbench.errors import ModelError
    from alignbench.models.weights import child
    from alignbench.recipe.schema import Model
    from alignbench.report.text import weights

    fields = {"id": id, "quantization": quantization, "chat_template": chat_template}
    try:
        found = results.Model(**child.loaded(Model.model_validate(fields), Path()))
    except ModelError as error:
        yield Finding("model", "bad", str(error))
        return
    yield Finding(
        "weights", "good" if found.shares["quantised"] or quantization == "none" else "note", weights(found)
    )
    if not found.slower:
        yield Finding("fast paths", "good", "every one gives the numbers of the model's plain forward")
    for note in found.slower:
        yield Finding("slower path", "note", note)


def _plugins() -> Iterator[Finding]:
    from alignbench import plugins

    for wrong in plugins.unusable():
        yield Finding("plugins", "bad", wrong)
    for distribution in sorted({one.distribution for group in plugins.GROUPS for one in _all(group)}):
        for lacking in () if distribution == "alignbench" else plugins.unmet(distribution):
            yield Finding("plugins", "bad", f"{distribution} requires {lacking}")
    for group in plugins.GROUPS:
        broken = {found: reason for found in _all(group) if (reason := plugins.reason_broken(found))}
        known = plugins.installed(group)
        usable = [name for name, found in known.items() if not broken.keys() >= {found, *found.rivals}]
        yield Finding(group, "good", ", ".join(usable) or "none")
        for reason in broken.values():
            yield Finding(group, "bad", reason)
        for found in known.values():
            if found.rivals:
                both = " and ".join(str(one) for one in (found, *found.rivals))
                yield Finding(group, "note", f"'{found.name}' comes from {both}")


def _all(group: plugins.Group) -> Iterator[plugins.Found]:
    from alignbench import plugins

    for found in plugins.installed(group).values():
        yield from (found, *found.rivals)
