"""Files appear complete or not at all, and a changed byte is refused."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsecode import io


def test_json_round_trip(tmp_path):
    value = {"a": 1, "b": [1.5, None, True], "c": {"text": "naive \u00e9"}, "x": float("inf")}
    io.write_json(tmp_path / "deep" / "a.json", value)
    assert io.read_json(tmp_path / "deep" / "a.json") == value


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_tensors_round_trip(tmp_path, dtype):
    tensors = {
        "a": torch.arange(6).reshape(2, 3).to(dtype),
        "view": torch.arange(6).reshape(2, 3).to(dtype).t(),
    }
    digest = io.save_tensors(tmp_path / "a.safetensors", tensors)
    loaded = io.load_tensors(tmp_path / "a.safetensors", sha256=digest)
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == dtype for name in tensors
    )


def test_every_flipped_or_missing_byte_of_a_json_file_is_refused(tmp_path):
    path = tmp_path / "a.json"
    io.write_json(path, {"step": 3, "name": "x", "list": [1, 2.5]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        ):
            path.write_bytes(damaged)
            with pytest.raises(io.CorruptFileError, match="must hold exactly what was written"):
                io.read_json(path)


def test_damaged_tensor_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    digest = io.save_tensors(path, {"a": torch.arange(100.0)})
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 100):
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :],
        ):
            path.write_bytes(damaged)
            with pytest.raises(io.CorruptFileError, match="SHA-256"):
                io.load_tensors(path, sha256=digest)
    path.write_bytes(whole[:50])
    with pytest.raises(io.CorruptFileError, match="not a complete safetensors file"):
        io.load_tensors(path)


def test_a_pickle_is_not_opened(tmp_path):
    """A file that would run code when unpickled is just bytes that are not safetensors."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "a.safetensors")
    with pytest.raises(io.CorruptFileError):
        io.load_tensors(tmp_path / "a.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.bin"
    io.write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="in the middle"), io.atomic_file(path) as file:  # noqa: PT012
        file.write(b"new, half")
        raise RuntimeError("in the middle")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_missing_files_and_wrong_places_get_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="must exist; there is no such file"):
        io.read_json(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="must be a file; got a folder"):
        io.load_tensors(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        OSError, match=r"must be writable; a part of the path is a file. Choose another folder."
    ):
        io.write_bytes(tmp_path / "file" / "below", b"x")
    with pytest.raises(ValueError, match="reserved key"):
        io.write_json(tmp_path / "a.json", {io.CHECKSUM: 1})


@pytest.mark.parametrize(
    ("number", "fact"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "Input/output"),
    ],
)
def test_the_system_error_becomes_one_sentence(tmp_path, number, fact):
    with (
        pytest.raises(OSError, match=rf"`.*a` must be writable; {fact}.*\. ") as caught,
        io.atomic_file(tmp_path / "a"),
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())


def test_a_full_disk_gets_one_sentence(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    with (  # noqa: PT012  the failing write happens inside the block
        pytest.raises(OSError, match="the disk is full") as caught,
        io.atomic_file(tmp_path / "a") as file,
    ):
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        file.write(b"never reached")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with io.only_writer(tmp_path / "a" / "b"):
        with (
            pytest.raises(BlockingIOError, match="must have one writer at a time; another one is"),
            io.only_writer(tmp_path / "a" / "b"),
        ):
            pass
        (tmp_path / "a" / "kept").write_text("")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["kept"]
    with io.only_writer(tmp_path / "a" / "b"):
        pass


def test_the_lock_of_a_killed_writer_is_gone(tmp_path):
    script = (
        "import os, signal, sys; from sparsecode import io\n"
        "with io.only_writer(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with io.only_writer(tmp_path / "a"):
        pass
