"""Data to try things on: sparse data with a known dictionary, and a small text that ships here."""

import gzip
from collections.abc import Iterable, Iterator
from importlib.resources import files

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.codes import SparseCodes
from sparsecode.ops.decode import decode


def make_sparse_data(
    n_samples: int,
    n_features: int,
    n_latents: int,
    k: int,
    *,
    noise: float = 0.0,
    signed: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor, SparseCodes]:
    """Draw rows that are sums of exactly `k` atoms of a random unit-norm dictionary.

    ``X = codes @ dictionary + noise * e`` with standard normal ``e``. The `k` latents of a row are
    a uniformly drawn subset, their values uniform in [0.5, 1.5]; atoms are uniform on the sphere.

    Parameters
    ----------
    n_samples : int
        Rows N.
    n_features : int
        Width D of a row.
    n_latents : int
        Atoms F.
    k : int
        Active latents of each row, at most `n_latents`.
    noise : float, default=0.0
        Standard deviation of the Gaussian noise on each entry of X.
    signed : bool, default=False
        Whether half of the values are negative.
    seed : int, default=0
        The same seed gives the same data on the CPU of the same torch version.

    Returns
    -------
    X : Tensor of shape (N, D), float32
        The data.
    dictionary : Tensor of shape (F, D), float32
        One atom of unit norm a row.
    codes : SparseCodes of shape (N, F)
        What the rows were made from, `k` entries each.

    Examples
    --------
    >>> X, dictionary, codes = make_sparse_data(100, 16, 32, k=3)
    >>> X.shape, dictionary.shape, codes.shape
    (torch.Size([100, 16]), torch.Size([32, 16]), (100, 32))
    >>> bool((codes.n_active == 3).all())
    True
    """
    n_samples = check_int("n_samples", n_samples, low=1)
    n_features = check_int("n_features", n_features, low=1)
    n_latents = check_int("n_latents", n_latents, low=1)
    k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
    noise = check_float("noise", noise, low=0.0)
    generator = torch.Generator().manual_seed(check_int("seed", seed))
    # Seeded once more by its own first number: a model that starts from the same seed would else
    # draw the very same rows, and begin with the dictionary that it is meant to find.
    generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))

    dictionary = torch.randn(n_latents, n_features, generator=generator)
    dictionary /= dictionary.norm(dim=1, keepdim=True)
    indices = _random_subsets(n_samples, n_latents, k, generator)
    values = torch.rand(n_samples, k, generator=generator) + 0.5
    if signed:
        values *= torch.randint(0, 2, (n_samples, k), generator=generator) * 2 - 1
    codes = SparseCodes(values, indices, n_latents)
    x_ND = decode(codes, dictionary)
    if noise > 0:
        x_ND = x_ND + noise * torch.randn(x_ND.shape, generator=generator)
    return x_ND, dictionary, codes


def load_shakespeare(*, max_characters: int = 1000) -> list[str]:
    """Return the plays of Shakespeare that ship with the package, as a list of passages.

    The text (1.1 MB, public domain) is cut at blank lines into speeches; neighboring speeches are
    joined, and speeches that are too long are cut at line ends, so that passages come close to
    `max_characters` (1,000 characters are about 250 tokens of a BERT vocabulary).

    Parameters
    ----------
    max_characters : int, default=1000
        No passage is longer, except that a single line is never cut.

    Returns
    -------
    list of str
        Passages in the order of the text.

    Examples
    --------
    >>> passages = load_shakespeare()
    >>> print(passages[0][:61])
    First Citizen:
    Before we proceed any further, hear me speak.
    """
    limit = check_int("max_characters", max_characters, low=1)
    raw = (files("sparsecode") / "data" / "shakespeare.txt.gz").read_bytes()
    speeches = gzip.decompress(raw).decode("ascii").strip().split("\n\n")
    pieces = (piece for speech in speeches for piece in _join(speech.split("\n"), "\n", limit))
    return list(_join(pieces, "\n\n", limit))


def _random_subsets(n_rows: int, n_latents: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw a uniform k-subset of range(n_latents) a row, without an (N, F) matrix.

    Floyd's algorithm, all rows at once: at step j a uniform t in [0, j] is taken, or j itself when
    the row holds t already.
    """
    indices = torch.full((n_rows, k), -1)
    for column, j in enumerate(range(n_latents - k, n_latents)):
        drawn = torch.randint(0, j + 1, (n_rows, 1), generator=generator)
        taken = (indices == drawn).any(1)
        indices[:, column] = drawn[:, 0].masked_fill(taken, j)
    return indices


def _join(parts: Iterable[str], separator: str, limit: int) -> Iterator[str]:
    """Join neighbors while the result has at most `limit` characters."""
    joined = None
    for part in parts:
        if joined is not None and len(joined) + len(separator) + len(part) <= limit:
            joined = f"{joined}{separator}{part}"
            continue
        if joined is not None:
            yield joined
        joined = part
    if joined is not None:
        yield joined
