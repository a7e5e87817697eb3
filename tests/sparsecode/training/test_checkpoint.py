import json
from pathlib import Path

import pytest
import torch

from sparsecode import io
from sparsecode.training import RunFolder
from sparsecode.training.checkpoint import CHECKPOINT, CONFIG, METRICS, STATE

IDENTITY = {"train": {"seed": 0, "betas": (0.9, 0.999), "device": "cpu"}, "data": {"n_rows": 3}}
LOG = {"bytes": 0, "sha256": "0"}


def tensors(fill: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), fill), "b": torch.arange(4)}


def begun(path: Path, identity=IDENTITY, **how) -> RunFolder:
    folder = RunFolder(path, identity, **how)
    folder.begin()
    return folder


def save(folder: RunFolder, fill: float) -> None:
    folder.begin()
    folder.save(tensors(fill), {"step": int(fill)}, {"scale": 0.1 + fill}, LOG)


def test_what_is_saved_is_read_back(tmp_path):
    folder = RunFolder(tmp_path / "run", IDENTITY)
    assert folder.checkpoint is None
    save(folder, 1.0)
    save(folder, 2.0)
    again = RunFolder(tmp_path / "run", IDENTITY, resume=True)
    assert again.run_id == folder.run_id
    assert torch.equal(again.checkpoint.tensors["a"], tensors(2.0)["a"])
    assert again.checkpoint.numbers == {"step": 2}
    assert again.checkpoint.constants == {"scale": 2.1}
    assert again.checkpoint.log == LOG


def test_one_checkpoint_is_kept_and_leftovers_go(tmp_path):
    folder = RunFolder(tmp_path, IDENTITY)
    save(folder, 1.0)
    (tmp_path / CHECKPOINT / ".state.json.abc.tmp").write_text("killed here")
    (tmp_path / CHECKPOINT / "new.safetensors").write_text("or here")
    (tmp_path / ".config.json.abc.tmp").write_text("or here")
    save(folder, 2.0)
    assert len(list((tmp_path / CHECKPOINT).iterdir())) == 2
    begun(tmp_path, resume=True)
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_same_state_can_be_saved_twice(tmp_path):
    folder = RunFolder(tmp_path, IDENTITY)
    save(folder, 1.0)
    save(folder, 1.0)
    assert RunFolder(tmp_path, IDENTITY, resume=True).checkpoint.numbers == {"step": 1}


def test_a_folder_with_a_run_is_not_taken(tmp_path):
    folder = begun(tmp_path)
    with pytest.raises(FileExistsError, match=r"must be new or empty; .* holds a run. Use"):
        RunFolder(tmp_path, IDENTITY)
    save(folder, 7.0)
    with pytest.raises(FileExistsError, match=r"a run saved at step 7. Use fit\(resume=True\)"):
        RunFolder(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match=r"`resume` and `overwrite` must not both be True"):
        RunFolder(tmp_path, IDENTITY, resume=True, overwrite=True)


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    save(RunFolder(tmp_path, IDENTITY), 7.0)
    (tmp_path / METRICS).write_text("{}\n")
    (tmp_path / "notes.txt").write_text("mine")
    folder = RunFolder(tmp_path, {"data": {"n_rows": 4}}, overwrite=True)
    assert (tmp_path / CHECKPOINT).is_dir()  # not before the new run begins
    folder.begin()
    assert folder.checkpoint is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, "notes.txt"]


@pytest.mark.parametrize("how", [{}, {"overwrite": True}])
def test_what_is_no_run_is_not_touched(tmp_path, how):
    (tmp_path / CONFIG).write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match=r"hold a training run; .*config.json is something"):
        RunFolder(tmp_path, IDENTITY, **how)
    (tmp_path / CONFIG).unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds model and no config.json of a run"):
        RunFolder(tmp_path, IDENTITY, **how)
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_the_config_of_something_else_is_not_resumed(tmp_path):
    io.write_json(tmp_path / CONFIG, {"format": "sparsecode.sae", "format_version": 1})
    with pytest.raises(
        ValueError, match=r"must be of format sparsecode.run version 1; got 'sparsec"
    ):
        RunFolder(tmp_path, IDENTITY, resume=True)


def test_resuming_names_all_that_differs(tmp_path):
    save(RunFolder(tmp_path, IDENTITY), 1.0)
    other = {"train": {"seed": 1, "betas": (0.9, 0.999), "device": "cuda"}, "data": {"n_rows": 9}}
    with pytest.raises(
        ValueError, match=r"with train seed=0, now 1; train device='cpu', now 'cuda'"
    ):
        RunFolder(tmp_path, other, resume=True)
    with pytest.raises(
        ValueError, match=r"with train seed=0, now 1; data n_rows=3, now 9\. Restore"
    ):
        RunFolder(tmp_path, other, free=frozenset({"device"}), resume=True)
    other["train"]["seed"], other["data"]["n_rows"] = 0, 3
    begun(tmp_path, other, free=frozenset({"device"}), resume=True)
    assert io.read_json(tmp_path / CONFIG)["train"]["device"] == "cuda"


def test_resuming_without_a_checkpoint_starts(tmp_path):
    assert begun(tmp_path / "new", resume=True).checkpoint is None
    assert begun(tmp_path / "new", resume=True).checkpoint is None


def test_parts_of_different_runs_are_not_mixed(tmp_path):
    save(RunFolder(tmp_path / "a", IDENTITY), 1.0)
    save(RunFolder(tmp_path / "b", IDENTITY), 2.0)
    (tmp_path / "a" / CONFIG).replace(tmp_path / "b" / CONFIG)
    with pytest.raises(ValueError, match=r"must belong to the run of .*config.json"):
        RunFolder(tmp_path / "b", IDENTITY, resume=True)
    (tmp_path / "b" / CONFIG).unlink()
    with pytest.raises(FileExistsError, match=r"holds checkpoint and no config.json of a run"):
        RunFolder(tmp_path / "b", IDENTITY, resume=True)


def test_a_missing_file_of_tensors_is_named(tmp_path):
    save(RunFolder(tmp_path, IDENTITY), 1.0)
    (
        tmp_path
        / CHECKPOINT
        / json.loads((tmp_path / CHECKPOINT / STATE).read_text())["tensors"]["file"]
    ).unlink()
    with pytest.raises(FileNotFoundError, match=r"tensors-.*safetensors. must exist"):
        RunFolder(tmp_path, IDENTITY, resume=True)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"`out_dir` must be a folder; got the file"):
        RunFolder(tmp_path / "run", IDENTITY)
    with pytest.raises(OSError, match=r"must be writable; a part of the path is a file"):
        begun(tmp_path / "run" / "deeper")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder closed to the superuser too")
def test_a_folder_that_cannot_be_written():
    with pytest.raises(OSError, match=r"must be writable; permission is denied. Choose a folder"):
        begun(Path("/sys/sparsecode-run"))
