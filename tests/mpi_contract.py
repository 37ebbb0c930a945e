"""The contract, for the MPI backend of the rank 0 that runs it (`test_mpi.py` starts it)."""

from __future__ import annotations

import pytest

from paramsurvey.backends.mpi.backend import open_mpi
from paramsurvey.testing import BackendContract

pytestmark = pytest.mark.timeout(60)


class TestAllRanks(BackendContract):
    can_kill = True

    def make_backend(self):
        return open_mpi({}, None)


class TestOtherRanks(BackendContract):
    can_kill = True

    def make_backend(self):
        return open_mpi({"slots": 2, "driver_slots": 0}, None)
