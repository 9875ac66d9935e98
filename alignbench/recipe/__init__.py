"""The recipe: its schema, its YAML, its checks, and how its labels depend on each other."""
