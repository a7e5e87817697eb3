"""The exact index: its contract, its results and its files."""

import gzip
import json
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, Pruning, open_index
from retrieval.index import segments
from retrieval.testing import check_index, random_rows
from sparsecode import SparseCodes
from sparsecode.io import CorruptFileError

WIDTH = 80


@pytest.mark.parametrize("values", ["float32", "float16"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_it_keeps_the_contract(values, n_threads):
    rtol = 1e-6 if values == "float32" else 1e-3
    check_index(lambda width: ExactIndex(width, values=values, n_threads=n_threads), rtol=rtol)


def test_it_keeps_the_contract_on_disk(tmp_path):
    count = iter(range(1000))
    check_index(lambda width: ExactIndex(width, path=tmp_path / f"index{next(count)}"))


def test_results_are_those_of_the_dense_product():
    documents, queries = random_rows(2000, WIDTH, 9, seed=0), random_rows(30, WIDTH, 7, seed=1)
    documents.data[::3] *= -1
    dense = (queries.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    found = ExactIndex(WIDTH).add(documents).search(queries, 50)
    for query in range(30):
        order = np.lexsort((np.arange(2000), -dense[query].astype(np.float32)))[:50]
        np.testing.assert_array_equal(found.ids[query], order)
        np.testing.assert_array_equal(found.scores[query], dense[query, order].astype(np.float32))


@pytest.mark.parametrize("values", ["float32", "float16", "uint8"])
def test_parts_and_order_of_addition_do_not_matter(values, monkeypatch):
    monkeypatch.setattr(segments, "MOST_DOCUMENTS", 64)
    documents, queries = random_rows(300, WIDTH, 9, seed=0), random_rows(10, WIDTH, 7, seed=1)
    order = np.random.default_rng(0).permutation(300)
    parts = ExactIndex(WIDTH, values=values)
    for start in range(0, 300, 7):
        part = order[start : start + 7]
        parts.add(documents[part], ids=part)
    once = ExactIndex(WIDTH, values=values).add(documents)
    assert 5 <= len(parts._segments) <= 12
    a, b = parts.search(queries, 20), once.search(queries, 20)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert (parts.document(17) != once.document(17)).nnz == 0


def test_uint8_scores_are_within_the_stated_bound():
    documents, queries = random_rows(500, WIDTH, 9, seed=0), random_rows(10, WIDTH, 7, seed=1)
    found = ExactIndex(WIDTH, values="uint8").add(documents).search(queries, 20)
    for query, pairs in enumerate(found.lists()):
        for one, score in pairs:
            exact = (queries[query] @ documents[one].T).toarray().item()
            bound = queries[query].sum() * documents[one].max() / 510
            assert abs(score - exact) <= bound * 1.0001


def test_sparse_codes_are_taken_and_repeated_entries_add_up():
    rows = scipy.sparse.csr_matrix(([1.0, 2.0, 0.0], [3, 3, 4], [0, 3]), shape=(1, WIDTH))
    for documents in (rows, SparseCodes.from_scipy(rows)):
        index = ExactIndex(WIDTH).add(documents)
        assert index.search(rows, 1).lists() == [[(0, 9.0)]]
        assert index.document(0).nnz == 1


def test_the_largest_float32_and_the_smallest_are_kept():
    rows = scipy.sparse.csr_matrix(np.array([[3.4e38, -3.4e38, 1e-45, 0]], np.float32))
    index = ExactIndex(4).add(rows)
    assert (index.document(0) != rows).nnz == 0
    assert index.search(rows, 1).scores.tolist() == [[np.inf]]


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_every_sparse_matrix_is_taken(kind):
    rows = random_rows(50, WIDTH, 5, seed=0)
    want = ExactIndex(WIDTH).add(rows).search(rows[:3], 4)
    for dtype in (np.float32, np.float64):
        given = kind(rows).astype(dtype)
        found = ExactIndex(WIDTH).add(given).search(kind(rows[:3]).astype(dtype), 4)
        np.testing.assert_array_equal(found.ids, want.ids)


def test_rows_in_any_order_of_dimensions_are_taken_though_flags_say_sorted():
    rows = scipy.sparse.csr_matrix(([1.0, 2.0], [1, 3], [0, 2]), shape=(1, 4), dtype=np.float32)
    assert rows.has_canonical_format  # SciPy keeps that
    rows.indices[:], rows.data[:] = [3, 1], [2.0, 1.0]
    index = ExactIndex(4).add(rows)
    assert index.document(0).toarray().tolist() == [[0, 1, 0, 2]]
    assert index.search(rows, 1).lists() == [[(0, 5.0)]]


def test_inputs_are_not_changed():
    rows = scipy.sparse.csr_matrix(([1.0, 2.0, 0.0], [3, 3, 4], [0, 3]), shape=(1, WIDTH))
    before = rows.copy()
    ExactIndex(WIDTH, prune=Pruning(k=1), values="uint8").add(rows).search(
        rows, 1, prune=Pruning(k=1)
    )
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(before, name))


def test_indices_out_of_range_are_refused():
    rows = scipy.sparse.csr_matrix(([1.0], [3], [0, 1]), shape=(1, 4))
    rows.indices[0] = 9
    with pytest.raises(
        ValueError, match=r"indices in \[0, n_features\) = \[0, 4\); got values from 9"
    ):
        ExactIndex(4).add(rows)


@pytest.mark.parametrize("values", ["float32", "uint8"])
@pytest.mark.parametrize("most", [2**18, 1000], ids=["one segment", "segments"])
def test_two_phase_search_scores_exactly_and_its_recall_is_measured(values, most, monkeypatch):
    monkeypatch.setattr(segments, "MOST_DOCUMENTS", most)
    documents, queries = random_rows(3000, WIDTH, 12, seed=0), random_rows(20, WIDTH, 12, seed=1)
    index = ExactIndex(WIDTH, values=values).add(documents)
    options = {"first_terms": 4, "n_candidates": 100}
    found, exact = index.search(queries, 10, **options), index.search(queries, 10)
    known = [dict(pairs) for pairs in index.search(queries, 3000).lists()]
    for pairs, scores in zip(found.lists(), known, strict=True):
        assert [scores[one] for one, _ in pairs] == [score for _, score in pairs]
        assert len(pairs) == 10
    shared = [len(set(a) & set(b)) for a, b in zip(found.ids, exact.ids, strict=True)]
    assert index.recall(queries, 10, **options) == sum(shared) / 200
    assert 0.5 < sum(shared) / 200 < 1
    assert index.recall(queries, 10, first_terms=12, n_candidates=10) == 1
    few = index.search(queries, 10, filter=[3, 7], **options)
    assert few.ids.shape == (20, 10)
    assert set(few.ids.ravel().tolist()) <= {-1, 3, 7}
    with pytest.raises(
        ValueError, match=r"`first_terms` and `n_candidates` must be given together"
    ):
        index.search(queries, 10, first_terms=4)
    with pytest.raises(ValueError, match=r"`n_candidates` must be an int in \[10"):
        index.search(queries, 10, first_terms=4, n_candidates=9)


def test_two_phase_search_of_empty_and_equal_rows():
    rows = scipy.sparse.csr_matrix([[1.0, 0, 0]] * 500 + [[0, 0, 0]])
    options = {"first_terms": 1, "n_candidates": 5}
    index = ExactIndex(3).add(rows)
    empty = scipy.sparse.csr_matrix((2, 3), dtype=np.float32)
    assert index.search(empty, 2, **options).lists() == [[], []]
    assert index.search(empty[:0], 2, **options).ids.shape == (0, 2)
    found = index.search(rows[:1], 5, **options)
    assert found.n_found.tolist() == [5]
    assert set(found.scores[0]) == {1.0}


def test_pruning_at_index_and_at_query_time(tmp_path):
    documents, queries = random_rows(100, WIDTH, 12, seed=0), random_rows(5, WIDTH, 12, seed=1)
    few = Pruning(k=3)
    index = ExactIndex(WIDTH, prune=few).add(documents)
    plain = ExactIndex(WIDTH).add(few.apply(documents))
    a, b = index.search(queries, 5, prune=few), plain.search(few.apply(queries), 5)
    np.testing.assert_array_equal(a.ids, b.ids)
    index.save(tmp_path / "index")
    assert open_index(tmp_path / "index").prune == few


def test_every_file_that_is_not_what_was_written_is_refused_by_name(tmp_path):
    path = tmp_path / "index"
    index = ExactIndex(WIDTH, values="uint8", path=path).add(random_rows(600, WIDTH, 9, seed=0))
    index.delete([3])
    files = sorted(path.iterdir())
    assert {file.name.split(".")[1] for file in files} == {
        *("ids", "values", "documents", "offsets", "peaks", "scales", "alive-3", "json")
    }
    for file in files:
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for broken in (whole[:-1], flipped, b""):
            file.write_bytes(broken)
            with pytest.raises(CorruptFileError, match=file.name):
                open_index(path)
        file.unlink()
        with pytest.raises((CorruptFileError, FileNotFoundError), match=file.name):
            open_index(path)
        file.write_bytes(whole)
    assert len(open_index(path)) == 599


def test_an_index_on_disk_is_mapped_and_as_the_one_in_memory(tmp_path):
    documents, queries = random_rows(3000, WIDTH, 9, seed=0), random_rows(10, WIDTH, 7, seed=1)
    memory = ExactIndex(WIDTH).add(documents, ids=[f"n{i}" for i in range(3000)])
    memory.save(tmp_path / "index")
    disk = open_index(tmp_path / "index", verify=False)
    files = {str(tmp_path / "index" / f"s000000.{part}.npy") for part in ("values", "documents")}
    assert files <= set(Path("/proc/self/maps").read_text().split())
    np.testing.assert_array_equal(disk.search(queries, 9).ids, memory.search(queries, 9).ids)
    assert disk.ids == memory.ids == sorted(f"n{i}" for i in range(3000))
    assert disk.nbytes == memory.nbytes


def test_saving_does_not_touch_what_is_there(tmp_path):
    index = ExactIndex(WIDTH).add(random_rows(5, WIDTH, 2, seed=0))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(ValueError, match=r"must be a new or empty folder; .* has other files"):
        index.save(tmp_path / "mine")
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"has an index. Open it with open_index"):
        index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"has an index. Open it with open_index"):
        ExactIndex(WIDTH, path=tmp_path / "index")
    ExactIndex(WIDTH).add(random_rows(7, WIDTH, 2, seed=0)).save(tmp_path / "index", overwrite=True)
    opened = open_index(tmp_path / "index")
    assert len(opened) == 7
    opened.save(tmp_path / "index")  # its own folder
    with pytest.raises(FileNotFoundError, match=r"index\.json` must exist"):
        open_index(tmp_path / "nothing")


def test_a_second_writer_is_refused(tmp_path):
    rows = random_rows(5, WIDTH, 2, seed=0)
    first = ExactIndex(WIDTH, path=tmp_path / "index").add(rows)
    second = open_index(tmp_path / "index")
    second.add(rows)
    with pytest.raises(ValueError, match=r"was changed by another writer. Open it again"):
        first.add(rows)
    assert len(first) == 5
    assert len(open_index(tmp_path / "index")) == 10


def test_an_unknown_engine_or_version_is_named(tmp_path):
    ExactIndex(WIDTH).add(random_rows(5, WIDTH, 2, seed=0)).save(tmp_path / "index")
    from sparsecode import io

    manifest = io.read_json(tmp_path / "index" / "index.json")
    io.write_json(tmp_path / "index" / "index.json", {**manifest, "engine": "exakt"})
    with pytest.raises(ValueError, match=r"got 'exakt'. Did you mean 'exact'"):
        open_index(tmp_path / "index")
    io.write_json(tmp_path / "index" / "index.json", {**manifest, "version": 9})
    with pytest.raises(ValueError, match=r"must have version 1; got 9"):
        open_index(tmp_path / "index")


WRITER = """
    import sys
    from retrieval import ExactIndex, open_index
    from retrieval.testing import random_rows
    path, start = sys.argv[1], int(sys.argv[2])
    index = open_index(path) if start else ExactIndex(80, path=path)
    print("ready", flush=True)
    for number in range(start, 10_000):
        index.add(random_rows(20, 80, 5, seed=number))
        if number % 5 == 4:
            index.delete([20 * number])
        print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    path, rng, done = tmp_path / "index", np.random.default_rng(0), 0
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(done)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split() if line.isdigit()]
        index = open_index(path)
        done = index._unused // 20
        assert index._unused % 20 == 0, "an addition is there whole or not at all"
        assert done >= (reported[-1] + 1 if reported else 0)
        pending = done % 5 == 0 and done > 0 and 20 * (done - 1) in index
        if pending:  # killed between the addition and the deletion
            index.delete([20 * (done - 1)])
    assert done > 1
    expected = ExactIndex(80)
    for number in range(done):
        expected.add(random_rows(20, 80, 5, seed=number))
    expected.delete([20 * number for number in range(done) if number % 5 == 4])
    queries = random_rows(20, 80, 5, seed=10**6)
    a, b = open_index(path).search(queries, 10), expected.search(queries, 10)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_real_texts_are_found_as_by_the_dense_product(sparsecode_data):
    with gzip.open(sparsecode_data / "ir" / "cranfield" / "corpus.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"].split() for line in file]
    words = {word: place for place, word in enumerate(sorted({w for text in texts for w in text}))}
    rows = scipy.sparse.lil_matrix((len(texts), len(words)), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text:
            rows[row, words[word]] += 1
    documents = rows.tocsr()
    found = ExactIndex(len(words)).add(documents).search(documents[:50], 20)
    dense = (documents[:50] @ documents.T).toarray()
    for query in range(50):
        order = np.lexsort((np.arange(len(texts)), -dense[query]))[:20]
        np.testing.assert_array_equal(found.ids[query], order)


SAVER = """
    import sys
    from retrieval import ExactIndex, open_index
    from retrieval.testing import random_rows
    path = sys.argv[1]
    indexes = [ExactIndex(80).add(random_rows(500 + n, 80, 5, seed=n)) for n in range(3)]
    print("ready", flush=True)
    for number in range(10_000):
        indexes[number % 3].save(path, overwrite=True)
        print(number, flush=True)
"""


def test_a_killed_save_leaves_one_whole_index(tmp_path):
    path, rng = tmp_path / "index", np.random.default_rng(1)
    queries = random_rows(5, 80, 5, seed=10**6)
    want = {
        500 + n: ExactIndex(80).add(random_rows(500 + n, 80, 5, seed=n)).search(queries, 5).ids
        for n in range(3)
    }
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(SAVER), str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        assert process.stdout.readline().strip() == "0"
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        last = [int(line) for line in process.communicate()[0].split()] or [0]
        opened = open_index(path)
        assert len(opened) in {500 + last[-1] % 3, 500 + (last[-1] + 1) % 3}
        np.testing.assert_array_equal(opened.search(queries, 5).ids, want[len(opened)])


def test_any_flipped_bit_is_refused(tmp_path):
    path, rng = tmp_path / "index", np.random.default_rng(0)
    ids = [f"d{i}" for i in range(50)]
    ExactIndex(WIDTH, values="float16", path=path).add(random_rows(50, WIDTH, 5, seed=0), ids)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for bit in rng.choice(8 * len(whole), 12, replace=False):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(broken)
            with pytest.raises(ValueError, match="index"):
                open_index(path)
        file.write_bytes(whole)
    assert len(open_index(path)) == 50


def test_threads_search_one_index_at_once():
    documents, queries = random_rows(3000, WIDTH, 9, seed=0), random_rows(64, WIDTH, 7, seed=1)
    want = ExactIndex(WIDTH).add(documents).search(queries, 9)
    index = ExactIndex(WIDTH).add(documents)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: index.search(queries[row], 9), range(64)))
    np.testing.assert_array_equal(np.concatenate([one.ids for one in found]), want.ids)
    np.testing.assert_array_equal(np.concatenate([one.scores for one in found]), want.scores)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_a_search_during_additions_sees_a_state_between_two_of_them(on_disk, tmp_path):
    documents, query = random_rows(1000, WIDTH, 9, seed=0), random_rows(1, WIDTH, 20, seed=1)
    path = tmp_path / "index" if on_disk else None
    index, seen = ExactIndex(WIDTH, path=path), []
    parts, one = [documents[start : start + 50] for start in range(0, 1000, 50)], ExactIndex(WIDTH)
    states = [index.search(query, 5), *(one.add(part).search(query, 5) for part in parts)]
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(lambda: [index.add(part) for part in parts])
        while not writer.done():
            seen.append(index.search(query, 5))
        writer.result()
    seen.append(index.search(query, 5))
    known = {(s.ids.tobytes(), s.scores.tobytes()) for s in states}
    assert all((s.ids.tobytes(), s.scores.tobytes()) in known for s in seen)
    np.testing.assert_array_equal(seen[-1].ids, states[-1].ids)


def test_a_reader_of_a_folder_keeps_its_state_while_another_writes(tmp_path):
    documents, query = random_rows(900, WIDTH, 9, seed=0), random_rows(1, WIDTH, 20, seed=1)
    writer = ExactIndex(WIDTH, path=tmp_path / "index").add(documents[:800])
    reader = open_index(tmp_path / "index")
    before = reader.search(query, 9)
    for row in range(800, 900, 20):  # the files that the reader has mapped are removed
        writer.add(documents[row : row + 20])
    writer.delete(range(700))
    after = reader.search(query, 9)
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert len(open_index(tmp_path / "index")) == 200


def test_float16_scores_are_within_the_stated_bound():
    documents, queries = random_rows(500, WIDTH, 9, seed=0), random_rows(10, WIDTH, 7, seed=1)
    documents.data *= np.exp(6 * np.random.default_rng(2).standard_normal(documents.nnz))
    documents.data = np.minimum(documents.data, 6e4)
    found = ExactIndex(WIDTH, values="float16").add(documents).search(queries, 500)
    worst = 0.0
    for query, pairs in enumerate(found.lists()):
        exact = (queries[query].astype(np.float64) @ documents.T.astype(np.float64)).toarray()[0]
        for one, score in pairs:
            bound = 2**-11 * exact[one] + 2**-25 * queries[query].sum()
            error = abs(score - exact[one])
            assert error <= bound * 1.001
            worst = max(worst, error / bound)
    assert worst > 0.3, "the bound says something"
