"""Encoders on disk: ``config.json`` and safetensors in one folder; nothing read is executed."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.encoders.base import AbstractEncoder
from retrieval.encoders.contrastive import ContrastiveSparseEncoder
from retrieval.encoders.flops import FlopsEncoder
from retrieval.encoders.inference_free import InferenceFreeEncoder
from retrieval.encoders.projection import SparseProjection
from retrieval.encoders.splade import SpladeEncoder
from retrieval.encoders.tied_topk import TiedTopK
from sparsecode import io
from sparsecode._checks import near_matches

FORMAT, FORMAT_VERSION = "sparsecode.retrieval", 1
CONFIG, MODEL = "config.json", "model"
ENCODERS: dict[str, type] = {
    "ContrastiveSparseEncoder": ContrastiveSparseEncoder,
    "FlopsEncoder": FlopsEncoder,
    "InferenceFreeEncoder": InferenceFreeEncoder,
    "SpladeEncoder": SpladeEncoder,
}


def save_encoder(encoder: AbstractEncoder, folder: str | Path) -> Path:
    """Write a trained encoder to a folder.

    Parameters
    ----------
    encoder : ContrastiveSparseEncoder, FlopsEncoder, InferenceFreeEncoder or SpladeEncoder
        A `LatentEncoder` stands on a model of your own, which is yours to save.
    folder : path
        Made when missing; an encoder that is there already is replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TypeError
        If it is another encoder.
    FileExistsError
        If the folder holds something else.
    """
    name = type(encoder).__name__
    if ENCODERS.get(name) is not type(encoder):
        raise TypeError(f"`encoder` must be one of {', '.join(ENCODERS)}; got {name}.")
    folder = Path(folder)
    _refuse_foreign(folder)
    if isinstance(encoder, (ContrastiveSparseEncoder, FlopsEncoder)):
        config, tensors = _of_embeddings(encoder)
    else:
        config, tensors = _of_texts(encoder, folder)
    stale = set(folder.glob("weights-*.safetensors")) if folder.is_dir() else set()
    temporary = folder / "weights-new.safetensors"
    digest = io.save_tensors(temporary, tensors)
    weights = folder / f"weights-{digest[:16]}.safetensors"
    temporary.replace(weights)
    io.write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "encoder": name,
            "config": config,
            "weights": {"file": weights.name, "sha256": digest},
        },
    )
    for old in stale - {weights}:
        if re.fullmatch(r"weights-[0-9a-f]{16}\.safetensors", old.name):
            old.unlink(missing_ok=True)
    return folder


def load_encoder(folder: str | Path) -> Any:
    """Read an encoder that `save_encoder` wrote, or a `SparseEncoder` of sentence-transformers.

    Parameters
    ----------
    folder : path

    Returns
    -------
    AbstractEncoder
        Ready to encode. `partial_fit` needs what only the training has, and refuses.

    Raises
    ------
    FileNotFoundError
        If the folder holds no encoder.
    sparsecode.io.CorruptFileError
        If a byte of it is not what was written.
    ValueError
        If it is of another format, version or kind.
    """
    folder = Path(folder)
    if (folder / "modules.json").is_file():
        from retrieval.encoders.sentence_transformers import read_sparse_encoder

        return read_sparse_encoder(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"`folder` must hold an encoder that save_encoder wrote; {str(folder)!r} holds no "
            f"{CONFIG}."
        )
    config = io.read_json(folder / CONFIG)
    if config.get("format") != FORMAT or config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"`{folder}` must be of format {FORMAT} version {FORMAT_VERSION}; "
            f"got {config.get('format')!r} version {config.get('format_version')!r}."
        )
    kind = config["encoder"]
    if kind not in ENCODERS:
        raise ValueError(
            f"`encoder` must be one of {', '.join(ENCODERS)}; got {kind!r}."
            f"{near_matches(str(kind), list(ENCODERS))}"
        )
    stored = config["weights"]
    tensors = io.load_tensors(folder / stored["file"], sha256=stored["sha256"])
    parameters = config["config"]["parameters"]
    if kind == "ContrastiveSparseEncoder":
        return contrastive_encoder(tensors, parameters)
    if kind == "FlopsEncoder":
        return _flops_encoder(tensors, parameters, config["config"]["fitted"])
    encoder = ENCODERS[kind](str(folder / MODEL), **parameters)
    if kind == "InferenceFreeEncoder":
        encoder.queries.load_state_dict({"idf": tensors["idf"]})
    return encoder


def contrastive_encoder(
    tensors: dict[str, Tensor], parameters: dict[str, Any]
) -> ContrastiveSparseEncoder:
    """Return a fitted encoder with given weights.

    Parameters
    ----------
    tensors : dict of str to Tensor
        ``W``, ``b_latent``, ``b_pre`` and, if codes are to be given their length back,
        ``code_norms``.
    parameters : dict
        Of the constructor.
    """
    encoder = ContrastiveSparseEncoder(**parameters)
    n_latents, n_features = tensors["W"].shape
    module = TiedTopK(n_features, n_latents)
    module.load_state_dict({name: tensors[name] for name in ("W", "b_latent", "b_pre")})
    norms = tensors.get("code_norms", torch.ones(1))
    return encoder._fitted_from(module.eval(), norms.numpy().astype(np.float32))


def _flops_encoder(
    tensors: dict[str, Tensor], parameters: dict[str, Any], fitted: dict[str, Any]
) -> FlopsEncoder:
    encoder = FlopsEncoder(**parameters)
    n_components, n_features = tensors["linear.weight"].shape
    activation: Any = encoder.activation
    module = SparseProjection(
        n_features, n_components, activation=activation, threshold=encoder.threshold
    )
    module.load_state_dict(tensors)
    encoder.module_, encoder.n_features_in_ = module.eval(), n_features
    encoder.weight_, encoder.n_iter_ = fitted["weight"], fitted["n_iter"]
    return encoder


def _of_embeddings(
    encoder: ContrastiveSparseEncoder | FlopsEncoder,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters and the weights of an encoder of embeddings."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(encoder)
    parameters = encoder.get_params()
    if not isinstance(parameters["random_state"], (int, type(None))):
        parameters["random_state"] = None  # the state of a generator is not kept
    tensors = dict(encoder.module_.state_dict())
    config: dict[str, Any] = {"parameters": parameters}
    if isinstance(encoder, ContrastiveSparseEncoder):
        tensors["code_norms"] = torch.from_numpy(encoder.code_norms_)
    else:
        if encoder.encoder is not None:
            raise TypeError(
                "`encoder` must take embeddings to be saved; this one holds a module of your own. "
                "Save `module_.state_dict()` beside the code of that module."
            )
        config["fitted"] = {"weight": encoder.weight_, "n_iter": encoder.n_iter_}
    return config, tensors


def _of_texts(encoder: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write the language model, and return the parameters and the rest of the weights."""
    model = encoder.documents
    folder.mkdir(parents=True, exist_ok=True)
    model.mlm.save_pretrained(folder / MODEL)
    model.tokenizer.save_pretrained(folder / MODEL)
    parameters: dict[str, Any] = {
        "n_logs": model.n_logs,
        "max_length": model.max_length,
        "batch_size": encoder.batch_size,
        "device": encoder.device,
    }
    tensors = {"n_tokens": torch.tensor([model.n_tokens])}
    if isinstance(encoder, InferenceFreeEncoder):
        parameters["learn_idf"] = encoder.queries.idf.requires_grad
        tensors["idf"] = encoder.queries.idf.detach().cpu()
    return {"parameters": parameters}, tensors


def _refuse_foreign(folder: Path) -> None:
    """Refuse to write over a config.json that is not ours."""
    if not (folder / CONFIG).exists():
        return
    try:
        ours = json.loads((folder / CONFIG).read_text()).get("format") == FORMAT
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"`{folder}` must be empty or hold an encoder of ours; it holds another {CONFIG}. "
            "Choose another folder."
        )
