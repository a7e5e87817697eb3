"""Matching pursuit: codes from the decoder of an autoencoder instead of its encoder."""

import torch
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder, KSparse, ReconstructsProducts
from sae.row_norm import row_statistics
from sparsecode import SparseCodes
from sparsecode._checks import check_floating, check_int, check_last_dim

CHUNK_ENTRIES = 1 << 22  # correlations of rows with latents that are held at a time


@torch.no_grad()
def matching_pursuit(model: AbstractAutoencoder, x: Tensor, *, k: int | None = None) -> SparseCodes:
    """Encode by picking, k times, the latent that explains most of what is left.

    From the residual ``r = x - b_dec`` the latent with the largest correlation with its decoder
    row is taken, its projection subtracted, and so on; where the model normalizes rows, x is the
    normalized row. Codes are not negative, but for `KSparse`. The encoder is not used, so any model
    can be read at any k; it costs k products with the decoder instead of one with the encoder.

    Parameters
    ----------
    model : AbstractAutoencoder
    x : Tensor of shape (..., D), floating
    k : int or None, default=None
        Steps, and most latents of a row; one that is picked again keeps its one entry. None
        takes the model's own k.

    Returns
    -------
    SparseCodes of shape (..., F), dtype of `x`
        Descending; rows that are explained earlier, or by nothing more, have zeros behind.

    Raises
    ------
    ValueError
        If the model has no k of its own and none is given.
    TypeError
        If the decoder does not live in the space of the input, as in a transcoder, or the
        reconstruction is not its rows times the code.

    References
    ----------
    Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries", IEEE Transactions
    on Signal Processing 41(12). As an encoder of sparse autoencoders: Costa et al. (2025), "From
    Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    arXiv:2506.03093. Differs from the latter in: the autoencoder need not be trained with it.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> codes = matching_pursuit(model, 3.0 * model.W_dec[[7]], k=2)
    >>> int(codes.indices[0, 0]), round(float(codes.values[0, 0]), 3)
    (7, 3.0)
    """
    if model.n_targets is not None or isinstance(model, ReconstructsProducts):
        raise TypeError(
            "matching pursuit needs a decoder in the space of the input; that of "
            f"{type(model).__name__} is not. Use model.encode."
        )
    if k is None:
        k = _own_k(model)
    k = check_int("k", k, low=1, high=model.n_latents, high_name="n_latents")
    x = check_last_dim("x", check_floating("x", x), model.n_features, "n_features")
    rows_ND = x.reshape(-1, model.n_features).to(model.W_dec.dtype)
    if model.row_norm != "none":
        statistics = row_statistics(rows_ND, model.row_norm)
        rows_ND = (rows_ND - statistics.shift) / statistics.divisor
    rows_ND = rows_ND - model.b_dec
    norms_F = torch.linalg.vector_norm(model.W_dec, dim=1).clamp(min=1e-30)
    unit_FD = model.W_dec / norms_F[:, None]
    signed, step = isinstance(model, KSparse), max(1, CHUNK_ENTRIES // model.n_latents)
    parts = [_pursue(part, unit_FD, k, signed) for part in rows_ND.split(step)]
    values, ids = (torch.cat(each) for each in zip(*parts, strict=True))
    codes = SparseCodes(values / norms_F[ids], ids, model.n_latents).truncate(k)
    return codes.reshape(*x.shape[:-1]).to(x.dtype)


def _pursue(residual_ND: Tensor, unit_FD: Tensor, k: int, signed: bool) -> tuple[Tensor, Tensor]:
    """Return values and latents of shape (N, k); the value of an entry not needed is 0."""
    residual_ND = residual_ND.clone()
    values_NK = residual_ND.new_zeros(len(residual_ND), k)
    ids_NK = torch.zeros(len(residual_ND), k, dtype=torch.int64, device=residual_ND.device)
    for step in range(k):
        fit_NF = residual_ND @ unit_FD.t()
        pick_N = (fit_NF.abs() if signed else fit_NF).argmax(1)
        size_N = fit_NF.gather(1, pick_N[:, None])[:, 0]
        if not signed:
            size_N = size_N.clamp(min=0.0)
        residual_ND -= size_N[:, None] * unit_FD[pick_N]
        # A latent that was picked before gets a larger value, and the entry of this step stays 0.
        before_NK = (ids_NK[:, :step] == pick_N[:, None]) & (values_NK[:, :step] != 0)
        again_N = before_NK.any(1)
        values_NK[:, :step] += size_N[:, None] * before_NK
        values_NK[:, step] = size_N.where(~again_N, 0.0)
        ids_NK[:, step] = pick_N
    return values_NK, ids_NK


def _own_k(model: AbstractAutoencoder) -> int:
    k = model.config().get("k")
    if k is None:
        raise ValueError(
            f"`k` must be given for {type(model).__name__}, which has no k of its own; got None."
        )
    return max(1, round(k))
