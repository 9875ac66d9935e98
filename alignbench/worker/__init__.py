"""The child process: one task of a run, alone with its memory, its log and its end; `tasks/` has each kind."""
