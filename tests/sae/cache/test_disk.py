"""A disk that is full or cannot be written: one sentence, and the next call continues."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sae.cache import Cache

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("number", "fact"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")],
)
def test_a_full_disk_is_one_sentence_and_can_be_continued(
    write: Callable[..., Cache], tmp_path: Path, number: int, fact: str
) -> None:
    undisturbed = write(out=tmp_path / "undisturbed")
    flush, done = os.fsync, []

    def failing(handle: int) -> None:
        done.append(handle)
        if len(done) > 20:
            raise OSError(number, os.strerror(number))
        flush(handle)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match=f"acts/.* must be writable; {fact}") as caught:
            write()
    assert caught.value.errno == number
    assert any((tmp_path / "acts" / "journal").iterdir())
    assert write().fingerprint == undisturbed.fingerprint
    assert not list((tmp_path / "acts").rglob("*.tmp"))


LIMITED = """
import resource, signal, sys
import torch
from torch import nn
import sae.cache

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
torch.set_num_threads(1)
try:
    sae.cache.write(nn.Sequential(nn.Embedding(9, 64)), [[1] * 100] * 9, "0", sys.argv[1])
except OSError as error:
    print(error)
"""

UNPRIVILEGED = """
import os, sys
import torch
from torch import nn
import sae.cache

model = nn.Sequential(nn.Embedding(9, 4))
os.setgroups([]) if os.getuid() == 0 else None
os.setgid(65534) if os.getuid() == 0 else None
os.setuid(65534) if os.getuid() == 0 else None
try:
    sae.cache.write(model, [[1, 2]], "0", sys.argv[1])
except OSError as error:
    print(error)
"""


def run(script: str, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, out],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    message = run(LIMITED, tmp_path / "acts")
    assert "activations/0/000000.safetensors` must be writable; " in message
    assert message.count("\n") == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_without_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder)
        closed.chmod(0o555)
        message = run(UNPRIVILEGED, closed / "acts")
        assert f"{folder}/acts" in message
        assert "must be writable; permission is denied. Choose a folder that you may" in message
        assert list(closed.iterdir()) == []
        closed.chmod(0o755)


def test_a_folder_below_a_file(write: Callable[..., Cache], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="must be writable; a part of the path is a file"):
        write(out=tmp_path / "file" / "acts")
