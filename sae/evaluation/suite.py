"""suite: the measures that say what an autoencoder is worth, in one call."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sae.autoencoders import AbstractAutoencoder, ReconstructsProducts
from sae.cache import Cache, as_source
from sae.evaluation.absorption import absorption
from sae.evaluation.loss import loss_recovered
from sae.evaluation.probing import first_letters, probe
from sae.evaluation.reconstruction import evaluate
from sae.evaluation.stability import stability
from sparsecode._checks import check_choice
from sparsecode.metrics import largest_cosines


def suite(
    model: AbstractAutoencoder,
    data: Any,
    *,
    kind: Literal["core", "full"] = "core",
    labels: Any = None,
    lm: Any = None,
    texts: Any = None,
    tokenizer: Any = None,
    hookpoint: str | None = None,
    others: Sequence[AbstractAutoencoder] = (),
    max_rows: int | None = 20_000,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Measure an autoencoder by all that the data at hand allow.

    Parameters
    ----------
    model : AbstractAutoencoder
    data : cache folder, Cache, ``.npy`` file, array or tensor
    kind : {"core", "full"}, default="core"
        "core" is `evaluate` and the coherence of the decoder, and the loss recovered where `lm` and
        `texts` are given; "full" adds probes and absorption where there are labels, and the
        stability where there are `others`.
    labels : sequence of int or str, or None, default=None
        One for each row of the data. None takes the first letters of the tokens of a cache.
    lm : Module, name, folder or None, default=None
        The language model, for `loss_recovered`.
    texts : texts or tokens, or None, default=None
        What it reads there.
    tokenizer : tokenizer, name, folder or None, default=None
    hookpoint : str or None, default=None
        None is that of the cache.
    others : sequence of AbstractAutoencoder, default=()
        The same autoencoder with other seeds.
    max_rows : int or None, default=20_000
        Rows that probes look at.
    seed : int, default=0
    **options
        Passed on to `evaluate`.

    Returns
    -------
    dict
        Ready for JSON: ``suite``, ``reconstruction``, ``dictionary``, and where they were measured
        ``loss``, ``probing``, ``absorption``, ``stability``; ``left_out`` says of each of the rest
        what it needs.
    """
    check_choice("kind", kind, ("core", "full"))
    source = as_source(data, n_features=model.row_width)
    found: dict[str, Any] = {"suite": kind, "reconstruction": evaluate(model, source, **options)}
    left_out: dict[str, str] = {}
    if isinstance(model, ReconstructsProducts) or model.n_latents < 2:
        left_out["dictionary"] = "a decoder with two rows or more"
    else:
        largest = largest_cosines(model.W_dec.detach())
        found["dictionary"] = {
            "coherence": float(largest.max()),
            "mean_largest_cosine": float(largest.mean()),
        }
    if lm is not None and texts is not None:
        where = hookpoint or (source.hookpoint if isinstance(source, Cache) else None)
        if where is None:
            raise ValueError("`hookpoint` must be given for data that are no cache; got None.")
        found["loss"] = loss_recovered(lm, texts, where, model, tokenizer=tokenizer)
    else:
        left_out["loss"] = "a language model and texts"
    if kind == "full":
        _full(found, left_out, model, source, labels, others, max_rows, seed)
    return {**found, "left_out": left_out}


def _full(
    found: dict[str, Any],
    left_out: dict[str, str],
    model: AbstractAutoencoder,
    source: Any,
    labels: Any,
    others: Sequence[AbstractAutoencoder],
    max_rows: int | None,
    seed: int,
) -> None:
    """Add what only the full suite measures."""
    if labels is None and isinstance(source, Cache) and source.vocabulary is not None:
        labels = first_letters(source)
    if labels is None:
        left_out["probing"] = left_out["absorption"] = "labels, or tokens with a vocabulary"
    else:
        sizes: dict[str, Any] = {"max_rows": max_rows, "seed": seed}
        found["probing"] = probe(model, source, np.asarray(labels), **sizes)
        same_space = model.n_targets is None and not isinstance(model, ReconstructsProducts)
        if same_space:
            found["absorption"] = absorption(model, source, np.asarray(labels), **sizes)
        else:
            left_out["absorption"] = "a decoder to what is encoded"
    if others:
        found["stability"] = stability([model, *others])
    else:
        left_out["stability"] = "the same autoencoder with another seed"
