import pytest
import torch

from sparsecode.decomposition.encoders import ALISTA, ENCODERS, LISTA, TanhEncoder
from sparsecode.penalties import L1
from sparsecode.solvers import ISTA


@pytest.fixture(name="atoms")
def atoms_() -> torch.Tensor:
    atoms = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return atoms / atoms.norm(dim=1, keepdim=True)


@pytest.fixture(name="x")
def x_() -> torch.Tensor:
    return torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_layers", [0, 1, 4])
def test_lista_begins_as_ista(n_layers: int, atoms: torch.Tensor, x: torch.Tensor) -> None:
    predicted = LISTA(atoms, 0.1, n_layers)(x)
    step = 1 / torch.linalg.matrix_norm(atoms, 2).item() ** 2
    z = torch.zeros(5, 12, dtype=torch.float64)
    for _ in range(n_layers + 1):
        z = L1(0.1).prox(z - step * (z @ atoms - x) @ atoms.T, step)
    torch.testing.assert_close(predicted, z)


def test_a_deep_lista_is_the_lasso(atoms: torch.Tensor, x: torch.Tensor) -> None:
    exact = ISTA(tol=1e-8, max_iter=50_000).solve(x, atoms, penalty=L1(0.1)).codes.to_dense()
    torch.testing.assert_close(LISTA(atoms, 0.1, 5000)(x), exact, atol=1e-4, rtol=1e-4)


def test_analytic_weights_are_the_least_coherent_ones(atoms: torch.Tensor) -> None:
    weights = ALISTA(atoms, 0.1, 1).analytic
    torch.testing.assert_close((weights * atoms).sum(1), torch.ones(12, dtype=torch.float64))
    best = (weights @ atoms.T).norm()
    for seed in range(5):
        move = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed)).double()
        move -= (move * atoms).sum(1, keepdim=True) * atoms  # keeps the products with the own atom
        assert ((weights + 0.01 * move) @ atoms.T).norm() > best


def test_analytic_weights_follow_the_dictionary(atoms: torch.Tensor, x: torch.Tensor) -> None:
    encoder = ALISTA(atoms, 0.1, 2)
    before = encoder(x)
    encoder.follow(-atoms)
    torch.testing.assert_close(encoder(x), -before)
    assert sum(part.numel() for part in encoder.parameters()) == 6


def test_the_tanh_encoder_is_bounded_by_its_gain(atoms: torch.Tensor, x: torch.Tensor) -> None:
    assert TanhEncoder(atoms, 0.1, 1)(1e6 * x).abs().max() <= 1


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_gets_a_gradient(name: str, atoms: torch.Tensor, x: torch.Tensor) -> None:
    encoder = ENCODERS[name](atoms, 0.1, 2)
    encoder(3 * x).square().sum().backward()
    for label, parameter in encoder.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label
