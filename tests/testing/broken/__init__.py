"""Plugins that break a law each; `tests/testing/test_broken.py` says which, and with what sentence they fail."""
