#!/bin/bash
# Many prompts as a Slurm array: each task makes its share of a file of prompts.
#
#     sbatch --array=1-100 experiments/slurm_array.sh prompts.txt --seeds 0 1 2 3
#
# What follows the file goes to experiments.run. Two minutes before its time is up a task is told
# to save and ends; the same sbatch command goes on with what is left, and skips what is finished.
# Without Slurm: SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2 bash experiments/slurm_array.sh ...
#SBATCH --job-name=dreamfusion-jax
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -eu
prompts=${1:?name a file with a prompt a line}
shift
task=${SLURM_ARRAY_TASK_ID:?start it with sbatch --array=1-N, or set the number of the task}
count=${SLURM_ARRAY_TASK_COUNT:?set the number of tasks}
share=$((task - ${SLURM_ARRAY_TASK_MIN:-1} + 1))
# In the place of this shell, so that the signal reaches it.
exec "${PYTHON:-python}" -m experiments.run \
    --prompts-file "$prompts" --shard "$share/$count" "$@"
