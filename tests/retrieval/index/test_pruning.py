"""Pruning against its definition, row by row."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import Pruning


def kept(row, rule):
    """Return the places that stay, by definition."""
    order = sorted(np.flatnonzero(row), key=lambda j: (-abs(row[j]), j))
    total, before, keep = sum(abs(row[j]) for j in order), 0.0, set()
    for place, j in enumerate(order):
        size = abs(row[j])
        fits = rule.k is None or place < rule.k
        fits &= rule.mass is None or before < rule.mass * total
        fits &= rule.ratio is None or size >= rule.ratio * abs(row[order[0]])
        fits &= rule.threshold is None or size >= rule.threshold
        before += size
        keep |= {int(j)} if fits else set()
    return keep


@pytest.mark.parametrize(
    "rule",
    [
        Pruning(),
        Pruning(k=3),
        Pruning(mass=0.625),
        Pruning(mass=1.0),
        Pruning(ratio=0.5),
        Pruning(threshold=1.0),
        Pruning(k=5, mass=0.875, ratio=0.1, threshold=0.2),
    ],
    ids=str,
)
def test_entries_stay_as_defined(rule):
    rng = np.random.default_rng(0)
    dense = np.round(rng.standard_normal((40, 15)) * 8) / 8 * (rng.random((40, 15)) < 0.6)
    dense[7] = 0
    pruned = rule.apply(scipy.sparse.csr_matrix(dense))
    assert pruned.has_canonical_format
    for row, got in zip(dense, pruned.toarray(), strict=True):
        assert set(np.flatnonzero(got).tolist()) == kept(row, rule)
        assert set(got[got != 0]) <= set(row)


def test_wrong_rules_are_refused():
    with pytest.raises(ValueError, match=r"`k` must be an int in \[1, .*got 0"):
        Pruning(k=0)
    with pytest.raises(ValueError, match=r"`mass` must be a finite number in \(0, 1\]; got 1.5"):
        Pruning(mass=1.5)
    with pytest.raises(ValueError, match=r"`threshold` must be a finite number"):
        Pruning(threshold=-1)
