import numpy as np
import pytest
import torch
from scipy.linalg import dft, hadamard

from sparsecode.decomposition import Butterfly, butterfly


def random_product(n: int, blocks: int = 1) -> torch.Tensor:
    """Return a dictionary that is a product of butterflies."""
    shapes = [(blocks, 1 << level, n >> (level + 1), 2, 2) for level in range(n.bit_length() - 1)]
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return Butterfly(tuple(factors), torch.arange(n)).to_dense()


@pytest.mark.parametrize("n", [2, 4, 8, 32, 128])
def test_hadamard_matrices_are_exact(n: int) -> None:
    matrix = torch.from_numpy(hadamard(n).astype(float))
    fast = butterfly(matrix)
    assert fast.relative_error(matrix) < 1e-12
    assert fast.n_entries == 2 * n * (n.bit_length() - 1)


@pytest.mark.parametrize("n", [8, 64])
def test_fourier_matrices_are_exact_in_bit_reversed_order(n: int) -> None:
    matrix = torch.from_numpy(dft(n))
    assert butterfly(matrix, bit_reversed=True).relative_error(matrix) < 1e-12
    assert butterfly(matrix).relative_error(matrix) > 0.1
    x = torch.randn(3, n, dtype=torch.complex128)
    fast = butterfly(matrix, bit_reversed=True)
    torch.testing.assert_close(fast.decode(x), torch.fft.fft(x))
    torch.testing.assert_close(fast.correlate(x), torch.fft.ifft(x) * n)


@pytest.mark.parametrize(("n", "blocks"), [(16, 1), (16, 3), (32, 2)])
def test_products_are_found_again(n: int, blocks: int) -> None:
    dictionary = random_product(n, blocks)
    assert dictionary.shape == (n * blocks, n)
    fast = butterfly(dictionary)
    assert fast.relative_error(dictionary) < 1e-10
    codes, x = torch.randn(5, n * blocks).double(), torch.randn(5, n).double()
    torch.testing.assert_close(fast.decode(codes), codes @ dictionary)
    torch.testing.assert_close(fast.correlate(x), x @ dictionary.T)


def test_a_random_dictionary_is_no_such_product() -> None:
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert 0.5 < butterfly(matrix).relative_error(matrix) < 1


def test_float32_and_arrays() -> None:
    fast = butterfly(hadamard(16).astype(np.float32))
    assert fast.to_dense().dtype == torch.float32
    assert fast.relative_error(hadamard(16).astype(np.float32)) < 1e-5


@pytest.mark.parametrize("shape", [(4,), (3, 4), (6, 6), (1, 1), (0, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`dictionary` must have shape .*D a power of two"):
        butterfly(torch.zeros(shape))
