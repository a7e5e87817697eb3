"""loss_recovered: how much of a transformer's skill survives an autoencoder in its middle."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sae.cache.hooks import capture, edited, hookpoint_pair, model_inputs
from sae.cache.models import Loaded, load
from sae.evaluation.batches import Batch, Masking, contexts_of, in_batches
from sae.evaluation.comparison import Comparison
from sae.evaluation.reconstruction import evaluation_mode
from sae.evaluation.splice import Splice, check_spliceable, kept, splice
from sparsecode._checks import check_choice, check_float, check_int

Kind = Literal["auto", "causal", "masked", "encoder"]
VARIANTS = ("reconstruction", "zero", "mean")


def loss_recovered(
    lm: Any,
    tokens: Any,
    hookpoint: str,
    model: AbstractAutoencoder,
    *,
    tokenizer: Any = None,
    kind: Kind = "auto",
    batch_size: int = 8,
    context_length: int | None = None,
    skip_special_tokens: bool = True,
    mean: Tensor | None = None,
    mask_share: float = 0.15,
    mask_token_id: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Compare a language model with itself when an autoencoder stands at a hookpoint.

    The share recovered is ``(CE_ablated - CE_reconstruction) / (CE_ablated - CE_original)``: 1 if
    the reconstruction costs nothing, 0 if it is worth no more than the ablation, a zero vector or
    the mean activation. A causal model predicts the next token. A masked one predicts tokens that
    were hidden from it, and is measured by the cosine of its output with what it was as well.
    Encoders are measured by that cosine alone.

    Parameters
    ----------
    lm : Module, name or folder
        A transformers model: causal, masked or an encoder.
    tokens : integer tensor (N, T), lists of ids, tokenizer output, texts or text files
        Padding, by the attention mask or the model's padding token, is no token.
    hookpoint : str
        A module's name; "input+output" for a transcoder.
    model : AbstractAutoencoder
    tokenizer : tokenizer, name, folder or None, default=None
        For texts; None takes the one beside the model.
    kind : {"auto", "causal", "masked", "encoder"}, default="auto"
        "auto" looks at the model.
    batch_size : int, default=8
        With the longest context it bounds the tokens of a forward pass.
    context_length : int or None, default=None
        Where longer documents are cut; None is the longest that the model takes, and at most 256
        for texts.
    skip_special_tokens : bool, default=True
        Whether activations of begin, end and separator tokens pass as they are, as in the
        caches that autoencoders are trained on.
    mean : Tensor of shape (D,) or None, default=None
        For the mean ablation, such as ``cache.mean``; None measures it on `tokens`.
    mask_share : float, default=0.15
        Share of the tokens of a context that are hidden from a masked model, at least one; special
        tokens are never. 0 hides none, and there is no cross-entropy.
    mask_token_id : int or None, default=None
        What stands in their place; None takes that of the tokenizer. Without either nothing is
        hidden.
    seed : int, default=0
        Of the choice of the hidden tokens; the same context has the same ones every time.
    device : device or None, default=None
        Where the language model runs; None leaves an object where it is.

    Returns
    -------
    dict
        Ready for JSON: ``kind``, ``n_tokens`` (those predicted or compared), ``l0``; where tokens
        are predicted ``ce_original``, ``ce_reconstruction``, ``ce_zero``, ``ce_mean`` in nats, and
        ``loss_recovered`` and ``loss_recovered_mean``, against zero and mean ablation; for masked
        models ``n_masked``, the number of them; for masked models and encoders
        ``cosine_reconstruction``, ``cosine_zero``, ``cosine_mean``, and ``cosine_recovered``. Where
        there are logits also ``kl``, ``kl_zero`` and ``kl_mean``, from the original distribution to
        the changed one, over all tokens. A share is None where the ablation costs nothing.

    Raises
    ------
    TypeError
        If `model` is no autoencoder, `tokens` are of another kind, or `lm` has an encoder and a
        decoder.
    ValueError
        If the hookpoint or its width does not fit, or there is no token to predict.

    Notes
    -----
    Every target of a causal model that is no padding counts, end-of-text tokens included. A hidden
    token is always replaced by the mask token, where training also leaves or swaps some (Devlin et
    al., 2019, sec. 3.1). Logits are compared in float32, sums taken in float64; the result does not
    depend on the batch size.

    References
    ----------
    Bricken et al. (2023), "Towards Monosemanticity", Transformer Circuits. Gao et al. (2024),
    "Scaling and evaluating sparse autoencoders", sec. 4.1. arXiv:2406.04093. Devlin et al. (2019),
    "BERT: Pre-training of Deep Bidirectional Transformers". arXiv:1810.04805.
    """
    check_spliceable(model, hookpoint)
    check_choice("kind", kind, ("auto", "causal", "masked", "encoder"))
    batch_size = check_int("batch_size", batch_size, low=1)
    mask_share = check_float("mask_share", mask_share, low=0.0, high=1.0)
    seed = check_int("seed", seed, low=0)
    with ExitStack() as stack:
        loaded, put_back = load(lm, tokenizer, device, name_of_argument="lm", with_head=True)
        stack.callback(put_back)
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(loaded.model))
        contexts = list(contexts_of(loaded, tokens, context_length, skip_special_tokens))
        found = _kind(loaded.model, kind)
        least = 2 if found == "causal" else 1
        if not any(len(context.ids) >= least for context in contexts):
            raise ValueError(
                f"`tokens` must hold a context of at least {least} tokens; got "
                f"{len(contexts)} contexts, all shorter."
            )
        size = batch_size * max(len(context.ids) for context in contexts)
        masking = _masking(loaded, found, mask_token_id, mask_share, seed)
        parts = list(in_batches(contexts, size, masking))
        if mean is None:
            mean = _mean(loaded.model, hookpoint, parts)
        comparison = Comparison(found)
        active = n_spliced = 0
        for batch in parts:
            original = _outputs(loaded.model, batch)
            comparison.start(batch, original)
            for variant in VARIANTS:
                with _changed(loaded.model, hookpoint, model, variant, mean, batch.keep) as spliced:
                    comparison.add(variant, _outputs(loaded.model, batch))
                if spliced is not None and spliced.codes is not None:
                    active += int(spliced.codes.n_active[batch.keep.to(spliced.codes.device)].sum())
                    n_spliced += int(batch.keep.sum())
    return {**comparison.result(), "l0": active / n_spliced if n_spliced else 0.0}


def _kind(lm: nn.Module, kind: Kind) -> str:
    if getattr(getattr(lm, "config", None), "is_encoder_decoder", False):
        raise TypeError(
            "`lm` must read and predict one sequence, as causal, masked and encoder models do; "
            f"{type(lm).__name__} has an encoder and a decoder. Pass its encoder."
        )
    if kind != "auto":
        return kind
    name = type(lm).__name__
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        return "masked"
    find = getattr(lm, "get_output_embeddings", None)
    return "encoder" if find is not None and find() is None else "causal"


def _masking(
    loaded: Loaded, kind: str, token: int | None, share: float, seed: int
) -> Masking | None:
    """Return what to hide from a masked model, or None where its mask token is not known."""
    if kind != "masked":
        if token is not None:
            raise ValueError(
                f"`mask_token_id` must be None for a model of the kind {kind!r}, from which "
                f"nothing is hidden; got {token}."
            )
        return None
    if token is None:
        token = getattr(loaded.tokenizer, "mask_token_id", None)
    if token is None or share == 0:
        return None
    high = None if loaded.n_tokens is None else loaded.n_tokens - 1
    token = check_int("mask_token_id", token, low=0, high=high)
    return Masking(token, share, seed, frozenset(loaded.special_ids))


def _outputs(lm: nn.Module, batch: Batch) -> Tensor:
    """Return logits, or the last hidden state of a model without them, in float32."""
    output = lm(**model_inputs(lm, batch.ids, batch.mask))
    if isinstance(output, Mapping):
        names = ("logits", "prediction_logits", "last_hidden_state")
        output = next((output[name] for name in names if output.get(name) is not None), None)
    elif isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(
            "`lm` must return logits or a last hidden state, as transformers models do; "
            f"got {type(output).__name__}."
        )
    return output.float()


def _mean(lm: nn.Module, hookpoint: str, parts: list[Batch]) -> Tensor:
    """Return the mean of what is replaced over the positions where it is."""
    _, name = hookpoint_pair(lm, hookpoint)
    total: Tensor | float = 0.0
    count = 0
    with capture(lm, [name]) as run:
        for batch in parts:
            rows = run(batch.ids, batch.mask)[name]
            rows = rows[batch.keep.to(rows.device)]
            total = total + rows.double().sum(0)
            count += len(rows)
    assert isinstance(total, Tensor)
    return total / max(count, 1)


@contextmanager
def _changed(
    lm: nn.Module,
    hookpoint: str,
    model: AbstractAutoencoder,
    variant: str,
    mean: Tensor,
    keep: Tensor,
) -> Iterator[Splice | None]:
    """Run the model in one of the variants inside the block."""
    if variant == "reconstruction":
        with splice(lm, hookpoint, model) as spliced:
            spliced.keep = keep
            yield spliced
        return
    row = mean if variant == "mean" else torch.zeros_like(mean)
    with edited(lm, hookpoint.rsplit("+", maxsplit=1)[-1], _constant(row, keep)):
        yield None


def _constant(row: Tensor, keep: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def edit(_: Tensor, before: Tensor) -> Tensor:
        return kept(row.to(before.device, before.dtype).expand_as(before), before, keep)

    return edit
