"""loss_recovered: how much of a transformer's skill survives an autoencoder in its middle."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sae.cache.hooks import capture, edited, hookpoint_pair, model_inputs
from sae.cache.models import load
from sae.evaluation.batches import Batch, contexts_of, in_batches
from sae.evaluation.reconstruction import evaluation_mode
from sae.evaluation.splice import Splice, check_spliceable, kept, splice
from sparsecode._checks import check_choice, check_int

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
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Compare a language model with itself when an autoencoder stands at a hookpoint.

    The share recovered is ``(CE_ablated - CE_reconstruction) / (CE_ablated - CE_original)``: 1 if
    the reconstruction costs nothing, 0 if it is worth no more than the ablation, a zero vector or
    the mean activation. Models that do not predict the next token are measured by the cosine of
    their output with what it was, in the place of the cross-entropy.

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
    device : device or None, default=None
        Where the language model runs; None leaves an object where it is.

    Returns
    -------
    dict
        Ready for JSON: ``kind``, ``n_tokens`` (those predicted or compared), ``l0``; for a causal
        model ``ce_original``, ``ce_reconstruction``, ``ce_zero``, ``ce_mean`` in nats, and
        ``loss_recovered`` and ``loss_recovered_mean``, against zero and mean ablation; for others
        ``cosine_reconstruction``, ``cosine_zero``, ``cosine_mean``, and ``cosine_recovered``. Where
        there are logits also ``kl``, ``kl_zero`` and ``kl_mean``, from the original distribution to
        the changed one. A share is None where the ablation costs nothing.

    Raises
    ------
    TypeError
        If `model` is no autoencoder or `tokens` are of another kind.
    ValueError
        If the hookpoint or its width does not fit, or there is no token to predict.

    Notes
    -----
    Every target that is no padding counts, end-of-text tokens included. Logits are compared in
    float32, sums taken in float64; the result does not depend on the batch size.

    References
    ----------
    Bricken et al. (2023), "Towards Monosemanticity", Transformer Circuits. Gao et al. (2024),
    "Scaling and evaluating sparse autoencoders", sec. 4.1. arXiv:2406.04093.
    """
    check_spliceable(model, hookpoint)
    check_choice("kind", kind, ("auto", "causal", "masked", "encoder"))
    batch_size = check_int("batch_size", batch_size, low=1)
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
        parts = list(in_batches(contexts, size))
        if mean is None:
            mean = _mean(loaded.model, hookpoint, parts)
        comparison = _Comparison(found)
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
    if kind != "auto":
        return kind
    name = type(lm).__name__
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        return "masked"
    find = getattr(lm, "get_output_embeddings", None)
    return "encoder" if find is not None and find() is None else "causal"


def _outputs(lm: nn.Module, batch: Batch) -> Tensor:
    """Return logits, or the last hidden state of a model without them, in float32."""
    output = lm(**model_inputs(lm, batch.ids, batch.mask))
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("last_hidden_state"))
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


class _Comparison:
    """Sums over positions of how the outputs of the variants differ from the original ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.has_logits = kind != "encoder"
        self.sums: dict[str, float] = dict.fromkeys(("ce_original",), 0.0)
        self.n_tokens = 0

    def start(self, batch: Batch, original: Tensor) -> None:
        """Take the original outputs of a batch, against which `add` compares."""
        real = batch.mask.bool().to(original.device)
        if self.kind == "causal":
            self.where = real[:, 1:] & real[:, :-1]
            self.targets = batch.ids.to(original.device)[:, 1:][self.where]
        else:
            self.where = real
        self.original = self._at_positions(original)
        self.n_tokens += len(self.original)
        if self.kind == "causal":
            self._count("ce_original", self._cross_entropy(self.original))

    def add(self, variant: str, output: Tensor) -> None:
        """Compare the outputs of a variant on the batch of `start`."""
        rows = self._at_positions(output)
        if self.kind == "causal":
            self._count(f"ce_{variant}", self._cross_entropy(rows))
        else:
            cosines = nn.functional.cosine_similarity(self.original, rows, dim=1)
            self._count(f"cosine_{variant}", cosines)
        if self.has_logits:
            p, q = (logits.log_softmax(1) for logits in (self.original, rows))
            name = "kl" if variant == "reconstruction" else f"kl_{variant}"
            self._count(name, (p.exp() * (p - q)).sum(1))

    def result(self) -> dict[str, Any]:
        """Return the means over positions and the shares recovered."""
        found: dict[str, Any] = {"kind": self.kind, "n_tokens": self.n_tokens}
        means = {name: total / self.n_tokens for name, total in self.sums.items()}
        if self.kind != "causal":
            means.pop("ce_original")
            share = _share(1.0, means["cosine_reconstruction"], means["cosine_zero"])
            return {**found, **means, "cosine_recovered": share}
        best, reached = means["ce_original"], means["ce_reconstruction"]
        shares = {
            "loss_recovered": _share(best, reached, means["ce_zero"]),
            "loss_recovered_mean": _share(best, reached, means["ce_mean"]),
        }
        return {**found, **means, **shares}

    def _at_positions(self, output: Tensor) -> Tensor:
        return (output[:, :-1] if self.kind == "causal" else output)[self.where]

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, self.targets, reduction="none")

    def _count(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())


def _share(best: float, reached: float, ablated: float) -> float | None:
    """Return which part of the way from the ablated to the best value was reached."""
    way = best - ablated
    return (reached - ablated) / way if abs(way) > 1e-12 and math.isfinite(way) else None
