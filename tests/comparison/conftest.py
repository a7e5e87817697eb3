"""Independent libraries as oracles; a test skips, with a reason, where its library is missing."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

collect_ignore_glob = ["quality.py", "retrieval_csr.py", "retrieval_l0.py"]

N_ROWS, N_FEATURES, N_LATENTS, K = 37, 24, 96, 6
REASON = "compares with {}: pip install 'sparsecode[compare]'"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let other libraries warn: their deprecations are not ours to fix."""
    for item in items:
        if "comparison" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def _imported(package: str, name: str) -> ModuleType:
    return pytest.importorskip(package, reason=REASON.format(name), exc_type=ImportError)


@pytest.fixture
def sparsify(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package eai-sparsify on its CPU path."""
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")
    return _imported("sparsify", "eai-sparsify")


@pytest.fixture
def sae_lens() -> ModuleType:
    """SAELens' TopK training module."""
    return _imported("sae_lens.saes.topk_sae", "sae-lens")


@pytest.fixture
def dictionary_learning() -> ModuleType:
    """The TopK trainer of dictionary_learning."""
    return _imported("dictionary_learning.trainers.top_k", "dictionary-learning")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Weights in our names and shapes: nothing zero, nothing tied, decoder rows of unit norm."""
    w_dec = torch.nn.functional.normalize(torch.randn(N_LATENTS, N_FEATURES), dim=1)
    return {
        "W_enc": w_dec.T + 0.1 * torch.randn(N_FEATURES, N_LATENTS),
        "b_enc": 0.1 * torch.randn(N_LATENTS),
        "W_dec": w_dec,
        "b_dec": 0.5 * torch.randn(N_FEATURES),
    }


@pytest.fixture
def x() -> Tensor:
    """Rows with more than K positive pre-activations each, for the weights above."""
    return torch.randn(N_ROWS, N_FEATURES)
