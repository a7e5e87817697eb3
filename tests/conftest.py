"""What all tests share: seeds, the hypothesis profile, and the folder of optional data."""

import os
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A stand-in of the Hugging Face hub on this machine, with a cache of its own."""
    from huggingface_hub import constants

    served = runpy.run_path(str(Path(__file__).with_name("hub_server.py")))["served"]
    with served() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        url = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        yield hub
