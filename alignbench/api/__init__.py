"""Every contract a plugin author reads. Nothing here loads torch, and nothing here does work."""
