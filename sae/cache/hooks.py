"""Hookpoints: modules named by glob, whose outputs are caught or replaced on the way."""

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsecode._checks import near_matches

Run = Callable[[Tensor, Tensor], dict[str, Tensor]]
Edit = Callable[[Tensor, Tensor], Tensor]


class _AllCaught(BaseException):
    """Raised by the last hook to leave the forward pass; BaseException, so no model catches it."""


def match_hookpoints(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the modules that any of the glob patterns matches, in natural order.

    ``*`` and ``?`` stand for characters of one part of a dotted name, ``[0-3]`` for one character
    of a set, ``**`` for one or more whole parts: ``encoder.layer.*`` matches the layers and not the
    modules inside them. A name may have or lack the prefix of the model's body
    (``transformer.h.2``, ``h.2``).

    Parameters
    ----------
    model : Module
    patterns : sequence of str

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a pattern matches no module; close names are offered.

    Examples
    --------
    >>> model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(11))})
    >>> match_hookpoints(model, ["layers.1*", "layers.[02]"])
    ['layers.0', 'layers.1', 'layers.2', 'layers.10']
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"`hookpoints` must be a list of module names or globs; got {patterns!r}.")
    names = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        matches = next(filter(None, (_matches(p, names) for p in _spellings(model, pattern))), [])
        if not matches:
            listed = f"{', '.join(map(repr, names[:3]))}, ..." if names else "none"
            hint = near_matches(pattern, names) or f" It has {listed}."
            raise ValueError(
                f"`hookpoints` must name modules of the {type(model).__name__}; {pattern!r} "
                f"matches none.{hint}"
            )
        found.update(matches)
    return sorted(found, key=_natural)


@contextmanager
def capture(model: nn.Module, hookpoints: Sequence[str]) -> Iterator[Run]:
    """Run a model up to the last of the given modules, and catch what these put out.

    The model is in eval mode inside the block. Whatever happens, leaving the block removes the
    hooks and gives every module back its training flag.

    Parameters
    ----------
    model : Module
    hookpoints : sequence of str
        Names as `match_hookpoints` returns them.

    Yields
    ------
    callable
        Takes token ids and attention mask, (batch, tokens) each, and returns hookpoint -> Tensor of
        shape (batch, tokens, n_features) on the model's device.
    """
    caught: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            caught.setdefault(name, _tensor_of(output, name))
            if len(caught) == len(hookpoints):
                raise _AllCaught

        return hook

    def run(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        caught.clear()
        try:
            with torch.inference_mode():
                model(**model_inputs(model, ids, mask))
        except _AllCaught:
            pass
        missing = [name for name in hookpoints if name not in caught]
        if missing:
            raise ValueError(
                f"`hookpoints` must be run by the model's forward pass; {missing[0]!r} was not. "
                "Choose another module."
            )
        return {name: _check_output(caught[name], name, ids.shape) for name in hookpoints}

    flags = [(module, module.training) for module in model.modules()]
    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook_for(name)) for name in hookpoints]
    try:
        model.eval()
        yield run
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags:
            module.training = flag


def model_inputs(model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Return the arguments with which a model is called on token ids, on its device.

    Parameters
    ----------
    model : Module
    ids, mask : Tensor of shape (batch, tokens)
    """
    accepted = inspect.signature(model.forward).parameters
    device = next(model.parameters(), torch.zeros(0)).device
    first = "input_ids" if "input_ids" in accepted else next(iter(accepted))
    inputs: dict[str, Any] = {first: ids.to(device)}
    if "attention_mask" in accepted:
        inputs["attention_mask"] = mask.to(device)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


@contextmanager
def edited(model: nn.Module, hookpoint: str, edit: Edit) -> Iterator[None]:
    """Change what a module of a model puts out, inside the block.

    Parameters
    ----------
    model : Module
    hookpoint : str
        A module, whose output is both read and replaced, or two joined by "+": what the first one
        puts out is read, and the output of the second one, which runs later, is replaced.
    edit : callable
        Takes what was read and what would be put out, (batch, tokens, width) each, and returns what
        is put out in its place. Inside a module that returns several values it is the first one.
    """
    first, last = hookpoint_pair(model, hookpoint)
    modules = dict(model.named_modules())
    read: list[Tensor] = []

    def reader(module: nn.Module, args: Any, output: Any) -> None:
        read[:] = [_tensor_of(output, first)]

    def writer(module: nn.Module, args: Any, output: Any) -> Any:
        before = _tensor_of(output, last)
        if first != last and not read:
            raise ValueError(
                f"`hookpoint` must name a module to read that runs before the one to replace; "
                f"{first!r} did not run before {last!r}."
            )
        source = before if first == last else read.pop()
        return _with_tensor(output, edit(source, before))

    handles = [modules[first].register_forward_hook(reader)] if first != last else []
    try:
        handles.append(modules[last].register_forward_hook(writer))
        yield
    finally:
        for handle in handles:
            handle.remove()


def hookpoint_pair(model: nn.Module, hookpoint: str) -> tuple[str, str]:
    """Return the module to read and the module to replace, which may be the same one.

    Parameters
    ----------
    model : Module
    hookpoint : str
        One name, or two joined by "+".
    """
    if not isinstance(hookpoint, str) or not 1 <= len(hookpoint.split("+")) <= 2:
        raise ValueError(
            "`hookpoint` must name one module, or an input and an output joined by '+'; "
            f"got {hookpoint!r}."
        )
    names = []
    for part in hookpoint.split("+"):
        found = match_hookpoints(model, [part])
        if len(found) > 1:
            raise ValueError(
                f"`hookpoint` must name one module; {part!r} matches {len(found)}, "
                f"such as {found[0]!r} and {found[1]!r}."
            )
        names.append(found[0])
    return names[0], names[-1]


def _spellings(model: nn.Module, pattern: str) -> list[str]:
    """Return a pattern as it is, without and with the prefix of the body of a model with a head.

    ``transformer.h.2`` of a GPT-2 with a head is ``h.2`` of the bare model, and the reverse.
    """
    prefix = getattr(model, "base_model_prefix", "")
    return [pattern, pattern.removeprefix(f"{prefix}."), f"{prefix}.{pattern}"]


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if _regex(pattern).fullmatch(name)]


def _regex(pattern: str) -> re.Pattern[str]:
    parts = [r"[^.]+(\.[^.]+)*" if part == "**" else _part(part) for part in pattern.split(".")]
    try:
        return re.compile(r"\.".join(parts))
    except re.error as error:
        raise ValueError(
            f"`hookpoints` must be module names or globs; {pattern!r} is none ({error.msg})."
        ) from None


def _part(part: str) -> str:
    set_ = re.compile(r"\[!?[^\]]+\]")
    tokens = re.split(rf"(\*|\?|{set_.pattern})", part)
    special = {"*": "[^.]*", "?": "[^.]"}
    return "".join(
        special.get(token, token.replace("[!", "[^") if set_.fullmatch(token) else re.escape(token))
        for token in tokens
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which layer 10 comes after layer 2."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


def _tensor_of(output: Any, name: str) -> Tensor:
    """Return the activations in a module's output: itself, its first entry, or its hidden state."""
    if isinstance(output, Mapping):  # a transformers ModelOutput is an OrderedDict
        output = output.get("last_hidden_state", next(iter(output.values()), None))
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the output of hookpoint {name!r} must be a tensor or start with one; "
            f"got {type(output).__name__}. Choose another module."
        )
    return output


def _with_tensor(output: Any, tensor: Tensor) -> Any:
    """Return a module's output with other activations in it; the counterpart of `_tensor_of`."""
    if isinstance(output, Mapping):
        name = "last_hidden_state" if "last_hidden_state" in output else next(iter(output))
        changed = copy.copy(output)
        changed[name] = tensor  # type: ignore[index]
        return changed
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    return [tensor, *output[1:]] if isinstance(output, list) else tensor


def _check_output(output: Tensor, name: str, shape: torch.Size) -> Tensor:
    if output.ndim != 3 or output.shape[:2] != shape or not output.is_floating_point():
        wanted = f"(batch, tokens, n_features) = ({shape[0]}, {shape[1]}, any)"
        raise ValueError(
            f"the output of hookpoint {name!r} must be floating, of shape {wanted}; got "
            f"{output.dtype} {tuple(output.shape)}. Choose another module."
        )
    return output
