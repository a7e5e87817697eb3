"""Folders of an index: nothing of others is removed, read or written."""

import numpy as np
import pytest

from retrieval import ExactIndex, QdrantEdgeIndex, ShardedIndex, open_index
from retrieval.index import storage
from retrieval.testing import random_rows
from sparsecode import io

ROWS = random_rows(20, 30, 4, seed=0)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_arrays_of_the_user_stay(tmp_path):
    np.save(tmp_path / "s1_docs.npy", np.zeros(3))
    for make in (lambda: ExactIndex(30, path=tmp_path), lambda: ExactIndex(30).save(tmp_path)):
        with pytest.raises(ValueError, match=r"`path` must be a new or empty folder.*other files"):
            make()
    assert names(tmp_path) == ["s1_docs.npy"]


def test_only_files_of_an_index_are_removed_when_it_changes(tmp_path):
    index = ExactIndex(30, path=tmp_path / "index").add(ROWS[:15])
    mine = tmp_path / "index" / "s1_docs.npy"
    np.save(mine, np.zeros(3))
    killed = tmp_path / "index" / ".s000009.values.npy.x_1abc.tmp"
    killed.write_bytes(b"a write that was killed")
    index.add(ROWS[15:])
    assert mine.exists()
    assert not killed.exists()
    assert len(open_index(tmp_path / "index")) == 20


def test_what_a_killed_first_write_left_is_no_obstacle(tmp_path):
    (tmp_path / "s000000.ids.npy").write_bytes(b"complete")
    (tmp_path / ".s000000.values.npy.ab12_.tmp").write_bytes(b"cut")
    assert len(ExactIndex(30, path=tmp_path).add(ROWS)) == 20


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("make", [ExactIndex, QdrantEdgeIndex])
def test_a_folder_with_another_index_json_is_not_replaced(tmp_path, make, sealed):
    site = tmp_path / "site"
    site.mkdir()
    (site / "thesis.txt").write_text("years of work")
    if sealed:
        io.write_json(site / "index.json", {"my": "site"})
    else:
        (site / "index.json").write_text('{"my": "site"}')
    with pytest.raises(ValueError, match=r"index.json` is damaged or of something else"):
        make(30).add(ROWS).save(site, overwrite=True)
    assert names(site) == ["index.json", "thesis.txt"]


def test_an_engine_replaces_an_index_and_nothing_else(tmp_path):
    index = QdrantEdgeIndex(30).add(ROWS)
    folder = tmp_path / "index"
    for old in (ExactIndex(30), QdrantEdgeIndex(30)):
        old.add(ROWS[:5]).save(folder, overwrite=True)
        index.save(folder, overwrite=True)
        assert len(open_index(folder)) == 20
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"nothing but an index to be replaced.*'notes.txt'"):
        index.save(folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["index"]
    with pytest.raises(
        ValueError, match=r"index.json` must be of engine 'exact'; got 'qdrant_edge'"
    ):
        ExactIndex(30).add(ROWS).save(folder, overwrite=True)


@pytest.mark.parametrize("name", ["../outside/s000000.ids.npy", "/etc/passwd", "notes.npy"])
def test_a_manifest_names_no_files_elsewhere(tmp_path, name):
    ExactIndex(30, path=tmp_path / "index").add(ROWS)
    manifest = io.read_json(tmp_path / "index" / storage.MANIFEST)
    manifest["segments"][0]["ids"]["file"] = name
    io.write_json(tmp_path / "index" / storage.MANIFEST, manifest)
    with pytest.raises(io.CorruptFileError, match=r"index.json` must hold exactly.*names the file"):
        open_index(tmp_path / "index", verify=False)


@pytest.mark.parametrize("name", ["engine/../../outside", "/etc/passwd", "thesis.txt"])
def test_a_manifest_of_an_engine_names_no_files_elsewhere(tmp_path, name):
    QdrantEdgeIndex(30).add(ROWS).save(tmp_path / "index")
    manifest = io.read_json(tmp_path / "index" / storage.MANIFEST)
    manifest["files"][name] = "0" * 64
    io.write_json(tmp_path / "index" / storage.MANIFEST, manifest)
    with pytest.raises(io.CorruptFileError, match="must name files below engine/"):
        open_index(tmp_path / "index")


def test_folders_that_are_called_like_shards_stay(tmp_path):
    mine = tmp_path / "shard-1-000"
    mine.mkdir()
    (mine / "train.parquet").write_text("mine")
    with pytest.raises(ValueError, match="`path` must be a new or empty folder"):
        ShardedIndex.create(tmp_path, 30, 2)
    assert (mine / "train.parquet").exists()


def test_a_manifest_names_no_shards_elsewhere(tmp_path):
    ShardedIndex.create(tmp_path / "index", 30, 2).add(ROWS)
    manifest = io.read_json(tmp_path / "index" / storage.MANIFEST)
    manifest["shards"][1] = "../index/shard-1-001"
    io.write_json(tmp_path / "index" / storage.MANIFEST, manifest)
    with pytest.raises(io.CorruptFileError, match="must name shards in its folder"):
        open_index(tmp_path / "index")
