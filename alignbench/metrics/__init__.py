"""The built-in metrics, and how their values per prompt become comparisons."""
