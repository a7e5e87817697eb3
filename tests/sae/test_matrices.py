import numpy as np
import pytest
import scipy.sparse
import torch

import sae
from sae import matrices
from sparsecode.training.array_rows import ArrayRows


@pytest.fixture
def module() -> sae.TopK:
    return sae.TopK(n_features=6, n_latents=20, k=3, seed=0)


def test_parts_are_those_of_the_whole(module: sae.TopK, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "CHUNK_ENTRIES", 20 * 16)  # 16 rows at a time
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rows = ArrayRows(x)
    codes = [part.to_dense() for part in matrices.encoded_parts(module, rows)]
    assert [len(part) for part in codes] == [16, 16, 16, 2]
    dense = torch.cat(codes)
    assert torch.allclose(dense, module.encode(x).to_dense())
    for given in (dense, scipy.sparse.csr_matrix(dense.detach().numpy())):
        out = torch.empty(50, 6)
        matrices.fill(out, matrices.decoded_parts(module, given))
        assert torch.allclose(out, module(x), atol=1e-6)
    assert torch.allclose(torch.cat(list(matrices.predicted_parts(module, rows))), module(x))


def test_tensors_are_checked() -> None:
    assert matrices.checked_tensor(torch.ones(2, 3, dtype=torch.int64)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"`y` must be a real tensor of shape \(n_samples, n_tar"):
        matrices.checked_tensor(torch.ones(3), "y", "n_targets")
    with pytest.raises(ValueError, match=r"`X`.* finite"):
        matrices.checked_tensor(torch.full((2, 2), float("nan")))


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix])
def test_entries_that_float32_cannot_square_are_refused(kind: type) -> None:
    assert matrices.checked_size("X", kind(np.eye(3))).shape == (3, 3)
    assert matrices.checked_size("X", scipy.sparse.csr_matrix((3, 3))).shape == (3, 3)
    with pytest.raises(ValueError, match=r"`X` must have entries of at most 1e\+15.*got 1e\+16"):
        matrices.checked_size("X", kind(np.eye(3) * -1e16))
