"""The libraries that alignbench uses send no usage data, unless a user wants it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
ASK = "import alignbench; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"


@pytest.mark.parametrize(
    ("message", "off"), [({}, True), ({"HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}, False)]
)
def test_the_hub_library_is_silent_where_nobody_says_otherwise(message: dict[str, str], off: bool) -> None:
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    ran = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env={**env, **message}
    )
    assert ran.stdout == f"{off}\n"
