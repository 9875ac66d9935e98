#!/usr/bin/env bash
# Takes every figure that rests on the sandbox again, after a change of its fingerprint: benchmarks/proofs/retake.sh [OUT]
#
# Runs are resumed: the same command goes on where it was stopped. Several hours on two cores. The figures that pages
# quote by hand are listed in docs/sandbox.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs}
proofs=benchmarks/proofs
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1

proof() { # NAME RUN...: the script NAME on finished runs; a claim that fails there stops nothing here
    python "$proofs/$1.py" "${@:2}" || echo "retake: $1 says no" >&2
}

# How the shipped settings were chosen, and whether the ruler is long enough.
alignbench run "$proofs/tuning.yaml" --out "$out/tuning"
proof tuning "$out/tuning"
alignbench run "$proofs/tuning_beyond.yaml" --out "$out/tuning-beyond"
proof tuning --beyond "$out/tuning-beyond"
alignbench run recipes/quickstart.yaml --out "$out/ruler" --set 'seeds=[0,1,2,3,4]'
proof sandbox_ruler "$out/ruler"
proof quickstart_seeds "$out/ruler"
alignbench run recipes/quickstart.yaml --out "$out/quickstart"
proof quickstart "$out/quickstart"
measured=$proofs/sandbox_measure.json
for model in base early middle; do python -m alignbench.sandbox.measure --model "$model" --json "$measured"; done
python -m alignbench.sandbox.measure --adapter "$out/quickstart/cells/sft/seed-0/policy" --json "$measured" --name sft

# The pages of the methods.
alignbench run "$proofs/rlhf_ptx.yaml" --out "$out/ptx"
proof rlhf_ptx "$out/ptx"
proof rlhf_vs_sft "$out/ptx"
alignbench run "$proofs/equal_flops_tuning.yaml" --out "$out/equal-flops-tuning" --only sft
proof equal_flops_tuning "$out/equal-flops-tuning"
alignbench run "$proofs/equal_flops.yaml" --out "$out/equal-flops"
proof equal_flops "$out/equal-flops"
alignbench run "$proofs/defaults.yaml" --out "$out/defaults"
alignbench run "$proofs/defaults_tuning.yaml" --out "$out/defaults-tuning"
proof defaults "$out/defaults" "$out/defaults-tuning"
alignbench run "$proofs/sft_by_reward.yaml" --out "$out/epochs"
proof sft_by_reward "$out/epochs"
alignbench run "$proofs/rlaif_labels.yaml" --out "$out/labels"
proof rlaif_labels "$out/labels"
alignbench run "$proofs/rlaif_weaker.yaml" --out "$out/weaker"
proof rlaif_labels "$out/weaker" --to "$proofs/rlaif_weaker.json"
alignbench run "$proofs/rlaif_revisions.yaml" --out "$out/revisions"
proof rlaif_revisions "$out/revisions"
alignbench run "$proofs/rain_search.yaml" --out "$out/rain"
for model in early middle; do
    alignbench run "$proofs/rain_search.yaml" --out "$out/rain-$model" --set "model.id=sandbox/$model" \
        --only rain --only oracle
done
proof rain_search "$out/rain" "$out/rain-early" "$out/rain-middle"

# Fairness, costs and claims.
python "$proofs/budgets.py" "$out/budgets"
alignbench run recipes/claims/aa.yaml --out "$out/aa"
proof aa "$out/aa"
OMP_NUM_THREADS=1 python benchmarks/rain.py
python benchmarks/trainer_vs_trl.py | tee "$proofs/trainer_vs_trl.txt"
python benchmarks/groups_vs_trl.py --pairs 2 | tee "$proofs/groups_vs_trl.txt"
python benchmarks/forecast.py recipes/quickstart.yaml | tee "$proofs/forecast.txt"
python benchmarks/judge.py --prompts 25 --answers 4
python benchmarks/judge.py --prompts 25 --answers 4 --rubric
python benchmarks/evaluation.py "$out/quickstart"
for registry in recipes/claims recipes/claims/follow-up recipes/claims/more-data; do
    alignbench claims "$registry" --jobs 1
    alignbench claims "$registry" --jobs 1 --replicate
done
