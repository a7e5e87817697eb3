"""A dictionary as a product of butterfly factors: products in O(D log D) a row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import as_tensor


@dataclass(frozen=True, eq=False)
class Butterfly:
    """Square blocks of a dictionary, each a product of log2 D sparse factors.

    Factor l of a block couples pairs of coordinates at distance ``D / 2^l`` and has 2 D entries, so
    that a product with a block takes ``2 D log2 D`` multiplications in place of ``D^2``.

    Parameters
    ----------
    factors : tuple of Tensor, each of shape (B, 2^(l-1), D / 2^l, 2, 2) for l = 1, 2, ...
        Entries of the factors of B blocks, the leftmost factor first.
    columns : Tensor of shape (D,)
        Order of the dictionary's columns in which it is a product.
    """

    factors: tuple[Tensor, ...]
    columns: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (F, D) of the dictionary."""
        n_features = len(self.columns)
        return self.factors[0].shape[0] * n_features, n_features

    @property
    def n_entries(self) -> int:
        """Numbers held, against F * D of the dictionary."""
        return sum(factor.numel() for factor in self.factors)

    def decode(self, codes: Tensor) -> Tensor:
        """Return ``codes @ dictionary``, for dense codes of shape (N, F)."""
        n_rows, n_features = len(codes), self.shape[1]
        rows = codes.reshape(n_rows, -1, n_features)
        for factor in self.factors:
            blocks, outer, inner = factor.shape[:3]
            pairs = rows.reshape(n_rows, blocks, outer, 2, inner)
            pairs = torch.einsum("nbaic,bacij->nbajc", pairs, factor)
            rows = pairs.reshape(n_rows, blocks, n_features)
        return torch.empty_like(rows[:, 0]).index_copy(1, self.columns, rows.sum(1))

    def correlate(self, x: Tensor) -> Tensor:
        """Return ``x @ dictionary^H``, the products of rows (N, D) with all atoms."""
        n_rows, (n_latents, n_features) = len(x), self.shape
        blocks = n_latents // n_features
        rows = x[:, self.columns][:, None].expand(n_rows, blocks, n_features)
        for factor in reversed(self.factors):
            _, outer, inner = factor.shape[:3]
            pairs = rows.reshape(n_rows, blocks, outer, 2, inner)
            pairs = torch.einsum("nbajc,bacij->nbaic", pairs, factor.conj())
            rows = pairs.reshape(n_rows, blocks, n_features)
        return rows.reshape(n_rows, n_latents)

    def to_dense(self) -> Tensor:
        """Return the dictionary of shape (F, D)."""
        return self.decode(torch.eye(self.shape[0]).to(self.factors[0]))

    def relative_error(self, dictionary: Tensor) -> float:
        """Return ``||dictionary - product|| / ||dictionary||``."""
        dictionary = as_tensor(dictionary)
        return float((dictionary - self.to_dense()).norm() / dictionary.norm())


def butterfly(dictionary: Tensor, *, bit_reversed: bool = False) -> Butterfly:
    """Factor a dictionary into butterflies by singular value decompositions, without iterating.

    Exact for dictionaries that are such products, among them Hadamard and, with their columns in
    bit-reversed order, Fourier matrices. A general dictionary is not near one: look at
    `Butterfly.relative_error` before use.

    Parameters
    ----------
    dictionary : Tensor or ndarray of shape (F, D), floating or complex
        D a power of two, at least 2; F a multiple of D. Each block of D atoms is factored alone.
    bit_reversed : bool, default=False
        Whether to factor the columns in bit-reversed order.

    Returns
    -------
    Butterfly

    Raises
    ------
    ValueError
        If the shape is another, or an entry is not finite.

    References
    ----------
    Zheng, Riccietti & Gribonval (2023), "Efficient identification of butterfly sparse matrix
    factorizations", algorithm 4.1. arXiv:2110.01230. Le Magoarou & Gribonval (2016), "Flexible
    multilayer sparse approximations of matrices and applications", for dictionaries as products.

    Examples
    --------
    >>> hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> for _ in range(5):
    ...     hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    >>> fast = butterfly(hadamard)
    >>> fast.shape, fast.n_entries, fast.relative_error(hadamard) < 1e-5
    ((64, 64), 768, True)
    """
    dictionary = as_tensor(dictionary)
    shape = tuple(dictionary.shape)
    n_features = shape[-1] if shape else 0
    power = n_features >= 2 and n_features & (n_features - 1) == 0
    if len(shape) != 2 or not power or shape[0] == 0 or shape[0] % n_features:
        raise ValueError(
            "`dictionary` must have shape (F, D) with D a power of two and F a multiple of D; got "
            f"{shape}. Fill it up with zeros."
        )
    if not bool(torch.isfinite(dictionary).all()):
        raise ValueError("`dictionary` must be finite; it is not.")
    columns = torch.arange(n_features, device=dictionary.device)
    if bit_reversed:
        bits = n_features.bit_length() - 1
        columns = sum(((columns >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
        columns = torch.as_tensor(columns)
    blocks = dictionary[:, columns].reshape(-1, n_features, n_features)
    return Butterfly(tuple(_split(blocks[:, None, None])), columns)


def _split(product: Tensor) -> list[Tensor]:
    """Return the factors of dense parts (B, A, C, m, m), each coupling m coordinates.

    Rows ``(u', v)`` and columns ``(u, v')`` of a part with the same u and v are, in a product of a
    left factor over u and a right factor over v, a matrix of rank one; these do not overlap.
    """
    blocks, outer, inner, size, _ = product.shape
    if size == 2:
        return [product]
    u = 1 << ((size.bit_length() - 1) // 2)
    v = size // u
    parts = product.reshape(blocks, outer, inner, u, v, u, v)  # b a c u' v u v'
    parts = parts.permute(0, 1, 2, 4, 5, 3, 6)  # b a c v u u' v'
    left, values, right = torch.linalg.svd(parts, full_matrices=False)
    root = values[..., :1].sqrt()
    left, right = left[..., 0] * root, right[..., 0, :] * root
    left = left.permute(0, 1, 3, 2, 5, 4).reshape(blocks, outer, v * inner, u, u)
    right = right.permute(0, 1, 4, 2, 3, 5).reshape(blocks, outer * u, inner, v, v)
    return _split(left) + _split(right)
