#!/bin/bash
#SBATCH --job-name=alignbench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
# A comparison on the nodes of one Slurm job: sbatch examples/cluster/slurm.sh recipe.yaml
# The same command goes on where the time ran out: finished cells are kept, and checkpoints are in STORAGE.
set -euo pipefail

recipe=$1
storage=${STORAGE:-$PWD/checkpoints} # a folder that every node reaches
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):${PORT:-6379}

# Anyone who can reach a Ray cluster can run code on it: the partition's network has to be private.
srun --kill-on-bad-exit=0 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-1}" -- \
    alignbench run "$recipe" --launcher ray --set "launcher.address=$address" \
    --set launcher.trust_network=true --set "launcher.storage=$storage"
