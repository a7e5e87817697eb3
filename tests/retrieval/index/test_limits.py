"""Limits of engines are sentences, and what is within them passes."""

import numpy as np
import pytest
import scipy.sparse

from retrieval.index.limits import Limits
from retrieval.testing import random_rows

LIMITS = Limits(name="Engine", n_features=40, n_active=8, k=5, negative=False)


def test_what_is_within_the_limits_passes():
    rows = random_rows(4, 40, 8, seed=0)
    LIMITS.check_width(40)
    LIMITS.check_k(5)
    LIMITS.check_rows("documents", rows)
    LIMITS.check_rows("documents", scipy.sparse.csr_matrix((0, 40)))
    LIMITS.check_rows("queries", -0.0 * rows)
    Limits(name="Boundless").check_rows("documents", -rows)


def test_each_limit_has_its_sentence():
    rows = random_rows(4, 40, 9, seed=0)
    with pytest.raises(ValueError, match="`n_features` must be at most 40 for Engine; got 41"):
        LIMITS.check_width(41)
    with pytest.raises(ValueError, match=r"`k` must be at most 5 for Engine; got 6\. Use"):
        LIMITS.check_k(6)
    with pytest.raises(
        ValueError,
        match=r"at most 8 entries each for Engine; got 9 in row 0. Use prune=Pruning\(k=8\)",
    ):
        LIMITS.check_rows("documents", rows)
    rows.data[np.array([20, 30])] = -0.5
    with pytest.raises(
        ValueError, match=r"`queries` must not have values below 0 for Engine; got -0.5 in row 2"
    ):
        LIMITS.check_rows("queries", rows)
