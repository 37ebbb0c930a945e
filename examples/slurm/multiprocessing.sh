#!/bin/bash
# All cores of one node:  sbatch examples/slurm/multiprocessing.sh survey.py arguments...
#SBATCH --job-name=survey
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@120
# The last line is a Ctrl-C two minutes before the end: the program gets paramsurvey.Interrupted, whose results have what
# was finished.

set -euo pipefail
: "${1:?give the program: sbatch $0 survey.py}"

# Slurm binds this job to its cores, and paramsurvey uses the cores to which it is bound. `exec`, so that the signal
# reaches the program.
export PARAMSURVEY_BACKEND=multiprocessing
exec python "$@"
