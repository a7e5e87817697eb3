"""Cost: the formulas by hand, and that FLOPs are what a search multiplies."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import search_cost
from retrieval.evaluation import cost_plot, cost_table
from retrieval.testing import random_rows


def test_flops_are_the_products_of_a_pair():
    queries, documents = random_rows(30, 50, 4, seed=0), random_rows(70, 50, 7, seed=1)
    cost = search_cost(queries, documents)
    shared = (queries != 0).astype(int) @ (documents != 0).astype(int).T
    assert cost["flops"] == pytest.approx(shared.mean())
    assert cost["query_active"] == pytest.approx(4)
    assert cost["document_active"] == pytest.approx(7)


def test_even_use_has_r_sub_one_and_one_dimension_has_the_width():
    even, one = scipy.sparse.identity(20, format="csr"), scipy.sparse.csr_matrix((20, 20))
    assert search_cost(even, even)["r_sub"] == pytest.approx(1)
    one = scipy.sparse.csr_matrix((np.ones(20), (np.arange(20), np.zeros(20, int))), shape=(20, 20))
    cost = search_cost(even, one)
    assert cost["r_sub"] == pytest.approx(20)
    assert cost["dead_share"] == 0.95
    assert cost["df_max"] == cost["df_p99"] == cost["df_top1"] == 1


def test_documents_without_entries_and_wrong_arguments():
    nothing = scipy.sparse.csr_matrix((3, 5))
    assert search_cost(nothing, nothing)["flops"] == 0
    with pytest.raises(ValueError, match=r"as many dimensions as `documents`, 5; got 4"):
        search_cost(scipy.sparse.csr_matrix((3, 4)), nothing)
    with pytest.raises(ValueError, match=r"`documents` must be a SciPy sparse matrix with rows"):
        search_cost(nothing, np.zeros((3, 5)))


def test_table_and_plot_show_every_row():
    rows = [
        {"name": "k=8", "group": "a", "nDCG@10": 0.25, "flops": 2.0},
        {"name": "k=4", "group": "a", "nDCG@10": 0.125, "flops": 1.0, "bytes": 12},
        {"name": "flat", "nDCG@10": 0.5, "flops": 9.0},
    ]
    lines = cost_table(rows).split("\n")
    assert len(lines) == 4
    assert lines[1].split() == ["k=8", "a", "0.2500", "2.0000", "-"]
    figure = cost_plot(rows)
    assert [list(trace.x) for trace in figure.data] == [[1.0, 2.0], [9.0]]
    with pytest.raises(
        ValueError, match=r"`rows` must each have 'flops'; got keys \['nDCG@10', 'name'\]"
    ):
        cost_plot([{"name": "a", "nDCG@10": 0.1}])
