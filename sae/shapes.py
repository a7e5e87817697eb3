"""The sizes of an autoencoder that its data decide."""

import inspect
from typing import Any

from sae.autoencoders import AbstractAutoencoder
from sae.cache import AbstractSource, JoinedSource


def sizes_of(kind: type[AbstractAutoencoder], source: AbstractSource) -> dict[str, Any]:
    """Return the arguments of an architecture that say how wide rows are.

    Parameters
    ----------
    kind : type
        A class of `sae.AUTOENCODERS`.
    source : AbstractSource

    Returns
    -------
    dict
        ``n_features``; for a transcoder also ``n_targets``, and for a crosscoder ``widths``.

    Raises
    ------
    ValueError
        If a transcoder is to be trained on anything but two hookpoints.

    Examples
    --------
    >>> import sae, torch
    >>> sizes_of(sae.TopK, sae.cache.as_source(torch.zeros(5, 8)))
    {'n_features': 8}
    """
    accepted = inspect.signature(kind).parameters
    widths = source.widths if isinstance(source, JoinedSource) else [source.n_features]
    if "n_targets" in accepted:
        if len(widths) != 2:
            raise ValueError(
                f"`hookpoint` must name an input and a target for {kind.__name__}, as in "
                f"'mlp.input+mlp.output'; got {len(widths)}."
            )
        return {"n_features": widths[0], "n_targets": widths[1]}
    sizes: dict[str, Any] = {"n_features": source.n_features}
    return {**sizes, "widths": list(widths)} if "widths" in accepted else sizes
