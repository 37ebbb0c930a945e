#!/bin/bash
# All cores of many nodes, by MPI:  sbatch examples/slurm/mpi.sh survey.py arguments...
#SBATCH --job-name=survey
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=02:00:00
# One rank for each node, which runs a worker process for each of its cores.

set -euo pipefail
: "${1:?give the program: sbatch $0 survey.py}"

# --cpus-per-task is repeated because srun has not inherited it since Slurm 22.05; without binding, a rank has all of
# them. The kind of --mpi is that of the library which mpi4py was built for; `srun --mpi=list` tells which there are. With
# the MPI of a wheel (pip install mpich), its own launcher does instead of srun: mpiexec -ppn 1 python -m paramsurvey.mpi
exec srun --mpi="${SLURM_MPI_TYPE:-pmi2}" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --cpu-bind=none \
    --kill-on-bad-exit=1 python -m paramsurvey.mpi "$@"
