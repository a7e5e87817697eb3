"""Exact selection on the GPU: one read of the row, then a few kilobytes of candidates.

The same ladder as on the CPU. Groups of neighbouring entries give their maxima; the k first groups,
ordered by maximum and then by place, hold the k first entries, ties included: each of them
has an entry that precedes every entry of a group left out. The k-th value among the
candidates is found bit by bit, exactly, from the order-preserving integer of the float. No
atomics, no buffer that could overflow, no step that waits for the host.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (a type checker takes `triton` for this file, and jitted functions for ordinary ones)

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecode.ops import _launch

MAX_GROUP = 128
BLOCK = 4096  # candidates of one row that stay in registers while the k-th is found
MAXIMA_BLOCK = 4096  # entries that one program turns into group maxima
RANK_TILE = 8192  # comparisons at a time
MAX_RANKED = 1024  # above, sorting beats counting
BINS = 2048
FLAT_BLOCK = 4096

_LOWEST = tl.constexpr(-(2**31))


def supports(x: Tensor) -> str | None:
    """Return the objection to these kernels, or None."""
    if x.shape[-1] >= 2**31:
        return f"{x.shape[-1]} columns"
    return _launch.objection(_group_maxima, x)


def topk(x_NF: Tensor, k: int, *, keep_nan: bool = False) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, k) of the k first entries of each row in the total order.

    With `keep_nan` a NaN that has to be taken stays NaN, so that the caller sees it; else it is 0.
    """
    x_NF = x_NF.detach()
    n_rows, width = x_NF.shape
    group = _group_size(width, k)
    groups = x_NF.new_empty(n_rows, k, dtype=torch.int32)
    if group > 1:
        n_groups = _launch.cdiv(width, group)
        maxima = x_NF.new_empty(n_rows, n_groups, dtype=torch.float32)
        per_program = max(1, MAXIMA_BLOCK // group)
        _launch.launch(
            _group_maxima,
            (n_rows, _launch.cdiv(n_groups, per_program)),
            x_NF, maxima, x_NF.stride(0), x_NF.stride(1), width, n_groups,
            GROUP=group, GROUPS=min(per_program, _launch.power_of_2(n_groups)),
        )  # fmt: skip
        _choose(maxima, groups, groups, k, 1)
    ids = x_NF.new_empty(n_rows, k, dtype=torch.int32)
    _choose(x_NF, groups, ids, k, group)
    return _ordered(x_NF, ids, keep_nan)


def batch_topk(x_NF: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, ids and row boundaries of the `total` first entries of the flattened batch."""
    x_NF = x_NF.detach()
    n_rows, width = x_NF.shape
    group = _group_size(x_NF.numel(), total)
    groups = x_NF.new_empty(0, dtype=torch.int64)
    if group > 1:
        n_groups = _launch.cdiv(x_NF.numel(), group)
        maxima = x_NF.new_empty(1, n_groups, dtype=torch.float32)
        per_program = max(1, MAXIMA_BLOCK // group)
        _launch.launch(
            _flat_maxima,
            (_launch.cdiv(n_groups, per_program),),
            x_NF, maxima, x_NF.stride(0), x_NF.stride(1), width, x_NF.numel(), n_groups,
            GROUP=group, GROUPS=per_program,
        )  # fmt: skip
        groups = _choose_flat(maxima, groups, total, 1)
    flat = _choose_flat(x_NF, groups, total, group)
    rows = torch.div(flat, width, rounding_mode="floor")
    values = x_NF[rows, flat - rows * width]
    key = torch.where(values.isnan(), -torch.inf, values.float()) + 0.0
    bits = key.view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    order = ((rows << 32) - ordered).argsort(stable=True)  # `flat` ascends, so ties keep ids low
    starts = torch.arange(n_rows + 1, device=x_NF.device)
    values = torch.where(values.isnan(), 0.0, values)[order].to(x_NF.dtype)
    return values, (flat - rows * width)[order], torch.searchsorted(rows, starts)


def _group_size(width: int, k: int) -> int:
    """Return the power of two near sqrt(width / k), or 1 where groups would save nothing."""
    if width < 4 * k or width <= 256:
        return 1
    return min(MAX_GROUP, _launch.power_of_2(int((width / k) ** 0.5)))


def _choose(source: Tensor, groups: Tensor, out: Tensor, k: int, group: int) -> None:
    """Write the ids of the k first candidates of each row of `source` to `out`, ascending."""
    n_rows, width = source.shape
    n_candidates = width if group == 1 else k * group
    block = min(_launch.power_of_2(n_candidates), BLOCK)
    _launch.launch(
        _choose_rows, (n_rows,),
        source, groups, out, source.stride(0), source.stride(1), width, n_candidates, k,
        GROUP=group, BLOCK=block, ONE=n_candidates <= block,
        num_warps=8 if block >= 2048 else 4,
    )  # fmt: skip


def _ordered(x_NF: Tensor, ids: Tensor, keep_nan: bool) -> tuple[Tensor, Tensor]:
    """Return values and ids, descending; `ids` ascend, so that a stable order settles ties."""
    n_rows, k = ids.shape
    if k > MAX_RANKED:
        values = x_NF.gather(-1, ids.long())
        key = torch.where(values.isnan(), -torch.inf, values.float()) + 0.0
        order = key.sort(dim=-1, descending=True, stable=True).indices
        values = values if keep_nan else torch.where(values.isnan(), 0.0, values)
        return values.gather(-1, order), ids.gather(-1, order).long()
    values = x_NF.new_empty(n_rows, k)
    out = x_NF.new_empty(n_rows, k, dtype=torch.int64)
    k2 = _launch.power_of_2(k)
    _launch.launch(
        _rank, (n_rows,),
        x_NF, ids, values, out, x_NF.stride(0), x_NF.stride(1), k,
        K=k2, BLOCK=min(64, k2, RANK_TILE // k2), KEEP_NAN=keep_nan,
        num_warps=8 if k2 > 64 else 4,
    )  # fmt: skip
    return values, out


def _choose_flat(source: Tensor, groups: Tensor, total: int, group: int) -> Tensor:
    """Return the flat ids of the `total` first candidates of `source`, ascending.

    Three rounds of histograms settle 11 + 11 + 10 bits of the last key that is chosen; what every
    program then writes, and where, follows from counts, so nothing depends on timing.
    """
    n_candidates = source.numel() if group == 1 else groups.numel() * group
    n_programs = _launch.cdiv(n_candidates, FLAT_BLOCK)
    state = torch.zeros(2, dtype=torch.int64, device=source.device)
    state[1] = total  # state: bits found so far, entries still to take at or below them
    shape = (source.stride(0), source.stride(1), source.shape[1], source.numel(), n_candidates)
    for shift, bits in ((21, 11), (10, 11), (0, 10)):
        counts = torch.empty(n_programs, BINS, dtype=torch.int32, device=source.device)
        _launch.launch(
            _digit_counts, (n_programs,), source, groups, counts, state, *shape,
            SHIFT=shift, BITS=bits, GROUP=group, BLOCK=FLAT_BLOCK, BINS=BINS, num_warps=8,
        )  # fmt: skip
        state = _narrow(state, counts.sum(0).flip(0), bits)
    tallies = torch.empty(2, n_programs, dtype=torch.int64, device=source.device)
    out = torch.empty(total, dtype=torch.int64, device=source.device)
    for emit in (False, True):
        if emit:
            tallies = tallies.cumsum(1) - tallies
        _launch.launch(
            _emit_flat, (n_programs,), source, groups, tallies, state, out, *shape,
            GROUP=group, BLOCK=FLAT_BLOCK, EMIT=emit, num_warps=8,
        )  # fmt: skip
    return out


def _narrow(state: Tensor, descending_counts: Tensor, bits: int) -> Tensor:
    """Append the digit in which the last chosen key lies; take what lies above it."""
    reached = descending_counts.cumsum(0)
    place = torch.searchsorted(reached, state[1:])  # first with reached >= wanted
    before = torch.where(place > 0, reached[(place - 1).clamp(min=0)], 0)
    digit = BINS - 1 - place
    return torch.cat([(state[:1] << bits) + digit, state[1:] - before])


@triton.jit
def _ordered_bits(x):
    """Map floats to int32 that rise with them; NaN counts as -inf, -0 as +0."""
    key = x.to(tl.float32)
    key = tl.where(key != key, float("-inf"), key)  # noqa: PLR0124
    bits = tl.where(key == 0.0, 0.0, key).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _group_maxima(
    x_ptr, maxima_ptr, stride_row, stride_column, width, n_groups,
    GROUP: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Grid (rows, blocks of groups): the maxima of GROUPS groups of one row; reads x once."""
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    ids = groups[:, None].to(tl.int64) * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(
        x_ptr + row * stride_row + ids * stride_column, mask=ids < width, other=float("-inf")
    ).to(tl.float32)
    x = tl.where(x != x, float("-inf"), x)  # noqa: PLR0124
    tl.store(maxima_ptr + row * n_groups + groups, tl.max(x, axis=1), mask=groups < n_groups)


@triton.jit
def _candidates(
    x_ptr, groups_ptr, stride_column, width, places, n_candidates, GROUP: tl.constexpr
):  # fmt: skip
    """Return ids and ordered bits of the candidates at `places`; ids ascend with the places."""
    if GROUP == 1:
        ids = places.to(tl.int64)
    else:
        inside = places < n_candidates
        group = tl.load(groups_ptr + places // GROUP, mask=inside, other=0).to(tl.int64)
        ids = group * GROUP + places % GROUP
    valid = (places < n_candidates) & (ids < width)
    x = tl.load(x_ptr + ids * stride_column, mask=valid, other=0.0)
    return ids, tl.where(valid, _ordered_bits(x), _LOWEST)


@triton.jit
def _count_beyond(
    x_ptr, groups_ptr, stride_column, width, n_candidates, limit,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return how many keys after the first block are at least `limit`."""
    count = tl.full((), 0, tl.int32)
    for start in range(BLOCK, n_candidates, BLOCK):
        places = start + tl.arange(0, BLOCK)
        _ids, keys = _candidates(
            x_ptr, groups_ptr, stride_column, width, places, n_candidates, GROUP
        )
        count += tl.sum((keys >= limit).to(tl.int32), axis=0)
    return count


@triton.jit
def _choose_rows(
    x_ptr, groups_ptr, out_ptr, stride_row, stride_column, width, n_candidates, k,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """Grid (rows,): find the k-th largest key bit by bit, then write the chosen ids, ascending.

    ONE says that all candidates fit into one block, which then stays in registers. `out_ptr` may
    not be `groups_ptr` unless GROUP is 1, where groups are not read.
    """
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride_row
    groups_ptr += row * k
    out_ptr += row * k
    lanes = tl.arange(0, BLOCK)
    ids, keys = _candidates(x_ptr, groups_ptr, stride_column, width, lanes, n_candidates, GROUP)
    kth = tl.full((), _LOWEST, tl.int32)
    bit = kth  # the sign, which is set in what is negative: hence the exclusive or
    for _ in range(32):
        trial = kth ^ bit
        count = tl.sum((keys >= trial).to(tl.int32), axis=0)
        if not ONE:
            count += _count_beyond(
                x_ptr, groups_ptr, stride_column, width, n_candidates, trial, GROUP, BLOCK
            )
        kth = tl.where(count >= k, trial, kth)
        bit = (bit >> 1) & 0x7FFFFFFF
    room = k - tl.sum((keys > kth).to(tl.int32), axis=0)
    if not ONE:
        room -= _count_beyond(
            x_ptr, groups_ptr, stride_column, width, n_candidates, kth + 1, GROUP, BLOCK
        )
    equals = tl.full((), 0, tl.int32)
    written = tl.full((), 0, tl.int32)
    for start in range(0, n_candidates, BLOCK):
        if not ONE:
            ids, keys = _candidates(
                x_ptr, groups_ptr, stride_column, width, start + lanes, n_candidates, GROUP
            )
        equal = (keys == kth).to(tl.int32)
        first = (equal > 0) & (equals + tl.cumsum(equal, axis=0) <= room)
        chosen = ((keys > kth) | first).to(tl.int32)
        place = written + tl.cumsum(chosen, axis=0) - 1
        tl.store(out_ptr + place, ids.to(tl.int32), mask=chosen > 0)
        equals += tl.sum(equal, axis=0)
        written += tl.sum(chosen, axis=0)


@triton.jit
def _rank(
    x_ptr, ids_ptr, values_ptr, out_ptr, stride_row, stride_column, k,
    K: tl.constexpr, BLOCK: tl.constexpr, KEEP_NAN: tl.constexpr,
):  # fmt: skip
    """Grid (rows,): put each chosen entry behind all that precede it, by counting them."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride_row
    ids_ptr += row * k
    mine = tl.arange(0, K)
    ids = tl.load(ids_ptr + mine, mask=mine < k, other=0).to(tl.int64)
    x = tl.load(x_ptr + ids * stride_column, mask=mine < k, other=0.0)
    keys = _ordered_bits(x)
    rank = tl.zeros((K,), tl.int32)
    for start in range(0, k, BLOCK):
        others = start + tl.arange(0, BLOCK)
        their_ids = tl.load(ids_ptr + others, mask=others < k, other=0).to(tl.int64)
        theirs = tl.load(x_ptr + their_ids * stride_column, mask=others < k, other=0.0)
        key = tl.where(others < k, _ordered_bits(theirs), _LOWEST)
        first = (key[None, :] == keys[:, None]) & (others[None, :] < mine[:, None])
        first = first | (key[None, :] > keys[:, None])
        rank += tl.sum((first & (others < k)[None, :]).to(tl.int32), axis=1)
    if not KEEP_NAN:
        x = tl.where(x == x, x, 0.0)  # noqa: PLR0124
    tl.store(values_ptr + row * k + rank, x, mask=mine < k)
    tl.store(out_ptr + row * k + rank, ids, mask=mine < k)


@triton.jit
def _flat_candidates(
    x_ptr, groups_ptr, stride_row, stride_column, width, size, n_candidates,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return flat ids and ordered bits, 0 .. 2^32 - 1 or -1 for none, of a block of candidates."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if GROUP == 1:
        flat = places
    else:
        inside = places < n_candidates
        flat = tl.load(groups_ptr + places // GROUP, mask=inside, other=0) * GROUP + places % GROUP
    valid = (places < n_candidates) & (flat < size)
    row = flat // width
    offsets = row * stride_row + (flat - row * width) * stride_column
    x = tl.load(x_ptr + offsets, mask=valid, other=0.0)
    return flat, tl.where(valid, _ordered_bits(x).to(tl.int64) + 2147483648, -1)


@triton.jit
def _flat_maxima(
    x_ptr, maxima_ptr, stride_row, stride_column, width, size, n_groups,
    GROUP: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of groups,): maxima of GROUPS groups of the flattened batch."""
    groups = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    flat = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    row = flat // width
    offsets = row * stride_row + (flat - row * width) * stride_column
    x = tl.load(x_ptr + offsets, mask=flat < size, other=float("-inf")).to(tl.float32)
    x = tl.where(x != x, float("-inf"), x)  # noqa: PLR0124
    tl.store(maxima_ptr + groups, tl.max(x, axis=1), mask=groups < n_groups)


@triton.jit
def _digit_counts(
    x_ptr, groups_ptr, counts_ptr, state_ptr,
    stride_row, stride_column, width, size, n_candidates,
    SHIFT: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks,): count the next digit of the keys that share the bits found so far."""
    _, keys = _flat_candidates(
        x_ptr, groups_ptr, stride_row, stride_column, width, size, n_candidates, GROUP, BLOCK
    )
    prefix = tl.load(state_ptr)
    mine = (keys >= 0) & ((keys >> (SHIFT + BITS)) == prefix)
    digits = tl.where(mine, (keys >> SHIFT) & ((1 << BITS) - 1), 0).to(tl.int32)
    counts = tl.histogram(digits, BINS, mask=mine)
    bins = tl.arange(0, BINS)
    tl.store(counts_ptr + tl.program_id(0).to(tl.int64) * BINS + bins, counts)


@triton.jit
def _emit_flat(
    x_ptr, groups_ptr, tallies_ptr, state_ptr, out_ptr,
    stride_row, stride_column, width, size, n_candidates,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, EMIT: tl.constexpr,
):  # fmt: skip
    """Grid (blocks,): count the entries above and at the last chosen key, or write their ids.

    `tallies_ptr` holds two rows of one number a program: counts to be written, then, with EMIT,
    their sums over the programs before this one.
    """
    program = tl.program_id(0).to(tl.int64)
    n_programs = tl.num_programs(0).to(tl.int64)
    flat, keys = _flat_candidates(
        x_ptr, groups_ptr, stride_row, stride_column, width, size, n_candidates, GROUP, BLOCK
    )
    last = tl.load(state_ptr)
    room = tl.load(state_ptr + 1)
    above = (keys > last).to(tl.int64)
    equal = (keys == last).to(tl.int64)
    if EMIT:
        above_before = tl.load(tallies_ptr + program)
        equal_before = tl.load(tallies_ptr + n_programs + program)
        first = equal_before + tl.cumsum(equal, axis=0) <= room
        chosen = above + tl.where(first, equal, 0)
        start = above_before + tl.minimum(equal_before, room)
        place = start + tl.cumsum(chosen, axis=0) - 1
        tl.store(out_ptr + place, flat, mask=chosen > 0)
    else:
        tl.store(tallies_ptr + program, tl.sum(above, axis=0))
        tl.store(tallies_ptr + n_programs + program, tl.sum(equal, axis=0))
