"""Ids: ints or strings, each once."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex
from retrieval.index.ids import check_ids, decode_ids
from retrieval.testing import random_rows

ROWS = random_rows(2, 10, 3, seed=0)


def test_strings_sort_as_in_python():
    ids = ["b", "a", "ab", "\u00e9", "Z", "\U0001f600", "\uffff"]
    assert decode_ids(np.sort(check_ids("ids", ids))) == sorted(ids)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, "a"], TypeError, "`ids` must be all ints or all strings; got 'a'"),
        (["a", 1], TypeError, "`ids` must be all ints or all strings; got 1 among strings"),
        ([True, 1], TypeError, "`ids` must be all ints or all strings; got True"),
        ([1.5, 1], TypeError, "`ids` must be all ints or all strings; got 1.5"),
        (
            [2**63, 1],
            ValueError,
            r"`ids` must be ints in \[0, 2\^63 - 1\); got 92233",
        ),
        (["", "b"], ValueError, "strings of 1 to 512 bytes of UTF-8 without a zero byte; got ''"),
        (["a\0", "b"], ValueError, "without a zero byte"),
        (["x" * 513, "b"], ValueError, "strings of 1 to 512 bytes"),
        ("ab", TypeError, "must be a sequence of ids; got the single string 'ab'"),
    ],
)
def test_wrong_ids_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        ExactIndex(10).add(ROWS, ids=ids)


def test_strings_must_be_given_where_there_are_strings():
    index = ExactIndex(10).add(ROWS, ids=["a", "b"])
    with pytest.raises(ValueError, match=r"`ids` must be given, since this index has strings"):
        index.add(ROWS)
    with pytest.raises(TypeError, match=r"`ids` must be strings, as in this index; got 3"):
        index.delete([3])
    with pytest.raises(ValueError, match=r"1 of 1 are not, first 'c'"):
        index.delete(["c"])
    assert "a" in index
    with pytest.raises(ValueError, match=r"`one` must be in the index; 'c' is not"):
        index.document("c")


def test_what_cannot_be_an_id_is_in_no_index():
    index = ExactIndex(3).add(scipy.sparse.eye(3, format="csr"))
    assert 2 in index
    for other in (3, -1, "a", None, 1.5, 2**70):
        assert other not in index
    found = index.search(scipy.sparse.csr_matrix([[1.0, 1.0, 0.0]]), k=3)
    assert found.ids.tolist() == [[0, 1, -1]]
    again = index.search(scipy.sparse.eye(3, format="csr"), k=3, filter=found.ids.ravel())
    assert again.lists() == [[(0, 1.0)], [(1, 1.0)], []]


def test_ids_that_no_file_can_hold_are_refused():
    with pytest.raises(ValueError, match=r"bytes of UTF-8 without a zero byte"):
        check_ids("ids", ["\ud800"])
    with pytest.raises(ValueError, match=r"ints in \[0, 2\^63 - 1\)"):
        check_ids("ids", [2**63 - 1])
