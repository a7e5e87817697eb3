"""evaluate: error, sparsity and firing of an autoencoder on rows of data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder, Crosscoder, ReconstructsProducts
from sae.cache import AbstractSource, Cache, JoinedSource, as_source
from sae.pursuit import matching_pursuit
from sparsecode import SparseCodes
from sparsecode._checks import check_choice, check_finite, check_int
from sparsecode.metrics import FiringCounts, ProductSums, ReconstructionSums
from sparsecode.training import RowSource

METHODS: dict[str, Callable[..., SparseCodes]] = {
    "encoder": lambda model, x, **options: model.encode(x, **options),
    "matching_pursuit": matching_pursuit,
}
MAX_SPANS = 16  # evenly spread runs of rows when not all are looked at


def evaluate(
    model: AbstractAutoencoder,
    data: Any,
    *,
    batch_size: int = 4096,
    split: Literal["auto", "heldout", "train", "all"] = "auto",
    heldout_fraction: float = 0.1,
    max_rows: int | None = None,
    budgets: Sequence[int] | None = None,
    method: Literal["encoder", "matching_pursuit"] = "encoder",
    progress: bool | None = False,
) -> dict[str, Any]:
    """Measure an autoencoder on rows of data; changes no state.

    All sums are in float64 over all rows, so the result does not depend on the batch size beyond
    the rounding of the model itself, and a constant offset of the data is no explained variance.

    Parameters
    ----------
    model : AbstractAutoencoder
        Used as at inference, and left in the mode in which it came.
    data : cache folder, cache, ``.npy`` file, array or tensor
    batch_size : int, default=4096
        Rows encoded at a time.
    split : {"auto", "heldout", "train", "all"}, default="auto"
        Which rows: "auto" takes the held-out rows of a cache, and all rows of an array.
    heldout_fraction : float, default=0.1
        Share of the data that counts as held out, as in `TrainConfig`.
    max_rows : int or None, default=None
        Look at no more rows than this, evenly spread; None looks at all.
    budgets : sequence of int or None, default=None
        Numbers of latents for ``fvu_at_k``, where the model encodes with any k. None means
        powers of two up to k for a model trained for them, such as `HierarchicalTopK`, and
        none else.
    method : {"encoder", "matching_pursuit"}, default="encoder"
        Where codes come from: the encoder of the model, or `sae.matching_pursuit` with its decoder.
    progress : bool or None, default=False
        Whether to show a progress bar; None shows one on a terminal.

    Returns
    -------
    dict
        Ready for JSON. ``fvu`` (`sparsecode.metrics.fvu`), ``explained_variance`` (1 - fvu),
        ``mse`` (mean over rows of the squared error summed over features), ``cosine`` (mean
        cosine of a row and its reconstruction, not centered), ``l0`` (mean number of latents
        that fire on a row), ``dead_fraction`` (latents that fired on none of these rows),
        ``dense_fraction`` (on more than a tenth of them), ``firing_frequency`` (share of rows
        for each latent), ``frequency_histogram`` (over log10 of it), ``n_rows`` and ``split``;
        with `budgets` also ``fvu_at_k``, a dict from each number of latents to the FVU of the
        codes that keep no more. Of a `Crosscoder` also ``fvu_at_hookpoint`` and
        ``decoder_share_at_hookpoint`` (mean over latents of the share of their decoder norm),
        lists in the order of its hookpoints. A transcoder is compared with the target. For a model
        that reconstructs products (`Bilinear`), errors, cosine and variance are those of the
        matrices ``u (x) u``.

    Raises
    ------
    TypeError
        If `model` is no autoencoder.
    ValueError
        If the width is not that of the model, or there are no rows, or they hold NaN or infinity,
        or `budgets` are asked of a model without a k.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> metrics = evaluate(model, torch.eye(8))
    >>> metrics["l0"], metrics["n_rows"]
    (2.0, 8)
    """
    if not isinstance(model, AbstractAutoencoder):
        raise TypeError(
            f"`model` must be an autoencoder such as sae.TopK; got {type(model).__name__}."
        )
    batch_size = check_int("batch_size", batch_size, low=1)
    if max_rows is not None:
        max_rows = check_int("max_rows", max_rows, low=1)
    chosen = None if budgets is None else _checked_budgets(model, budgets)
    check_choice("method", method, tuple(METHODS))
    rows = _side(data, split, heldout_fraction, model.row_width)
    found = measure(model, rows, batch_size, max_rows, progress, chosen, METHODS[method])
    return {**found, "split": rows.split or "all"}


@torch.no_grad()
def measure(
    model: AbstractAutoencoder,
    rows: RowSource,
    batch_size: int,
    max_rows: int | None,
    progress: bool | None,
    budgets: list[int] | None = None,
    encode: Callable[..., SparseCodes] = METHODS["encoder"],
) -> dict[str, Any]:
    """Return the metrics of `evaluate` on `rows`."""
    from tqdm.auto import tqdm

    device = model.b_dec.device
    sums = _Sums(model)
    counts = FiringCounts(model.n_latents, device=device)
    budgets = usual_budgets(model) if budgets is None else budgets
    at_k = {k: _Sums(model) for k in budgets}
    spans = list(_spans(rows.n_rows, max_rows, batch_size))
    disable = None if progress is None else not progress
    with evaluation_mode(model), tqdm(spans, disable=disable, desc="evaluate", unit="batch") as bar:
        for start, stop in bar:
            x = rows.rows(start, stop)
            check_finite(f"data[{start}:{stop}]", x)
            x = x.to(device, torch.promote_types(x.dtype, torch.float32))
            x, target = model.input_and_target(x)
            codes = encode(model, x)
            sums.add(x, target, codes)
            counts.add(codes)
            for k, shorter in _shortened(model, encode, x, sorted(at_k, reverse=True)):
                at_k[k].add(x, target, shorter)
    curve = {"fvu_at_k": {str(k): sums.found.fvu for k, sums in at_k.items()}} if at_k else {}
    found = sums.found
    return {
        "fvu": found.fvu,
        "explained_variance": 1.0 - found.fvu,
        "mse": found.mse,
        "cosine": found.cosine,
        "l0": counts.l0,
        "dead_fraction": counts.dead_fraction,
        "dense_fraction": counts.dense_fraction,
        "n_rows": found.n_rows,
        "frequency_histogram": counts.histogram(),
        "firing_frequency": counts.frequency.tolist(),
        **curve,
        **sums.at_hookpoints(),
    }


class _Sums:
    """The errors of a model's reconstructions, in the space in which it reconstructs."""

    def __init__(self, model: AbstractAutoencoder) -> None:
        self.model, device = model, model.b_dec.device
        self.found: ProductSums | ReconstructionSums
        if isinstance(model, ReconstructsProducts):
            self.found = ProductSums(model.n_features, device=device)
        else:
            self.found = ReconstructionSums(model.b_dec.shape[0], device=device)
        self.widths = list(model.row_blocks) if isinstance(model, Crosscoder) else []
        self.parts = [ReconstructionSums(width, device=device) for width in self.widths]

    def add(self, x: Tensor, target: Tensor, codes: SparseCodes) -> None:
        """Add rows, what they are compared with, and their codes."""
        if not isinstance(self.found, ReconstructionSums):
            assert isinstance(self.model, ReconstructsProducts)
            rows = self.model.product_rows(x)
            self.found.add(rows, *self.model.product_energies(x, codes))
            return
        recon = self.model.reconstruct(x, codes)
        self.found.add(target, recon)
        if self.parts:
            pieces = (tensor.split(self.widths, 1) for tensor in (target, recon))
            for part, y, yhat in zip(self.parts, *pieces, strict=True):
                part.add(y, yhat)

    def at_hookpoints(self) -> dict[str, list[float]]:
        """Return the metrics of each hookpoint of a crosscoder; nothing for other models."""
        if not isinstance(self.model, Crosscoder):
            return {}
        norms = self.model.decoder_norms()
        return {
            "fvu_at_hookpoint": [part.fvu for part in self.parts],
            "decoder_share_at_hookpoint": (norms / norms.sum(0)).mean(1).tolist(),
        }


def _shortened(
    model: AbstractAutoencoder, encode: Callable[..., SparseCodes], x: Tensor, budgets: list[int]
) -> Iterator[tuple[int, SparseCodes]]:
    """Yield the codes with each of some numbers of latents, which descend."""
    if isinstance(model, ReconstructsProducts):  # the order is that of the model, not of values
        yield from ((k, encode(model, x, k=k)) for k in budgets)
    elif budgets:
        codes = encode(model, x, k=budgets[0])
        yield from ((k, codes.truncate(k)) for k in budgets)


def usual_budgets(model: AbstractAutoencoder) -> list[int]:
    """Return the powers of two below k, and k, for a model trained for all of them; else none."""
    if not model.serves_all_budgets:
        return []
    k = model.config().get("k", model.n_latents)
    return [*(1 << i for i in range((k - 1).bit_length())), k]


def _checked_budgets(model: AbstractAutoencoder, budgets: Sequence[int]) -> list[int]:
    if "k" not in model.config() and not isinstance(model, ReconstructsProducts):
        raise ValueError(
            f"`budgets` must be None for {type(model).__name__}, which has no k; "
            f"got {list(budgets)}."
        )
    bounds = {"low": 1, "high": model.n_latents, "high_name": "n_latents"}
    return sorted({check_int("budgets", k, **bounds) for k in budgets})


def _side(data: Any, split: str, heldout_fraction: float, n_features: int) -> AbstractSource:
    """Return the rows of one side of the split; "auto" leaves the choice to the data."""
    check_choice("split", split, ("auto", "heldout", "train", "all"))
    if split == "auto":
        source = as_source(data, n_features=n_features)
        if not isinstance(source, (Cache, JoinedSource)) or source.split is not None:
            return source
        data, split = source, "heldout"
    side = None if split == "all" else split
    return as_source(data, split=side, heldout_fraction=heldout_fraction, n_features=n_features)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to inference inside the block and every part of it back afterwards."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _spans(n_rows: int, max_rows: int | None, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most `batch_size` rows; the rows covered do not depend on `batch_size`."""
    n_spans, length = 1, n_rows
    if max_rows is not None and max_rows < n_rows:
        n_spans = min(MAX_SPANS, max_rows)
        length = max_rows // n_spans
    for span in range(n_spans):
        first = span * n_rows // n_spans
        for start in range(first, first + length, batch_size):
            yield start, min(start + batch_size, first + length)
