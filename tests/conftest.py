"""What all tests share: seeds, the hypothesis profile, and the folder of optional data."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples on every run, and no deadline: a slow machine is not a failed property.
settings.register_profile("sparsecode", deadline=None, derandomize=True)
settings.load_profile("sparsecode")


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts() -> None:
    """Undo what a shell does to background commands: they and their children ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sparsecode_data() -> Path:
    """Folder named by SPARSECODE_DATA: real data too large, or not free enough, to ship."""
    folder = os.environ.get("SPARSECODE_DATA")
    if not folder:
        pytest.skip("SPARSECODE_DATA is not set: it names the folder of optional test data")
    if not Path(folder).is_dir():
        pytest.skip(f"SPARSECODE_DATA={folder} is not a folder")
    return Path(folder)
