"""Training: the trainer that every gradient method shares, its budget, its checkpoints, and reward models."""
