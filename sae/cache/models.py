"""Loading a transformers model and its tokenizer, and saying exactly which ones they were."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsecode._checks import check_int

_SAMPLES = 64  # values of each parameter that go into the fingerprint
_SPECIAL = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
DEFAULT_CONTEXT = 256


@dataclass(frozen=True)
class Loaded:
    """A model with all that the writer asks about it; ``tokenizer`` may be None."""

    model: nn.Module
    tokenizer: Any
    name: str

    @property
    def special_ids(self) -> set[int]:
        """Tokens that frame a text: begin, end, separators, padding; not unknown or mask."""
        source = (
            self.tokenizer if self.tokenizer is not None else getattr(self.model, "config", None)
        )
        ids = {getattr(source, name, None) for name in _SPECIAL}
        return {number for number in ids if isinstance(number, int)}

    @property
    def pad_id(self) -> int | None:
        """The padding token, where it is not a token of text or an end of text at the same time."""
        source = (
            self.tokenizer if self.tokenizer is not None else getattr(self.model, "config", None)
        )
        pad = getattr(source, "pad_token_id", None)
        return (
            pad if isinstance(pad, int) and pad != getattr(source, "eos_token_id", None) else None
        )

    @property
    def n_tokens(self) -> int | None:
        """Size of the model's token embedding, if it says."""
        find = getattr(self.model, "get_input_embeddings", None)
        embedding = None if find is None else find()
        return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None

    @property
    def longest_context(self) -> int | None:
        """The most tokens that the model takes at once, if it or its tokenizer says."""
        config = getattr(self.model, "config", None)
        limits = [
            limit
            for limit in (
                getattr(config, "max_position_embeddings", None),
                getattr(config, "n_positions", None),
                getattr(self.tokenizer, "model_max_length", None),
            )
            if isinstance(limit, int) and 0 < limit < 10**9
        ]
        return min(limits, default=None)

    def context_length(self, wanted: int | None) -> int:
        """Return the context to use: `wanted`, or 256 or the model's longest if that is less."""
        longest = self.longest_context
        if wanted is None:
            return min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)
        return check_int(
            "context_length", wanted, low=1, high=longest, high_name="model's longest context"
        )

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the model and the tokenizer, for a manifest."""
        config = getattr(self.model, "config", None)
        return {
            "model": {
                "name": self.name,
                "class": type(self.model).__name__,
                "type": getattr(config, "model_type", None),
                "revision": getattr(config, "_commit_hash", None),
                "dtype": str(next(self.model.parameters(), torch.zeros(0)).dtype).removeprefix(
                    "torch."
                ),
                "fingerprint": _model_fingerprint(self.model),
            },
            "tokenizer": None
            if self.tokenizer is None
            else {
                "name": str(getattr(self.tokenizer, "name_or_path", "")),
                "class": type(self.tokenizer).__name__,
                "fingerprint": hashlib.sha256(json.dumps(self.pieces()).encode()).hexdigest(),
            },
        }

    def pieces(self) -> list[str] | None:
        """Return the text piece of every token id, or None without a tokenizer."""
        if self.tokenizer is None:
            return None
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return ["" if piece is None else piece for piece in pieces]


def load(
    model: Any,
    tokenizer: Any,
    device: str | torch.device | None,
    *,
    name_of_argument: str = "model",
    with_head: bool = False,
) -> tuple[Loaded, Callable[[], None]]:
    """Return the model on its device, and a function that puts an object back as it was.

    Weights in half precision are computed with in float32 on a CPU.

    Parameters
    ----------
    model : str, path or Module
        A name or a folder is loaded with ``AutoModel``; code that comes with a model is never run.
    tokenizer : str, path, tokenizer object or None
        None takes the one of the model's name or folder, and none for an object.
    device : device or None
        None leaves an object where it is, and takes the GPU, if there is one, for a name.
    name_of_argument : str, default="model"
        What errors call the model.
    with_head : bool, default=False
        Whether a model that was trained to predict tokens is loaded with the layer that does.
    """
    if device is not None:
        _check_device(device)
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), torch.zeros(0))
        home = parameter.device
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
        words = _tokenizer(tokenizer)
        if device is not None and torch.device(device) != home:
            model.to(device)
        put_back = _compute_in_float32(model)

        def undo() -> None:
            put_back()
            _move(model, home)

        return Loaded(model, words, name), undo
    if not isinstance(model, (str, Path)):
        raise TypeError(
            f"`{name_of_argument}` must be a name, a folder or a torch module; "
            f"got {type(model).__name__}."
        )
    name = str(model)
    words = None if tokenizer is None else _tokenizer(tokenizer)
    try:
        loaded = _load_quietly(name, with_head)
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`{name_of_argument}` must be a transformers model on the Hugging Face hub or a "
            f"folder with one; {name!r} could not be loaded ({first})"
        ) from None
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    words = _tokenizer_beside(name) if tokenizer is None else words
    loaded = loaded.to(device)
    _compute_in_float32(loaded)
    return Loaded(loaded, words, name), lambda: None


def _compute_in_float32(model: nn.Module) -> Callable[[], None]:
    """Let half precision run in float32 on a CPU, where it is many times faster.

    Returns a function that gives a model the very weights back that it came with.
    """
    halves = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.device.type == "cpu" and tensor.dtype in (torch.float16, torch.bfloat16)
    ]
    for tensor, data in halves:
        tensor.data = data.float()

    def put_back() -> None:
        for tensor, data in halves:
            tensor.data = data

    return put_back


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`device` must be one that torch can use here, such as 'cpu'; got {str(device)!r} "
            f"({first})."
        ) from None


def _load_quietly(name: str, with_head: bool) -> nn.Module:
    transformers = _transformers()
    kind = transformers.AutoModel
    if with_head:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = getattr(transformers, _class_with_head(config))
    log = transformers.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        return kind.from_pretrained(name, trust_remote_code=False)
    finally:
        if shown:
            log.enable_progress_bar()


def _class_with_head(config: Any) -> str:
    """Return the auto class that keeps the layer in front of the vocabulary, if there is one."""
    (trained_as,) = (config.architectures or [""])[:1]
    if trained_as.endswith(("ForMaskedLM", "ForPreTraining")):
        return "AutoModelForMaskedLM"
    is_causal = trained_as.endswith(("ForCausalLM", "LMHeadModel"))
    return "AutoModelForCausalLM" if is_causal else "AutoModel"


def _move(model: nn.Module, home: torch.device) -> None:
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device != home:
        model.to(home)


def _tokenizer(tokenizer: Any) -> Any:
    if tokenizer is None or callable(tokenizer):
        return tokenizer
    if not isinstance(tokenizer, (str, Path)):
        raise TypeError(
            "`tokenizer` must be a transformers tokenizer, a name or a folder; got "
            f"{type(tokenizer).__name__}."
        )
    try:
        return _named_tokenizer(str(tokenizer))
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`tokenizer` must be on the Hugging Face hub or a folder with one; {str(tokenizer)!r} "
            f"could not be loaded ({first})"
        ) from None


def _named_tokenizer(name: str) -> Any:
    return _transformers().AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _tokenizer_beside(name: str) -> Any:
    """Return the tokenizer that comes with a model, or None: token ids need none."""
    try:
        return _named_tokenizer(name)
    except (OSError, ValueError):
        return None


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "`transformers` must be installed to load a model by name; it is not. "
            "Run: pip install 'sparsecode[llm]'"
        ) from None
    return transformers


def _model_fingerprint(model: nn.Module) -> str:
    """Hash names, shapes and evenly spread values of all parameters: cheap at any size of model."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(_samples(parameter.detach()).tobytes())
    return digest.hexdigest()


def _samples(parameter: Tensor) -> Any:
    flat = parameter.reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return flat[::step][:_SAMPLES].float().cpu().numpy()
