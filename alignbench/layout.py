"""The layout of run folders and of shared artefacts: every file name, once. Imports nothing of the package."""

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
"""The resolved recipe, `alignbench.recipe.plan.Plan`: what every task of the run reads."""
IDENTITY = "identity.txt"
"""A random name, made where a launcher keeps something of the run outside of its folder."""
RESULTS = "results.json"
REPORT = "report.html"
DATA = "data"
"""The prepared table of rows."""
DATA_LOG = "data.log"
EVALUATION = "evaluation"
"""All measurements."""
EVALUATION_LOG = "evaluation.log"
CHAT_LOG = "chat.log"
"""What loading the policies for `chat` printed."""
SWEEP = "sweep"
"""The run of the tuning trials: a run folder of its own."""
TRACKING = "tracking"
"""Files of trackers, a folder for each cell. Not in the cells: a sealed folder must not grow."""
TRACKING_LOCK = ".lock"
"""In TRACKING: held while a cell begins its trackers."""
CELLS = "cells"
MEASUREMENTS = "measurements"
"""What was measured of each cell: a folder for each, as in CELLS."""
JUDGING = "judging"
"""What judges said who read the answers of all labels to some prompts: a folder for each part of the prompts."""
PEOPLE = "people"
"""People's rankings of the answers."""

# DATA: also <split>.parquet and pretraining-<split>.parquet
RECORD = "record.json"
"""Counts and fingerprints of the rows."""

# A cell: cells/<label>/seed-<seed>
CELL = "cell.json"
"""What a finished cell recorded: rows, warnings, judges, departures, cost."""
USED = "used.json"
"""The ids of the rows that a cell used, and of the comparisons whose outcome entered its losses."""
OF_ROWS = "of_rows"
"""In CELL, in the quality of a judge: what it is on each held-out row, by id. Too long for RESULTS."""
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
CHECKPOINT = "checkpoint.json"
"""In a checkpoint: all but its tensors."""
CHECKPOINT_TENSORS = "tensors.safetensors"
STATUS = "status.json"
LOG = "log.txt"

# MEASUREMENTS: <label>/seed-<seed>
VALUES = "values.json"
"""What was measured, by name."""

# JUDGING: part-<number>, with VALUES

# EVALUATION
SUMMARY = "summary.json"
FIGURES = "figures.json"
"""Figures of the metrics, for the report."""
SCORES = "scores.parquet"
"""The score of each judge for each sample."""
PREFERENCES = "preferences.parquet"
"""The preference of each judge for each compared pair of samples."""
PROMPTS = "prompts.jsonl"
"""The evaluation prompts, in order."""

# PEOPLE
DESIGN = "design.json"
"""What is ranked, and in which order each rater sees it."""
JOURNAL = "journal.jsonl"
"""The rankings, one a line, append-only."""
THRESHOLDS = "thresholds.json"
"""Below which quality a rater is left out."""
RANKINGS = "rankings.jsonl"
"""The rankings as rows for training."""
SECRET = "secret"
"""What the links are made from, readable by its owner alone: a link outlives a restart."""

# Shared artefacts, in the store
LEDGER = "ledger.json"
"""What computing an artefact cost."""
LABELLED = "preferences.jsonl"
"""Rows that a judge labelled."""
LABELLING = "labelling.json"
"""How they were labelled."""
AGREEMENT = "people.json"
"""How far a judge that labels agrees with people."""
JUDGE_ANSWER = "answer.json"
"""The answer of a judge behind a server to one question."""
REFERENCE = "reference.safetensors"
"""Log-probabilities of responses under a frozen policy."""
REWARD_MODEL = "reward_model.json"
"""Scale and quality of a reward model, next to its adapter."""
REWARD_HEAD = "reward_head.safetensors"
INSPECTED = "weights.json"
"""What a child process found out about the weights of a model."""

# A calibration, for an estimate
MEASURED = "measured.jsonl"
"""Of a calibration: one line for each part that was measured, or for what failed."""

# The runs of the claims
REGISTERED = "registered.json"
"""The registry of claims, as it was before the first seed."""
EVIDENCE = "evidence-{}.json"
"""What finished runs say of claims, next to the registry; with the fingerprint of the sandbox."""


def cell_name(label: str, seed: int) -> str:
    """Return the name of a cell: `label/seed-0`."""
    return f"{label}/seed-{seed}"


def cell_folder(run: Path, label: str, seed: int) -> Path:
    """Return the folder of a cell in the folder of its run."""
    return run / CELLS / cell_name(label, seed)


def measurements_folder(run: Path, label: str, seed: int) -> Path:
    """Return the folder of what was measured of a cell, in the folder of its run."""
    return run / MEASUREMENTS / cell_name(label, seed)


def judging_folder(run: Path, part: int) -> Path:
    """Return the folder of a part of the prompts, judged, in the folder of its run."""
    return run / JUDGING / f"part-{part}"


def rows_file(split: str) -> str:
    """Return the name of a split's rows in DATA."""
    return f"{split}.parquet"


def texts_file(split: str) -> str:
    """Return the name of a split's pretraining text in DATA."""
    return f"pretraining-{split}.parquet"


def training_log(number: int) -> str:
    """Return the name of the logged numbers of an additional training of a cell, such as a reward model's."""
    return f"train-{number}.jsonl"


def generated(kind: str) -> str:
    """Return the name of the rows that `alignbench generate` writes: preferences or demonstrations."""
    return f"{kind}.jsonl"
