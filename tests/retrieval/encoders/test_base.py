import numpy as np
import pytest
import scipy.sparse

from retrieval.encoders import AbstractEncoder, contributions
from retrieval.encoders.base import largest, unit_rows


@pytest.fixture
def rows() -> scipy.sparse.csr_matrix:
    return scipy.sparse.random(17, 40, density=0.2, format="csr", random_state=0, dtype=np.float32)  # type: ignore[return-value]


def test_contributions_add_up_to_the_score(rows: scipy.sparse.csr_matrix) -> None:
    for i in range(5):
        ids, values = contributions(rows[i], rows[i + 5])
        expected = float((rows[i].astype(float) @ rows[i + 5].astype(float).T).toarray()[0, 0])
        assert values.sum() == pytest.approx(expected, rel=1e-12)
        assert (np.diff(values) <= 0).all()
        assert set(ids) == set(rows[i].indices) & set(rows[i + 5].indices)


def test_contributions_of_rows_that_share_nothing() -> None:
    ids, values = contributions(
        scipy.sparse.csr_matrix([[1.0, 0.0]]), scipy.sparse.csr_matrix([[0.0, 1.0]])
    )
    assert len(ids) == len(values) == 0


def test_contributions_refuse_more_than_a_row(rows: scipy.sparse.csr_matrix) -> None:
    with pytest.raises(ValueError, match=r"must be two rows of shape .*got \(2, 40\) and \(1, 40"):
        contributions(rows[:2], rows[0])


@pytest.mark.parametrize("k", [1, 3, 100, None])
def test_largest_keeps_the_largest(rows: scipy.sparse.csr_matrix, k: int | None) -> None:
    dense = rows.toarray()
    kept = largest(rows, k)
    for row, whole in zip(kept.toarray(), dense, strict=True):
        expected = np.sort(whole[whole > 0])[::-1][:k]
        assert np.array_equal(np.sort(row[row > 0])[::-1], expected)
        assert ((row == 0) | (row == whole)).all()
    assert kept.has_sorted_indices


def test_ties_go_to_the_lower_dimension() -> None:
    row = scipy.sparse.csr_matrix([[0.0, 2.0, 1.0, 2.0, 2.0]])
    assert largest(row, 2).indices.tolist() == [1, 3]


def test_rows_of_unit_length(rows: scipy.sparse.csr_matrix) -> None:
    rows = scipy.sparse.vstack([rows, scipy.sparse.csr_matrix((1, 40), dtype=np.float32)]).tocsr()
    norms = np.linalg.norm(unit_rows(rows).toarray().astype(float), axis=1)
    np.testing.assert_allclose(norms[:-1], 1.0, rtol=1e-6)
    assert norms[-1] == 0
    assert unit_rows(rows).dtype == np.float32


def test_dimensions_have_names_without_any_labels() -> None:
    class Fixed(AbstractEncoder):
        n_dimensions = 3

        def encode_documents(self, X, *, k=None):
            return largest(scipy.sparse.csr_matrix(X), k)

        encode_queries = encode_documents

    assert Fixed().dimension_names([2, 0]) == ["latent 2", "latent 0"]
