"""Published benchmarks on 4-bit policies, and lm-evaluation-harness's own word on the same base, item by item.

    python benchmarks/proofs/published.py FOLDER --out runs/published

FOLDER holds the published files as their authors name them: truthfulqa/mc_task.json, crows_pairs, winogender,
gsm8k, xquad_en, ifeval, xstest, advbench, decodingtrust. Runs published.yaml on them, then gives the base to the
harness in its own way: its class for transformers around the network, its own task files with local data, one
request at a time. Nothing of this project lies between, but for the network's 4-bit weights and the items of
TruthfulQA, Winogender and XQuAD, which the harness expects in another shape than their authors' files. Writes the
figures, and how far the two ways differ, into published.json next to this file, under the name given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from alignbench import results
from alignbench.api.metric import Cell
from alignbench.commands.open_run import reopen
from alignbench.metrics.harness import GENERATED, TASKS, Harness, policy_model, run_task
from alignbench.sandbox import FINGERPRINT
from alignbench.worker.finished.cells import FinishedCells
from alignbench.worker.finished.evidence import RunEvidence

HERE = Path(__file__).parent
BASE = Cell("base", 0)
OWN_FILES = {"crows_pairs": "csv", "gsm8k": "json", "translation": "json"}
"""Tasks whose published file the harness reads as it is."""
COLUMNS = ("harness", "ifeval", "refusal.xstest", "attack.advbench", "choice_entropy", "toxicity")


def run(folder: Path, out: Path, more: Sequence[str]) -> None:
    """Run the recipe on the files in `folder`, or go on with it."""
    copied = out.with_name(f"{out.name}-recipe")
    copied.mkdir(parents=True, exist_ok=True)
    for name in ("published.yaml", "published_pairs.jsonl"):
        shutil.copy(HERE / name, copied)
    link = copied / "published"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve(), target_is_directory=True)
    program = str(Path(sys.executable).with_name("alignbench"))
    subprocess.run(
        [program, "run", str(copied / "published.yaml"), "--out", str(out), "--jobs", "1", *more], check=True
    )


def figures(record: results.Results) -> dict[str, dict[str, Any]]:
    """Return every column of a published benchmark: each label's figure, or why there is none."""
    found: dict[str, dict[str, Any]] = {}
    for label in record.labels:
        for name, one in label.metrics.items():
            if name.startswith(COLUMNS):
                figure = f"n/a: {one.missing}" if one.value is None else {"value": one.value, "n": one.n}
                found.setdefault(name, {})[label.label] = figure
    return found


def own_way(
    base: Any, harness: Harness, task: str, root: Path, longest: int, work: Path
) -> dict[int, dict[str, Any]]:
    """Return what the harness says of each item by itself: its own model class, task file and reader."""
    import lm_eval.tasks
    import yaml
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    name = task.partition("_mc")[0]
    documents = harness.documents(task, root)
    kind, file = OWN_FILES.get(name, "json"), root / getattr(harness.config, name)
    if name not in OWN_FILES:
        file = work / f"{task}.jsonl"
        file.write_text("".join(f"{json.dumps(one)}\n" for one in documents), encoding="utf-8")
    shipped, split, _ = TASKS[task]
    shipped = Path(lm_eval.tasks.__file__).parent / shipped
    config: dict[str, Any] = {"include": str(shipped)}
    if task == "xquad":
        # The harness's own figures need a part of transformers that version 5 no longer has: answers alone.
        config = dict(load_yaml(shipped, resolve_func=False))
        del config["process_results"], config["tag"]
        config |= {"test_split": None, "metric_list": [{"metric": "exact_match"}]}
    config |= {
        "task": f"own_{task}",
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file)}, "cache_dir": str(work / "cache")},
        "num_fewshot": 0,
        "training_split": None,
        "fewshot_split": None,
    }
    if split != "validation":
        config["validation_split"] = None
    if task == "translation":
        source, target = harness.config.languages
        config |= {"doc_to_text": f"{source} phrase: {{{{source}}}}\n{target} phrase:"}
        config |= {"doc_to_target": " {{target}}", "metric_list": [{"metric": "bleu"}]}
    (work / f"{task}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    wrap: Any = HFLM
    evaluated: Any = simple_evaluate(
        model=wrap(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1),
        tasks=[f"own_{task}"],
        task_manager=TaskManager(include_path=str(work), include_defaults=False),
        limit=len(documents),
        gen_kwargs={"max_gen_toks": longest} if task in GENERATED else None,
        log_samples=True,
        bootstrap_iters=0,
    )
    return {one["doc_id"]: one for one in evaluated["samples"][f"own_{task}"]}


def apart(task: str, ours: Mapping[int, Any], theirs: Mapping[int, Any]) -> dict[str, Any]:
    """Return how far two ways differ on the same items."""
    assert list(ours) == sorted(theirs)
    found: dict[str, Any] = {"items": len(ours)}
    if task in GENERATED:
        texts = [(one["resps"][0][0], theirs[item]["resps"][0][0]) for item, one in ours.items()]
        found["equal answers"] = sum(a == b for a, b in texts)
        found["different"] = [list(pair) for pair in texts if pair[0] != pair[1]][:3]
        return found
    sums = [
        [[float(value[0]) for value in one[item]["filtered_resps"]] for one in (ours, theirs)]
        for item in ours
    ]
    gaps = [abs(a - b) for mine, own in sums for a, b in zip(mine, own, strict=True)]
    found |= {
        "log-likelihoods": len(gaps),
        "largest": max(max(map(abs, own)) for _, own in sums),
        "largest difference": max(gaps),
        "further apart than 1e-3": sum(gap > 1e-3 for gap in gaps),
    }
    for figure in TASKS[task][2]:
        found[f"{figure}, largest difference"] = max(
            abs(float(ours[item][figure]) - float(theirs[item][figure])) for item in ours
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument(
        "--name", default="the sandbox's base", help="under what the figures stand in the file"
    )
    given, more = parser.parse_known_args()
    run(given.folder, given.out, more)
    record = results.read(given.out)
    session = reopen(given.out.resolve(), 1)
    (named,) = [one for one in session.recipe.evaluation.metrics if one.name == "harness"]
    harness = Harness(Harness.Config(**named.config))
    finished = FinishedCells(session, [BASE], lambda event: None)
    evidence = RunEvidence(finished, {BASE.label: record.temperature(BASE.label)})
    model = policy_model(evidence, BASE, harness.config.max_new_tokens)
    columns, found = figures(record), {}
    for task in harness.tasks():
        documents = harness.documents(task, session.root)
        began = time.perf_counter()
        ours = run_task(model, task, documents, harness.config.languages)
        between = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            theirs = own_way(
                session.base, harness, task, session.root, harness.config.max_new_tokens, Path(work)
            )
        found[task] = apart(task, ours, theirs) | {
            "seconds": round(between - began, 1),
            "seconds of its own way": round(time.perf_counter() - between, 1),
        }
        for figure, (end, _) in TASKS[task][2].items():
            if figure != "bleu":  # of the corpus, no mean of items
                mean = fmean(float(one[figure]) for one in ours.values())
                assert abs(columns[f"harness.{task}{end}"]["base"]["value"] - mean) < 1e-5
        print(task, json.dumps(found[task]), flush=True)
    entry = {
        "figures": columns,
        "base against lm-evaluation-harness's own way": found,
    }
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known["sandbox"] = FINGERPRINT
    known[given.name] = entry
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
