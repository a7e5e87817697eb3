"""Token windows: the text around example rows, with a latent's value on every token of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.interpret.encoded import EncodedRows
from sparsecode._checks import check_int


@dataclass(frozen=True)
class TokenWindows:
    """What `token_windows` returns for E examples; windows have at most W tokens.

    Parameters
    ----------
    starts : Tensor of shape (E,), int64
        First row of each window.
    lengths : Tensor of shape (E,), int64
        Number of its tokens; 0 for an example whose row was -1.
    centers : Tensor of shape (E,), int64
        Place of the example's own token in its window.
    token_ids : Tensor of shape (E, W), int64
        -1 after the end of a window.
    activations : Tensor of shape (E, W), float32
        Value of the example's latent on each token.
    """

    starts: Tensor
    lengths: Tensor
    centers: Tensor
    token_ids: Tensor
    activations: Tensor


def token_windows(
    encoded: EncodedRows, latents: Tensor, rows: Tensor, *, before: int = 16, after: int = 8
) -> TokenWindows:
    """Read the tokens around each row, and the latent's value on each of them.

    A window stays inside the context that the transformer saw: it ends where the document changes
    or the position in the context does not rise.

    Parameters
    ----------
    encoded : EncodedRows
        Of a cache: its ``token_ids``, ``positions`` and ``document_ids`` are read.
    latents, rows : Tensor of shape (E,), int64
        Latent and row of each example; row -1 gives an empty window.
    before : int, default=16
        Most tokens in front of the example's own.
    after : int, default=8
        Most tokens behind it.

    Returns
    -------
    TokenWindows
    """
    data = encoded.data
    before = check_int("before", before, low=0)
    after = check_int("after", after, low=0)
    offsets = torch.arange(-before, after + 1)
    wished = rows[:, None] + offsets
    inside = (wished >= 0) & (wished < encoded.n_rows) & (rows >= 0)[:, None]
    needed, place = wished[inside].unique(return_inverse=True)

    def spread(values: Tensor) -> Tensor:
        return torch.full(wished.shape, -1).masked_scatter_(inside, values[place])

    tokens, positions, documents = (
        spread(read_rows(read, needed).long())
        for read in (data.token_ids, data.positions, data.document_ids)
    )
    joined = inside[:, 1:] & inside[:, :-1]
    joined &= (positions.diff(dim=1) > 0) & (documents.diff(dim=1) == 0)
    left = joined[:, :before].flip(1).long().cumprod(1).sum(1)
    right = joined[:, before:].long().cumprod(1).sum(1)
    lengths = torch.where(rows >= 0, left + right + 1, 0)

    # Shift every window to the left edge of its row of the tables.
    columns = torch.arange(offsets.numel()) + (before - left)[:, None]
    inside = torch.arange(offsets.numel()) < lengths[:, None]
    columns = torch.where(inside, columns, 0)
    table_rows = wished.gather(1, columns)
    values = encoded.values_at(latents[:, None].expand_as(columns)[inside], table_rows[inside])
    return TokenWindows(
        starts=torch.where(rows >= 0, rows - left, 0),
        lengths=lengths,
        centers=torch.where(rows >= 0, left, 0),
        token_ids=tokens.gather(1, columns).masked_fill(~inside, -1),
        activations=torch.zeros(columns.shape).masked_scatter_(inside, values),
    )


def read_rows(read: Callable[[int, int], Tensor], rows: Tensor, *, gap: int = 64) -> Tensor:
    """Return ``read`` of ascending rows; rows less than `gap` apart are read in one piece."""
    if rows.numel() == 0:
        return read(0, 0)
    pieces = rows.tensor_split((rows.diff() > gap).nonzero().squeeze(1) + 1)
    blocks = [(piece, read(int(piece[0]), int(piece[-1]) + 1)) for piece in pieces]
    return torch.cat([block[piece - piece[0]] for piece, block in blocks])
