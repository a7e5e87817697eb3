import math

import numpy as np
import pytest
import torch

from sparsecode.metrics import coherence, largest_cosines, recovery_error, stability


def test_order_sign_and_norm_do_not_count() -> None:
    truth = torch.randn(6, 9)
    learned = torch.cat([-3 * truth.flip(0), torch.randn(5, 9)])
    assert recovery_error(learned, truth) == pytest.approx(0, abs=1e-6)
    assert stability(learned, truth) == pytest.approx(1, abs=1e-6)


def test_the_error_is_the_cosine_distance_of_the_nearest() -> None:
    learned = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert recovery_error(learned, torch.eye(2)) == pytest.approx(1 - math.sqrt(0.5))
    # One to one, the second atom of the truth is left with nothing.
    assert stability(learned, torch.eye(2)) == pytest.approx(math.sqrt(0.5) / 2)


def test_coherence_of_identity_and_hadamard() -> None:
    hadamard = torch.ones(1, 1)
    for _ in range(6):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    assert coherence(torch.cat([torch.eye(64), hadamard])) == pytest.approx(1 / 8)


def test_arrays_are_taken() -> None:
    assert recovery_error(np.eye(3), np.eye(3)) == 0
    assert recovery_error(np.eye(3, dtype=int), torch.eye(3, dtype=torch.int64)) == 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="`dictionary` must have at least two atoms; got 1"):
        coherence(torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"n_features\) = \(..., 3\); got \(2, 2\)"):
        stability(torch.eye(3), torch.eye(2))


def test_largest_cosines_do_not_depend_on_the_chunks() -> None:
    atoms = torch.randn(23, 5)
    unit = torch.nn.functional.normalize(atoms.double(), dim=1)
    expected = ((unit @ unit.T).abs() - 2 * torch.eye(23)).amax(1)
    for size in (1, 7, 100):
        torch.testing.assert_close(largest_cosines(atoms, chunk_size=size), expected)
    assert coherence(atoms) == pytest.approx(float(expected.max()))
