"""Exact selection without a full top-k: group maxima, then one partition of unique keys.

The k largest entries of a row lie in the k groups with the largest maxima, since each of those
maxima would otherwise displace them. One pass of `amax` over strided groups leaves F / G maxima;
the same argument applied to the maxima leaves fewer still. The few hundred candidates that remain
become int64 keys, the order-preserving bits of the float above and the reversed id below, so that
a partition (NumPy's, vectorized) settles values, ids and ties at once.

A tie can hide only in a group that was left out, and only if the largest such maximum equals the
k-th value; those rows, and rows with NaN, are selected again by `exact_rows`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GROUP = 8
BATCH_GROUP = 32  # of a whole batch, of which only one entry in hundreds is chosen
DIRECT_COLUMNS = 384  # a partition of this many keys is as fast as one more level
BLOCK_ENTRIES = 1 << 22  # entries of a row-major input that are handled at a time
PARALLEL_KEYS = 1 << 18  # below this a second thread costs more than it saves
_LOW = 0xFFFFFFFF


def supports(x: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"dtype {str(x.dtype).removeprefix('torch.')}"
    if x.shape[-1] >= 2**31:
        return f"{x.shape[-1]} columns"
    return None


def topk(x_NF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, k) of the k first entries of each row in the total order."""
    n_rows, width = x_NF.shape
    values, ids = x_NF.new_empty(n_rows, k), x_NF.new_empty(n_rows, k, dtype=torch.long)
    block = max(1, BLOCK_ENTRIES // width)
    for start in range(0, n_rows, block):
        rows = slice(start, min(start + block, n_rows))
        picked, ids[rows] = _select(_Rows(x_NF.detach()[rows].float().contiguous()), k)
        values[rows] = picked.to(x_NF.dtype)
    return values, ids


def topk_columns(key_FN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select from float32 columns: `key_FN` has shape (F, N), contiguous; results are (N, k)."""
    return _select(_Columns(key_FN), k)


def exact_rows(x_NF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select with all ties settled: everything above the k-th value, then the lowest equal ids."""
    key_NF = torch.where(x_NF.isnan(), -torch.inf, x_NF)
    kth_N1 = key_NF.topk(k, dim=-1).values[:, -1:]
    above_NF, equal_NF = key_NF > kth_N1, key_NF == kth_N1
    room_N1 = k - above_NF.sum(-1, keepdim=True)
    chosen_NF = above_NF | (equal_NF & (equal_NF.cumsum(-1) <= room_N1))
    ids = chosen_NF.nonzero()[:, 1].reshape(-1, k)
    order = key_NF.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
    ids = ids.gather(-1, order)
    return x_NF.gather(-1, ids).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), ids


def batch_topk(x_NF: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, ids and row boundaries of the `total` first entries of the flattened batch."""
    n_rows, width = x_NF.shape
    key = x_NF.float().reshape(-1)
    flat = _first_of_all(key, total)
    if flat is None:
        key = torch.where(key.isnan(), -torch.inf, key)
        flat = _first_of_all(key, total)
        assert flat is not None, "no NaN is left"
    rows = torch.div(flat, width, rounding_mode="floor")
    # Ids ascend so far, so that the stable sorts below leave ties at the lower id.
    order = key[flat].argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rows, ids = rows[order], (flat - rows * width)[order]
    values = x_NF[rows, ids].nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    crow = torch.nn.functional.pad(torch.bincount(rows, minlength=n_rows).cumsum(0), (1, 0))
    return values, ids, crow


@dataclass(frozen=True)
class _Rows:
    """Entries of row n are ``key[n]``; contiguous."""

    key: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.key.shape[0], self.key.shape[1]

    def rows(self, rows: Tensor | slice = slice(None)) -> Tensor:
        return self.key[rows]

    def maxima(self, n_groups: int) -> "_Rows":
        """Group j holds the ids j, j + n_groups, ...: the reduction then runs along memory."""
        whole = self.key[:, : n_groups * GROUP].unflatten(1, (GROUP, n_groups))
        return _Rows(whole.amax(1))

    def members(self, groups: Tensor, steps: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries of the chosen groups and of the rest, and their reversed ids."""
        ids = _with_rest(groups.unsqueeze(2) + steps, rest)
        return self.key.gather(1, ids), _LOW - ids


@dataclass(frozen=True)
class _Columns:
    """Entries of row n are ``key[:, n]``; contiguous, as ``W.T @ x.T`` leaves them."""

    key: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.key.shape[1], self.key.shape[0]

    def rows(self, rows: Tensor | slice = slice(None)) -> Tensor:
        return self.key[:, rows].t().contiguous()

    def maxima(self, n_groups: int) -> "_Columns":
        whole = self.key[: n_groups * GROUP].unflatten(0, (GROUP, n_groups))
        return _Columns(whole.amax(0))

    def members(self, groups: Tensor, steps: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries of the chosen groups and of the rest, and their reversed ids."""
        n_rows = self.key.shape[1]
        columns = torch.arange(n_rows).unsqueeze(1)
        first = (groups * n_rows + columns).unsqueeze(2)
        places = _with_rest(first + steps * n_rows, rest * n_rows, columns)
        reversed_ids = _with_rest((_LOW - groups).unsqueeze(2) - steps, _LOW - rest)
        return self.key.view(-1).take(places), reversed_ids


def _with_rest(members: Tensor, rest: Tensor, offset: Tensor | int = 0) -> Tensor:
    """Return members of shape (N, groups, GROUP) flat, the rest appended to each row."""
    flat = members.flatten(1)
    if not rest.numel():
        return flat
    return torch.cat([flat, (rest + offset).expand(len(flat), -1)], dim=1)


def _select(table: _Rows | _Columns, k: int) -> tuple[Tensor, Tensor]:
    keys, doubtful = _ladder(table, k)
    values, ids = _split(keys)
    if bool(doubtful.any()):
        for part in doubtful.nonzero().flatten().split(256):
            values[part], ids[part] = exact_rows(table.rows(part), k)
    return values, ids


def _ladder(table: _Rows | _Columns, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest keys of each row, descending, and which rows (N,) are in doubt."""
    width = table.shape[1]
    if width <= max(DIRECT_COLUMNS, (k + 1) * GROUP):
        keys = _largest(_keys(table.rows(), _LOW - torch.arange(width), positive=False), k)
        return keys, _holds_nan(keys)
    n_groups = width // GROUP
    tops, _ = _ladder(table.maxima(n_groups), k + 1)
    groups, steps = _LOW - (tops & _LOW), torch.arange(GROUP) * n_groups
    rest = torch.arange(n_groups * GROUP, width)  # fills no group, so it is always a candidate
    candidates, reversed_ids = table.members(groups, steps, rest)
    # Once k groups have a positive maximum, nothing that is not positive can be chosen.
    positive = bool((tops[:, k - 1] >= 1 << 32).all())
    keys = _largest(_keys(candidates, reversed_ids, positive=positive), k)
    # A group that was left out holds nothing above tops[:, k]; at equality it may hide a tie.
    tie = (tops[:, k] >> 32) >= (keys[:, k - 1] >> 32)
    return keys, tie | _holds_nan(keys) | _holds_nan(tops)


def _keys(values: Tensor, reversed_ids: Tensor, *, positive: bool) -> Tensor:
    """Return int64 keys: the larger float first, then the larger reversed id.

    The bits of positive floats rise with them as they are. In general -0 becomes +0. NaN, of
    either sign, becomes the one without, which sorts above +inf: a look at the first key finds it.
    """
    if positive:
        ordered = torch.where(values.isnan(), torch.nan, values).view(torch.int32)
    else:
        bits = torch.where(values.isnan(), torch.nan, values + 0.0).view(torch.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return torch.add(reversed_ids, ordered, alpha=1 << 32)


def _split(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), _LOW - (keys & _LOW)


def _holds_nan(keys: Tensor) -> Tensor:
    return (keys[:, 0] >> 32) > 0x7F800000


def _largest(keys: Tensor, k: int) -> Tensor:
    """Return the k largest keys of each row, descending."""
    table = keys.numpy()
    n_threads = min(torch.get_num_threads(), keys.numel() // PARALLEL_KEYS)
    if n_threads > 1:
        with ThreadPoolExecutor(n_threads) as pool:
            parts = np.concatenate(
                list(pool.map(lambda part: _partition(part, k), np.array_split(table, n_threads)))
            )
    else:
        parts = _partition(table, k)
    return torch.from_numpy(parts[:, ::-1].copy())


def _partition(table: np.ndarray, k: int) -> np.ndarray:
    cut = table.shape[1] - k
    top = np.partition(table, cut, axis=1)[:, cut:] if cut > 0 else table.copy()
    top.sort(axis=1)
    return top


def _first_of_all(key: Tensor, total: int) -> Tensor | None:
    """Return the places of the `total` first entries of a float32 vector, ascending; None with NaN.

    Every entry that may be chosen lies in a group whose maximum is at least the `total`-th one.
    """
    n_groups = key.numel() // BATCH_GROUP
    places, candidates = None, key
    if n_groups > total:
        groups = key[: n_groups * BATCH_GROUP].view(BATCH_GROUP, n_groups)
        maxima = groups.amax(0)
        if bool(maxima.isnan().any()):
            return None
        chosen = (maxima >= _kth_value(maxima, total)).nonzero().flatten()
        members = chosen + torch.arange(BATCH_GROUP).unsqueeze(1) * n_groups
        rest = torch.arange(n_groups * BATCH_GROUP, key.numel())
        places = torch.cat([members.reshape(-1), rest])
        candidates = key[places]
    if bool(candidates.isnan().any()):
        return None
    last = _kth_value(candidates, total)
    above = (candidates > last).nonzero().flatten()
    equal = (candidates == last).nonzero().flatten()
    if places is not None:
        above, equal = places[above], places[equal].sort().values
    return torch.cat([above, equal[: total - above.numel()]]).sort().values


def _kth_value(vector: Tensor, k: int) -> float:
    """Return the k-th largest entry of a float32 vector without NaN."""
    place = vector.numel() - k
    return float(np.partition(vector.numpy(), place)[place])
