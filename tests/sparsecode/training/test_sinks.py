import hashlib
import json
import sys

import pytest

from sparsecode import io
from sparsecode.training import RunFolder, TrainConfig
from sparsecode.training.sinks import JsonLines, Metrics, ProgressBar, TensorBoard, WeightsAndBiases

TRAIN = {"step": 10, "tokens": 100, "split": "train", "loss": 0.5, "fvu": 0.25, "l0": 32.0}
HELDOUT = {"step": 10, "tokens": 100, "split": "heldout", "fvu": 0.3}


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_rows_and_are_there_at_once(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write(TRAIN)
    lines.write(HELDOUT)
    assert read(tmp_path / "m.jsonl") == [TRAIN, HELDOUT]
    raw = (tmp_path / "m.jsonl").read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    assert lines.position() == {"bytes": len(raw), "sha256": digest}
    lines.close()


def test_what_was_logged_after_the_checkpoint_is_cut_off(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = JsonLines(path)
    lines.write(TRAIN)
    position = lines.position()
    lines.write(HELDOUT)
    lines.close()
    with path.open("ab") as file:
        file.write(b'{"half a li')
    again = JsonLines(path, position)
    assert again.rows == [TRAIN]
    again.write({**TRAIN, "step": 20})
    assert [row["step"] for row in read(path)] == [10, 20]
    further = again.position()
    again.close()
    JsonLines(path, further).close()


def test_a_new_log_is_empty(tmp_path):
    (tmp_path / "m.jsonl").write_text("old\n")
    JsonLines(tmp_path / "m.jsonl").close()
    assert (tmp_path / "m.jsonl").read_text() == ""


def test_a_changed_log_is_refused_and_a_deleted_one_starts_again(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = JsonLines(path)
    lines.write(TRAIN)
    position = lines.position()
    lines.close()
    raw = path.read_bytes()
    for changed in (raw[:-2], raw.replace(b"0.25", b"0.26")):
        path.write_bytes(changed)
        with pytest.raises(io.CorruptFileError, match=r"m.jsonl. must begin with the \d+ bytes"):
            JsonLines(path, position)
    path.unlink()
    lines = JsonLines(path, position)
    assert lines.rows == []
    lines.close()


def test_a_folder_that_cannot_be_written_gives_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="must be writable; a part of the path is a file"):
        JsonLines(tmp_path / "file" / "m.jsonl")


def test_the_bar_shows_the_four_numbers(capsys):
    bar = ProgressBar(20, start=10, show=True)
    bar.advance()
    bar.write({**TRAIN, "dead_fraction": 0.125, "tokens_per_second": 12345.6})
    bar.write(HELDOUT)
    bar.close()
    shown = capsys.readouterr().err
    assert "11/20" in shown
    for part in ("fvu=0.2500", "l0=32.0", "dead=12.5%", "tokens/s=12,346"):
        assert part in shown
    assert "loss" not in shown


def test_the_bar_is_silent_where_nobody_looks(capsys):
    for show in (False, None):  # captured output is no terminal
        bar = ProgressBar(2, start=0, show=show)
        bar.advance()
        bar.write(TRAIN)
        bar.close()
    assert capsys.readouterr().err == ""


def test_tensorboard_gets_every_curve(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path, start=0)
    for step in (10, 20):
        sink.write({**TRAIN, "step": step, "fvu": 1.0 / step})
        sink.write({**HELDOUT, "step": step})
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "tokens",
        "loss",
        "fvu",
        "l0",
        "heldout/tokens",
        "heldout/fvu",
    }
    found = [(event.step, event.value) for event in events.Scalars("fvu")]
    assert found == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]


def test_weights_and_biases_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sink = WeightsAndBiases(tmp_path, run_id="abc123", config={"seed": 0})
    sink.write(TRAIN)
    sink.close()
    (run,) = tmp_path.glob("wandb/offline-run-*-abc123")
    assert list(run.glob("*.wandb"))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("tensorboard", lambda path: TensorBoard(path, start=0)),
        ("wandb", lambda path: WeightsAndBiases(path, run_id="a", config={})),
    ],
)
def test_a_missing_logger_names_what_to_install(name, make, tmp_path, monkeypatch):
    class Blocker:
        def find_spec(self, module, path=None, target=None):
            if module.partition(".")[0] == name:
                raise ModuleNotFoundError(module)

    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    users = (name, "torch.utils.tensorboard")
    for module in [known for known in sys.modules if known.startswith(users)]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ImportError, match=r"pip install 'sparsecode\[logging\]'"):
        make(tmp_path)


def test_without_a_folder_rows_are_kept_in_memory(tmp_path):
    class State:
        step, rows = 4, 40

    metrics = Metrics.open(TrainConfig(progress=False), None, State())
    metrics.write(State(), "train", {"loss": 1.0})
    metrics.write(State(), "heldout", None)
    assert metrics.history == [{"step": 4, "tokens": 40, "split": "train", "loss": 1.0}]
    assert metrics.position() == {}
    metrics.close()
    folder = RunFolder(tmp_path, {})
    metrics = Metrics.open(TrainConfig(progress=False), folder, State())
    metrics.write(State(), "train", {"loss": 1.0})
    metrics.close()
    assert read(tmp_path / "metrics.jsonl") == metrics.history
