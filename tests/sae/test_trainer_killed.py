"""A run that is killed with SIGKILL and resumed ends like one that was not, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1200)  # a hundred processes, on a machine that may be busy
SCRIPT = Path(__file__).with_name("killed_runs.py")


@pytest.fixture(scope="module")
def found(in_memory: Path) -> dict[str, dict[str, int]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, str(SCRIPT), str(in_memory)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kills_at_random_moments(found):
    moments = found["moments"]
    assert moments["killed"] == 20
    assert moments["same"] == moments["killed"] + moments["ended before"]


def test_kills_while_files_are_written(found):
    touches = found["touches"]
    assert touches["killed"] >= 30
    assert touches["same"] == touches["ended"] >= 1
