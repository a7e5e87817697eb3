"""LexicalModel: a masked language model whose logits become weights of the vocabulary's tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from retrieval.encoders.base import largest
from sparsecode._checks import check_int

LONGEST = 1 << 30
# Models whose first place has the number after that of the padding token.
COUNT_FROM_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
)
NOTHING = -1  # fills the places behind the end of a text
EXTRA = (
    "Encoders of text need the package transformers, which is not installed. "
    "Install it with: pip install 'sparsecode[llm]'"
)


def token_activations(logits: Tensor, mask: Tensor, n_logs: int = 1) -> Tensor:
    """Return the weight of each token of the vocabulary for a text.

    The largest logit over the places of the text, made zero where negative, under `n_logs` nested
    ``log(1 + a)``: one is SPLADE, two are the "l0 activation", which saturates earlier.

    Parameters
    ----------
    logits : Tensor of shape (N, L, V)
    mask : Tensor of shape (N, L), bool
        Which places hold a token.
    n_logs : int, default=1

    Returns
    -------
    Tensor of shape (N, V)

    References
    ----------
    Formal et al. (2021), "SPLADE v2". arXiv:2109.10086. Nested: Shen et al. (2025).
    arXiv:2504.14839.

    Examples
    --------
    >>> logits = torch.tensor([[[-1.0, 0.5], [2.0, 9.0]]])
    >>> token_activations(logits, torch.tensor([[True, False]]))
    tensor([[0.0000, 0.4055]])
    """
    found = (logits * mask.unsqueeze(-1)).amax(1).relu()
    for _ in range(n_logs):
        found = found.log1p()
    return found


class LexicalModel(nn.Module):
    """A masked language model and its tokenizer, from texts to weights of tokens.

    Parameters
    ----------
    model : str, path or transformers model with a masked-LM head
        A name or folder is read from safetensors only.
    tokenizer : transformers tokenizer or None
        None takes the one beside a model that was given by name.
    n_logs : int
        Nested logarithms; see `token_activations`.
    max_length : int
        Tokens of a text that are read, at most as many as the model has places.
    """

    def __init__(self, model: Any, tokenizer: Any, *, n_logs: int, max_length: int) -> None:
        super().__init__()
        self.tokenizer: Any = loaded_tokenizer(model, tokenizer)
        self.mlm: Any = loaded_model(model)
        self.n_logs = check_int("n_logs", n_logs, low=1)
        self.max_length = min(check_int("max_length", max_length, low=1), places(self.mlm.config))
        self.n_tokens = int(self.mlm.config.vocab_size)
        if len(self.tokenizer) > self.n_tokens:
            raise ValueError(
                "`tokenizer` must have at most as many tokens as the model, "
                f"{self.n_tokens}; got {len(self.tokenizer)}. Call model.resize_token_embeddings "
                "and train it, or take the tokenizer that belongs to the model."
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.mlm.parameters()).device

    def forward(self, ids: Tensor) -> Tensor:
        """Return the weights of tokens, (N, V), of rows of token ids, (N, L), which -1 fills up."""
        mask = ids != NOTHING
        longest = int(mask.sum(1).max()) if len(ids) else 0
        ids, mask = ids[:, : max(1, longest)].clamp(min=0), mask[:, : max(1, longest)]
        logits = self.mlm(input_ids=ids, attention_mask=mask.long()).logits
        return token_activations(logits, mask, self.n_logs)

    def token_rows(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids of texts as equally long rows, filled up with -1."""
        return padded_rows(tokenized(self.tokenizer, texts, self.max_length))

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], k: int | None, batch_size: int
    ) -> scipy.sparse.csr_matrix:
        """Return the weights of tokens of texts, (N, V), as CSR."""
        texts = checked_texts(texts)
        if k is not None:
            check_int("k", k, low=1)
        self.mlm.eval()
        ids = tokenized(self.tokenizer, texts, self.max_length)
        order = np.argsort([len(row) for row in ids], kind="stable")
        parts = []
        for start in range(0, len(order), batch_size):
            rows = padded_rows([ids[i] for i in order[start : start + batch_size]])
            dense = self(torch.from_numpy(rows).long().to(self.device)).float().cpu().numpy()
            parts.append(largest(scipy.sparse.csr_matrix(dense), k))
        if not parts:
            return scipy.sparse.csr_matrix((0, self.n_tokens), dtype=np.float32)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        rows: Any = scipy.sparse.vstack(parts, format="csr")
        return rows[back]

    def token_names(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of the vocabulary at some ids."""
        return list(self.tokenizer.convert_ids_to_tokens([int(i) for i in ids]))


def places(config: Any) -> int:
    """Return how many tokens a model can read at a time, as its configuration says.

    Parameters
    ----------
    config : transformers configuration
    """
    n = getattr(config, "max_position_embeddings", None)
    if not isinstance(n, int) or n < 1:  # positions that are not counted
        return LONGEST
    if getattr(config, "model_type", None) in COUNT_FROM_PADDING:
        n -= (getattr(config, "pad_token_id", None) or 0) + 1
    return n


def tokenized(
    tokenizer: Any, texts: Sequence[str], max_length: int | None, *, special: bool = True
) -> list[list[int]]:
    """Return the token ids of each text, cut at `max_length`.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : sequence of str
    max_length : int or None
        None cuts where the tokenizer says that its models end, if it does.
    special : bool, default=True
        Whether special tokens are put around each text.
    """
    if not len(texts):
        return []
    longest = tokenizer.model_max_length if max_length is None else max_length
    options: dict[str, Any] = {"add_special_tokens": special}
    if longest <= LONGEST:  # more is transformers' way to say that there is no end
        options |= {"truncation": True, "max_length": longest}
    return tokenizer(list(texts), **options)["input_ids"]


def padded_rows(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return lists of ids as rows of equal length, filled up with -1.

    Parameters
    ----------
    ids : sequence of sequence of int
    """
    longest = max((len(row) for row in ids), default=0)
    rows = np.full((len(ids), max(1, longest)), NOTHING, dtype=np.int32)
    for row, found in zip(rows, ids, strict=True):
        row[: len(found)] = found
    return rows


def checked_texts(texts: Any) -> list[str]:
    """Return texts as a list, or refuse what is no sequence of strings.

    Parameters
    ----------
    texts : sequence of str
    """
    if isinstance(texts, str):
        raise TypeError("Texts must be a sequence of str; got a single str. Put it into a list.")
    found = list(texts)
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"Texts must be a sequence of str; got {type(text).__name__} in it.")
    return found


def loaded_model(model: Any) -> Any:
    """Return a masked language model, read by name or as given.

    Parameters
    ----------
    model : str, path or transformers model
    """
    if isinstance(model, nn.Module):
        return model
    try:
        from transformers import AutoModelForMaskedLM
    except ImportError:
        raise ImportError(EXTRA) from None
    # Files in bfloat16 would be loaded as such, in which Adam's small steps are lost.
    options = {"use_safetensors": True, "dtype": torch.float32}
    return AutoModelForMaskedLM.from_pretrained(str(model), **options)


def loaded_tokenizer(model: Any, tokenizer: Any) -> Any:
    """Return the tokenizer given, or the one beside a model given by name.

    Parameters
    ----------
    model : str, path or transformers model
    tokenizer : transformers tokenizer or None
    """
    if tokenizer is not None:
        return tokenizer
    if isinstance(model, nn.Module):
        raise ValueError("`tokenizer` must be given beside a model that is not given by name.")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ImportError(EXTRA) from None
    return AutoTokenizer.from_pretrained(str(model))
