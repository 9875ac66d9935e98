"""What we depend on tells its makers nothing, unless a user wants it to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
ASK = "import alignbench; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"


@pytest.mark.parametrize(
    ("said", "off"), [({}, True), ({"HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}, False)]
)
def test_the_hub_library_is_silent_where_nobody_says_otherwise(said: dict[str, str], off: bool) -> None:
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    ran = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env={**env, **said}
    )
    assert ran.stdout == f"{off}\n"
