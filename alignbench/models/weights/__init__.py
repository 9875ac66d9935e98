"""A model before it computes: its files, its layers, how they are quantised and adapted."""
