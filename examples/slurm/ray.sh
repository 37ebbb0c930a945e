#!/bin/bash
# All cores of many nodes, by Ray:  sbatch examples/slurm/ray.sh survey.py arguments...
#SBATCH --job-name=survey
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=02:00:00
# A Ray cluster that lives as long as the job: its head on the first node, which also runs the program.

set -euo pipefail
: "${1:?give the program: sbatch $0 survey.py}"

cores=${SLURM_CPUS_PER_TASK:-1}
head=$(hostname)
port=$((10000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
export RAY_ADDRESS=$head:$port RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))') # for this job alone
export RAY_AUTH_TOKEN PARAMSURVEY_BACKEND=ray

on() { # node, command...: srun passes the environment on, and with it the token
    srun --nodes=1 --ntasks=1 --cpus-per-task="$cores" --overlap --nodelist="$1" "${@:2}"
}

on "$head" ray start --head --port="$port" --num-cpus="$cores" --include-dashboard=false --block &
until ray status >/dev/null 2>&1; do
    kill -0 $! # or it has ended: then so does this job
    sleep 1
done
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    [ "$node" = "$head" ] || on "$node" ray start --address="$RAY_ADDRESS" --num-cpus="$cores" --block &
done

# Nodes may come when the survey runs already: the number of slots follows. The end of the job ends all of Ray.
python "$@"
