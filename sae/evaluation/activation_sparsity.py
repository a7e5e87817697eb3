"""Activation sparsity: how few neurons of a transformer's modules take part."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sae.cache.hooks import capture, match_hookpoints
from sae.cache.models import load
from sae.evaluation.batches import contexts_of, in_batches
from sparsecode._checks import check_float, check_int
from sparsecode.metrics import gini, hoyer, participation_ratio

MEANS = {"hoyer": hoyer, "gini": gini, "participation_ratio": participation_ratio}


def activation_sparsity(
    lm: Any,
    tokens: Any,
    modules: str | Sequence[str],
    *,
    threshold: float = 0.0,
    neuron_axis: int = -1,
    tokenizer: Any = None,
    batch_size: int = 8,
    context_length: int | None = None,
    device: str | torch.device | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure how sparse the outputs of modules are, such as those of activation functions.

    Parameters
    ----------
    lm : Module, name or folder
        A transformer; or, with floating inputs, any module that takes them.
    tokens : integer tensor (N, T), lists of ids, tokenizer output, texts or text files
        Or a floating tensor (N, ...), such as rows or images, for a model of those.
    modules : str or sequence of str
        Names or globs, as the hookpoints of `sae.cache.write`: ``"h.*.mlp.act"``.
    threshold : float, default=0.0
        An entry counts as active if its magnitude is larger.
    neuron_axis : int, default=-1
        Axis of the outputs that counts neurons; 1 for channels of convolutions. All axes between
        it and the first are places, of which each counts as a token does.
    tokenizer : tokenizer, name, folder or None, default=None
    batch_size : int, default=8
    context_length : int or None, default=None
    device : device or None, default=None

    Returns
    -------
    dict
        For each module, ready for JSON: ``nonzero_share`` (of all entries), ``nonzero_at_position``
        (the same at each place in the context), ``firing_frequency`` (of each neuron, descending),
        ``never_active`` (share of neurons), and the means over tokens of ``hoyer``, ``gini`` and
        ``participation_ratio`` of the magnitudes.

    References
    ----------
    Li et al. (2023), "The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in
    Transformers". arXiv:2210.06313.
    """
    threshold = check_float("threshold", threshold, low=0.0)
    batch_size = check_int("batch_size", batch_size, low=1)
    with ExitStack() as stack:
        loaded, put_back = load(lm, tokenizer, device, name_of_argument="lm")
        stack.callback(put_back)
        names = match_hookpoints(loaded.model, [modules] if isinstance(modules, str) else modules)
        if isinstance(tokens, Tensor) and tokens.is_floating_point():
            return _of_inputs(loaded.model, tokens, names, threshold, neuron_axis, batch_size)
        contexts = list(contexts_of(loaded, tokens, context_length, skip_special_tokens=True))
        longest = max((len(context.ids) for context in contexts), default=0)
        if not longest:
            raise ValueError("`tokens` must hold at least one token; got none.")
        counts = {name: _Counts(longest, threshold) for name in names}
        run = stack.enter_context(capture(loaded.model, names))
        for batch in in_batches(contexts, batch_size * longest):
            for name, output in run(batch.ids, batch.mask).items():
                counts[name].add(output.cpu().movedim(neuron_axis, -1), batch.keep)
    return {name: found.result() for name, found in counts.items()}


@torch.no_grad()
def _of_inputs(
    model: nn.Module,
    inputs: Tensor,
    names: Sequence[str],
    threshold: float,
    neuron_axis: int,
    batch_size: int,
) -> dict[str, dict[str, Any]]:
    """Measure a model of anything but tokens."""
    if not len(inputs):
        raise ValueError(f"`tokens` must hold at least one input; got {tuple(inputs.shape)}.")
    counts: dict[str, _Counts] = {}
    parameter = next(model.parameters(), None)
    device = inputs.device if parameter is None else parameter.device

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            rows = found.detach().cpu().movedim(neuron_axis, -1)
            rows = rows.reshape(len(rows), -1, rows.shape[-1])
            if name not in counts:
                counts[name] = _Counts(rows.shape[1], threshold)
            counts[name].add(rows, torch.ones(rows.shape[:2], dtype=torch.bool))

        return hook

    with ExitStack() as stack:
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(keep(name))
            stack.callback(handle.remove)
        for part in inputs.split(batch_size):
            model(part.to(device))
    unseen = [name for name in names if name not in counts]
    if unseen:
        raise ValueError(
            f"`modules` must run when the model does; {unseen[0]!r} did not. Leave it out."
        )
    return {name: counts[name].result() for name in names}


class _Counts:
    """What is summed up for one module."""

    def __init__(self, longest: int, threshold: float) -> None:
        self.threshold = threshold
        self.active: Tensor | None = None
        self.at_position = torch.zeros(longest, dtype=torch.float64)
        self.n_at_position = torch.zeros(longest, dtype=torch.float64)
        self.sums = dict.fromkeys(MEANS, 0.0)
        self.n_tokens = self.n_rows = 0

    def add(self, output: Tensor, keep: Tensor) -> None:
        """Add the outputs (batch, tokens, width) at the kept positions."""
        rows = output[keep].float()
        active = rows.abs() > self.threshold
        if self.active is None:
            self.active = torch.zeros(rows.shape[1], dtype=torch.long)
        self.active += active.sum(0)
        places = keep.nonzero()[:, 1]
        self.at_position.index_add_(0, places, active.double().mean(1))
        self.n_at_position.index_add_(0, places, torch.ones_like(places, dtype=torch.float64))
        self.n_tokens += len(rows)
        rows = torch.where(active, rows, 0.0)[active.any(1)]  # a row of zeros has no sparseness
        self.n_rows += len(rows)
        if len(rows):
            for name, metric in MEANS.items():
                self.sums[name] += metric(rows) * len(rows)

    def result(self) -> dict[str, Any]:
        """Return the shares and means."""
        assert self.active is not None
        frequency = self.active.double() / max(self.n_tokens, 1)
        seen = self.n_at_position > 0
        means = {name: total / max(self.n_rows, 1) for name, total in self.sums.items()}
        return {
            "nonzero_share": float(frequency.mean()),
            "nonzero_at_position": (self.at_position[seen] / self.n_at_position[seen]).tolist(),
            "firing_frequency": frequency.sort(descending=True).values.tolist(),
            "never_active": float((self.active == 0).double().mean()),
            **means,
        }
