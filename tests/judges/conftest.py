"""Fixtures of the tests of judges."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
