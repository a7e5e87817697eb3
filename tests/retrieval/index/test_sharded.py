"""Indexes in parts: their contract, equality with one index, their folder."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, Pruning, ShardedIndex, open_index
from retrieval.index.sharded import hashed
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

WIDTH = 80


def sharded(n_shards=3, **options):
    return ShardedIndex([ExactIndex(WIDTH) for _ in range(n_shards)], **options)


def same(a, b):
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("route", ["hash", "turns"])
@pytest.mark.parametrize("n_threads", [1, None])
def test_it_keeps_the_contract(route, n_threads):
    check_index(
        lambda width: ShardedIndex(
            [ExactIndex(width) for _ in range(3)], route=route, n_threads=n_threads
        )
    )


def test_it_keeps_the_contract_on_disk(tmp_path):
    count = iter(range(1000))
    check_index(lambda width: ShardedIndex.create(tmp_path / f"{next(count)}", width, 3))


def test_it_keeps_the_contract_over_another_engine():
    pytest.importorskip("qdrant_edge")
    from retrieval import QdrantEdgeIndex

    check_index(lambda width: ShardedIndex([QdrantEdgeIndex(width), ExactIndex(width)]), rtol=1e-5)


def test_shards_may_have_shards():
    check_index(
        lambda width: ShardedIndex(
            [ShardedIndex([ExactIndex(width), ExactIndex(width)]), ExactIndex(width)]
        )
    )


@pytest.mark.parametrize("text", [False, True], ids=["ints", "strings"])
@pytest.mark.parametrize("n_shards", [1, 2, 7])
def test_results_are_those_of_one_index(n_shards, text):
    documents, queries = random_rows(500, WIDTH, 9, seed=0), random_rows(20, WIDTH, 7, seed=1)
    documents.data[:] = np.ceil(documents.data * 2)  # many equal scores
    queries.data[:] = np.ceil(queries.data * 2)
    ids = [f"{i}\u00e9\U0001f600"[i % 3 :] + str(i) for i in range(500)] if text else None
    one, parts = ExactIndex(WIDTH).add(documents, ids), sharded(n_shards).add(documents, ids)
    for k in (1, 10, 600):
        same(parts.search(queries, k), one.search(queries, k))
    allowed = ids[::5] if text else range(0, 500, 5)
    same(parts.search(queries, 9, filter=allowed), one.search(queries, 9, filter=allowed))
    gone = one.search(queries, 1).ids[:, 0]
    gone = sorted(set(gone.tolist()))
    same(parts.delete(gone).search(queries, 9), one.delete(gone).search(queries, 9))


def test_options_and_pruning_go_to_the_shards():
    documents, queries = random_rows(900, WIDTH, 9, seed=0), random_rows(5, WIDTH, 9, seed=1)
    few = Pruning(k=3)
    shards = [ExactIndex(WIDTH, prune=few) for _ in range(2)]
    one, parts = ExactIndex(WIDTH, prune=few).add(documents), ShardedIndex(shards).add(documents)
    same(parts.search(queries, 5, prune=few), one.search(queries, 5, prune=few))
    assert (parts.document(17) != one.document(17)).nnz == 0
    options = {"first_terms": 2, "n_candidates": 10}
    assert set(parts.search(queries, 5, **options).ids[0]) <= set(range(900))


def test_documents_are_shared_out_evenly_and_for_ever():
    numbers = np.arange(30_000)
    names = np.array([f"d{i}".encode() for i in range(30_000)])
    for ids in (numbers, numbers * 4096, names):
        counts = np.bincount((hashed(ids) % np.uint64(3)).astype(int))
        assert counts.min() > 9_700
    assert hashed(numbers[:3]).tolist() == [0, 12994781566227106604, 4233148493373801447]
    assert hashed(names[:2]).tolist() == [1720814832, 295091302]
    turns = sharded(route="turns").add(random_rows(10, WIDTH, 2, seed=0))
    assert [len(shard) for shard in turns.shards] == [4, 3, 3]


def test_an_addition_that_one_shard_refuses_is_in_none():
    rows = random_rows(20, WIDTH, 3, seed=0)
    rows.data[-1] = -1.0
    shards = [ExactIndex(WIDTH), ExactIndex(WIDTH, values="uint8")]
    index = ShardedIndex(shards, route="turns")
    with pytest.raises(ValueError, match="must not be negative to be held as uint8"):
        index.add(rows)
    assert len(index) == len(shards[0]) == 0


def test_wrong_shards_are_refused():
    with pytest.raises(ValueError, match="`shards` must have at least one index; got none"):
        ShardedIndex([])
    with pytest.raises(TypeError, match="`shards` must be indexes; got int at 1"):
        ShardedIndex([ExactIndex(3), 3])
    with pytest.raises(ValueError, match=r"the same n_features; got \[3, 4\]"):
        ShardedIndex([ExactIndex(3), ExactIndex(4)])
    with pytest.raises(ValueError, match="must be different indexes; the one at 1 is not"):
        ShardedIndex([ExactIndex(3)] * 2)
    row = scipy.sparse.csr_matrix([[1.0, 0, 0]])
    with pytest.raises(ValueError, match=r"the same id_kind; got \['int', 'str'\]"):
        ShardedIndex([ExactIndex(3).add(row), ExactIndex(3).add(row, ids=["a"])])
    with pytest.raises(ValueError, match="`route` must be one of 'hash', 'turns'"):
        sharded(route="hush")
    with pytest.raises(ValueError, match="`one` must be in the index; 7 is not"):
        sharded().add(random_rows(3, WIDTH, 2, seed=0)).document(7)


def test_a_missing_or_truncated_shard_is_named(tmp_path):
    path = tmp_path / "index"
    sharded().add(random_rows(90, WIDTH, 5, seed=0)).save(path)
    shard = path / "shard-1-001"
    file = shard / "s000000.values.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(CorruptFileError, match=r"shard-1-001.s000000\.values\.npy"):
        open_index(path)
    file.write_bytes(whole)
    shutil.copytree(shard, tmp_path / "kept")
    shutil.rmtree(shard)
    with pytest.raises(CorruptFileError, match=r"shard-1-001` must hold shard 2 of 3 .* missing"):
        open_index(path)
    shutil.copytree(tmp_path / "kept", shard)
    assert len(open_index(path)) == 90
    manifest = path / "index.json"
    manifest.write_bytes(manifest.read_bytes()[:-2])
    with pytest.raises(CorruptFileError, match=r"index\.json"):
        open_index(path)


def test_saving_replaces_a_sharded_index_only_when_asked(tmp_path):
    rows, path = random_rows(9, WIDTH, 3, seed=0), tmp_path / "index"
    sharded().add(rows).save(path)
    with pytest.raises(ValueError, match=r"has an index. Open it with open_index"):
        sharded().add(rows).save(path)
    sharded(2).add(rows[:4]).save(path, overwrite=True)
    assert {file.name for file in path.iterdir()} == {*("index.json", "shard-2-000", "shard-2-001")}
    opened = open_index(path, verify=False, n_threads=1)
    assert len(opened) == 4
    opened.add(rows[4:]).save(path)
    assert len(open_index(path)) == 9
    with pytest.raises(ValueError, match="must be of engine 'exact'; got 'sharded'"):
        ExactIndex(WIDTH).save(path, overwrite=True)
    ExactIndex(WIDTH).save(tmp_path / "exact")
    with pytest.raises(ValueError, match="must be of engine 'sharded', version 1; got 'exact'"):
        sharded().save(tmp_path / "exact", overwrite=True)


WRITER = """
    import sys
    from retrieval import ShardedIndex, open_index
    from retrieval.testing import random_rows
    path, start = sys.argv[1], int(sys.argv[2])
    index = open_index(path) if start else ShardedIndex.create(path, 80, 3)
    print("ready", flush=True)
    for number in range(start, 10_000):
        rows, ids = random_rows(20, 80, 5, seed=number), range(20 * number, 20 * number + 20)
        new = [row for row, one in enumerate(ids) if one not in index]
        index.add(rows[new], ids=[ids[row] for row in new])
        print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    path, rng, done = tmp_path / "index", np.random.default_rng(0), 0
    for _ in range(2):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(done)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(rng.uniform(0.1, 0.5))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split() if line.isdigit()]
        done = reported[-1] + 1 if reported else done
        index = open_index(path)
        assert all(one in index for one in range(20 * done))
        assert len(index) <= 20 * (done + 1), "of what was not reported, one addition at most"
    expected = ExactIndex(80)
    for number in range(done):
        expected.add(random_rows(20, 80, 5, seed=number))
    index.delete([one for one in range(20 * done, 20 * done + 20) if one in index])
    queries = random_rows(20, 80, 5, seed=10**6)
    same(index.search(queries, 10), expected.search(queries, 10))
