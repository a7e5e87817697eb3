"""One optimizer step on rows of a dictionary as it is defined: eager, any dtype, in place."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What one step does to every row; `count` is 1 at the first step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    count: int
    unit_norm: bool
    rule: str
    """"adam" or "signum"."""

    @property
    def salts(self) -> tuple[int, int]:
        """Return where the random bits of this step begin, for either average, below 2^31."""
        first, second = ((2 * self.count + i) * 0x9E3779B1 & 0x7FFFFFFF for i in (0, 1))
        return first, second


def update(
    rows: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    step: Step,
    *,
    first_row: int = 0,
    touched: Tensor | None = None,
) -> None:
    """Project the gradient, take the step, scale rows to unit norm, refresh the shadow.

    `state` holds ``exp_avg``, for Adam ``exp_avg_sq``, and maybe ``shadow``. Works on a block of
    rows that starts at `first_row`; rows where `touched` is False stay as they
    are, their state too. State in bfloat16 is rounded up or down at random, by `dither`.
    """
    mean, square, shadow = (state.get(name) for name in ("exp_avg", "exp_avg_sq", "shadow"))
    assert mean is not None, "every rule averages the gradient"
    wide = torch.promote_types(rows.dtype, torch.float32)
    w, g, m = rows.to(wide), gradient.to(wide), mean.to(wide)
    if step.unit_norm:
        g = g - (g * w).sum(1, keepdim=True) * w
    m = m + (1 - step.beta1) * (g - m)
    v = None
    if square is None:
        w = w - step.lr * m.sign()
    else:
        v = step.beta2 * square.to(wide) + (1 - step.beta2) * g * g
        scale = step.lr / (1 - step.beta1**step.count)
        root = (v / (1 - step.beta2**step.count)).sqrt()
        w = w - scale * m / (root + step.eps)
    if step.unit_norm:
        w = w / w.square().sum(1, keepdim=True).sqrt().clamp(min=1e-30)
    results = [(rows, w), (mean, _as_state(m, mean.dtype, step.salts[0], first_row))]
    if square is not None and v is not None:
        results.append((square, _as_state(v, square.dtype, step.salts[1], first_row)))
    if shadow is not None:
        results.append((shadow, w))
    for target, value in results:
        new = value.to(target.dtype)
        target.copy_(new if touched is None else torch.where(touched[:, None], new, target))


def dither(places: Tensor, salt: int) -> Tensor:
    """Return 16 random bits for each place, the same on every device (the end of MurmurHash3)."""
    bits = (places + salt) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = ((bits ^ (bits >> shift)) * factor) & 0xFFFFFFFF
    return (bits ^ (bits >> 16)) & 0xFFFF


def _as_state(value: Tensor, dtype: torch.dtype, salt: int, first_row: int) -> Tensor:
    """Return `value` rounded to `dtype`.

    An average that moves by less than half a unit of bfloat16 at each step would never move if it
    were rounded to the nearest; rounded at random it moves as it should on average.
    """
    if dtype != torch.bfloat16:
        return value.to(dtype)
    places = torch.arange(value.numel(), device=value.device).reshape(value.shape)
    bits = value.float().contiguous().view(torch.int32).long()
    bits = bits + dither(places + first_row * value.shape[1], salt)
    return (bits & ~0xFFFF).int().view(torch.float32).to(dtype)
