"""The child process: one task of a run (prepare, cell, evaluate), alone with its memory, its log and its end."""
