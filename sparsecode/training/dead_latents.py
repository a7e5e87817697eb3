"""Which latents have not fired for long, counted in rows (tokens) seen."""

import torch
from torch import Tensor

from sparsecode.codes import SparseCodes


class DeadLatents:
    """Counts rows since each latent last fired; the counts never leave their device.

    A latent fires on a row if its value there is not 0. A step may come in several parts: `see`
    each, then `advance` once, and the counts are those of one large batch.

    Parameters
    ----------
    n_latents : int
    dead_after : int
        A latent is dead when it has not fired for at least this many rows.
    device : device, default="cpu"

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", appendix A.2: dead after
    10 million tokens. arXiv:2406.04093. There and in common code, entries of value 0 that were
    selected count as firing; here they do not.

    Examples
    --------
    >>> dead = DeadLatents(3, dead_after=4)
    >>> values, ids = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[0, 1], [0, 2]])
    >>> for _ in range(2):
    ...     dead.see(SparseCodes(values, ids, 3))
    ...     dead.advance(2)
    >>> dead.since_fired
    tensor([0, 4, 0])
    >>> dead.mask()
    tensor([False,  True, False])
    """

    def __init__(
        self, n_latents: int, *, dead_after: int, device: str | torch.device = "cpu"
    ) -> None:
        self.dead_after = dead_after
        self.since_fired = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.rows_seen = 0
        # One place more than latents: entries of value 0 are sent there, which needs no sync.
        self._fired = torch.zeros(n_latents + 1, dtype=torch.bool, device=device)

    @torch.no_grad()
    def see(self, codes: SparseCodes) -> None:
        """Note which latents fire in a part of a step."""
        nowhere = len(self.since_fired)
        ids = torch.where(codes.values != 0, codes.indices, nowhere)
        self._fired.index_fill_(0, ids.reshape(-1), True)

    def advance(self, n_rows: int) -> None:
        """End a step of `n_rows` rows."""
        self.since_fired += n_rows
        self.since_fired.masked_fill_(self._fired[:-1], 0)
        self._fired.zero_()
        self.rows_seen += n_rows

    def mask(self) -> Tensor | None:
        """Return the dead latents, bool of shape (F,), or None while none can be dead."""
        if self.rows_seen < self.dead_after:
            return None
        return self.since_fired >= self.dead_after

    def fraction(self) -> Tensor:
        """Return the share of dead latents, a scalar tensor on the device of the counts."""
        return (self.since_fired >= self.dead_after).double().mean()
