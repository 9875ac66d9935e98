"""The layout of a run folder: every name in it, once. Imports nothing of the package."""

from __future__ import annotations

from pathlib import Path

# The run folder.
RECIPE_TEXT = "recipe.yaml"
"""The recipe file as it was read."""
RECIPE = "recipe.json"
"""The checked recipe with all defaults, in canonical JSON."""
ENVIRONMENT = "environment.json"
"""Digests of the files that the recipe names, and every environment in which a part of the run was made."""
ORIGIN = "origin.json"
"""The folder of the recipe file: its relative paths start there."""
PLAN = "plan.json"
"""The cells in order."""
RESULTS = "results.json"
REPORT = "report.html"
DATA = "data"
"""The prepared table of rows."""
DATA_LOG = "data.log"
EVALUATION = "evaluation"
"""All measurements."""
EVALUATION_LOG = "evaluation.log"
SWEEP = "sweep"
"""The run of the tuning trials: a run folder of its own."""
MEASURED = "measured.jsonl"
"""Of a calibration: one line for each part that was measured, or for what failed."""
TRACKING = "tracking"
"""Files of trackers, a folder for each cell. Not in the cells: a sealed folder must not grow."""
CELLS = "cells"
PEOPLE = "people"
"""What people said of the answers: design and journal of the labelling."""

# DATA
RECORD = "record.json"
"""Counts and fingerprints of the rows."""

# A cell: cells/<label>/seed-<seed>
CELL = "cell.json"
"""What a finished cell recorded: rows, warnings, judges, departures, cost."""
POLICY = "policy"
"""The saved policy."""
POLICY_KIND = "policy.json"
"""In POLICY: how to rebuild it."""
SAMPLES = "samples.parquet"
"""The answers to the evaluation prompts."""
TUNING_SAMPLES = "tuning.parquet"
"""The answers to the validation prompts that choose the sampling temperature."""
TRAINING_LOG = "train.jsonl"
"""The logged numbers: the means of up to ten steps a line."""
LEARNING_CURVE = "learning_curve.jsonl"
"""Answers during training, one a line."""
CHECKPOINTS = "checkpoints"
"""Unfinished trainings; also the name of their folder in the store."""
STATUS = "status.json"
LOG = "log.txt"

# EVALUATION
SUMMARY = "summary.json"
PICTURES = "pictures.json"
"""Figures of the metrics, for the report."""
JUDGEMENTS = "judgements.parquet"
"""The score of each judge for each sample."""
VERDICTS = "verdicts.parquet"
"""The preference of each judge for each compared pair of samples."""
PROMPTS = "prompts.jsonl"
"""The evaluation prompts, in order."""


def cell_name(label: str, seed: int) -> str:
    """Return the name of a cell: `label/seed-0`."""
    return f"{label}/seed-{seed}"


def cell_folder(run: Path, label: str, seed: int) -> Path:
    """Return the folder of a cell in the folder of its run."""
    return run / CELLS / cell_name(label, seed)
