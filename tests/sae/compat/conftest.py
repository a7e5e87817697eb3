"""Weights for fixtures in the formats of other libraries: small, untied, nothing zero."""

import json

import pytest
import torch
from safetensors.torch import save_file

N_FEATURES, N_LATENTS, K = 6, 20, 3


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Tensors under our names and in our shapes; decoder rows of different norms."""
    draw = torch.Generator().manual_seed(0)
    return {
        "W_enc": torch.randn(N_FEATURES, N_LATENTS, generator=draw),
        "b_enc": 0.3 * torch.randn(N_LATENTS, generator=draw),
        "W_dec": torch.randn(N_LATENTS, N_FEATURES, generator=draw),
        "b_dec": 0.5 * torch.randn(N_FEATURES, generator=draw),
    }


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(11, N_FEATURES, generator=torch.Generator().manual_seed(1)) + 0.3


@pytest.fixture
def threshold() -> torch.Tensor:
    return torch.linspace(0.1, 1.5, N_LATENTS)


@pytest.fixture
def put(tmp_path):
    """Write JSON, tensors and torch files into a folder, which is returned."""

    def write(**files):
        for name, value in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True, parents=True)
            path = path.with_name(path.name.replace("_dot_", "."))
            if path.suffix == ".json":
                path.write_text(json.dumps(value))
            elif path.suffix == ".pt":
                torch.save(value, path)
            else:
                save_file({key: tensor.contiguous() for key, tensor in value.items()}, path)
        return tmp_path

    return write


@pytest.fixture
def same():
    """Compare codes and reconstructions of a model with dense ones."""

    def compare(model, x, codes, recon):
        torch.testing.assert_close(model.encode(x).to_dense(), codes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x), recon, rtol=1e-5, atol=1e-5)
        assert not model.training

    return compare


@pytest.fixture
def keep():
    """Keep the k largest of each row."""

    def keep(z, k):
        values, ids = z.relu().topk(k)
        return torch.zeros_like(z).scatter(-1, ids, values)

    return keep
