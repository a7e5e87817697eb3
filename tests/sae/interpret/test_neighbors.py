import pytest
import torch

from sae.interpret import nearest_latents


@pytest.mark.parametrize("chunk_size", [1, 5, 2048])
def test_equals_all_pairs(chunk_size: int) -> None:
    rows = torch.randn(23, 7) * torch.rand(23, 1) * 10
    latents, cosines = nearest_latents(rows, n=4, chunk_size=chunk_size)
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    for latent in range(23):
        pairs = [(float(unit[latent] @ unit[other]), other) for other in range(23)]
        expected = sorted((pair for pair in pairs if pair[1] != latent), reverse=True)[:4]
        assert latents[latent].tolist() == [other for _, other in expected]
        wanted = torch.tensor([cosine for cosine, _ in expected])
        torch.testing.assert_close(cosines[latent], wanted)


def test_a_latent_is_not_its_own_neighbor_even_beside_a_twin() -> None:
    latents, cosines = nearest_latents(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), n=1)
    assert latents.flatten().tolist()[:2] == [1, 0]
    assert cosines.flatten()[:2].tolist() == [1.0, 1.0]


def test_a_row_of_zeros_has_cosine_zero() -> None:
    _, cosines = nearest_latents(torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), n=2)
    assert cosines[0].tolist() == [0.0, 0.0]


def test_few_latents_have_few_neighbors() -> None:
    assert nearest_latents(torch.eye(3), n=8)[0].shape == (3, 2)
    assert nearest_latents(torch.eye(1), n=8)[0].shape == (1, 0)


def test_gradients_are_not_asked_for() -> None:
    rows = torch.nn.Parameter(torch.randn(6, 3))
    assert not nearest_latents(rows)[1].requires_grad


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="`W_dec` must be a floating tensor; got dtype int64"):
        nearest_latents(torch.ones(3, 3, dtype=torch.long))


def test_atoms_that_are_products_of_rows() -> None:
    left, right = torch.randn(9, 4), torch.randn(9, 4)
    atoms = torch.einsum("fd,fe->fde", left, right).flatten(1)
    latents, cosines = nearest_latents(left, n=3, right=right, chunk_size=4)
    wanted_latents, wanted = nearest_latents(atoms, n=3)
    assert torch.equal(latents, wanted_latents)
    torch.testing.assert_close(cosines, wanted)
