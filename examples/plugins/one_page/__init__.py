"""Plugins of one page each."""
