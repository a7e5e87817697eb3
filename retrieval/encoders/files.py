"""Encoders on disk: ``config.json`` and safetensors in one folder; nothing read is executed.

Weights, and the folder of a language model, carry their digest in their name: ``config.json``,
which is written after them, switches from an old encoder to a new one in one step.
"""

import hashlib
import json
import re
import shutil
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
CONFIG = io.CONFIG
MODEL = re.compile(r"model-[0-9a-f]{16}")  # the folder of a language model, by its digest
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
    io.refuse_foreign(folder, FORMAT, "an encoder")
    stale = set(folder.glob("model-*")) if folder.is_dir() else set()
    if isinstance(encoder, (ContrastiveSparseEncoder, FlopsEncoder)):
        config, tensors = _of_embeddings(encoder)
    else:
        config, tensors = _of_texts(encoder, folder)
    kind = {"format": FORMAT, "format_version": FORMAT_VERSION, "encoder": name}
    io.write_model(folder, {**kind, "config": config}, tensors)
    for old in stale:  # config.json names another one now
        if MODEL.fullmatch(old.name) and old.name != config.get("model", {}).get("folder"):
            shutil.rmtree(old)
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
    weights, digest = io.weights_file(folder, config)
    tensors = io.load_tensors(weights, sha256=digest)
    parameters, fitted = (config["config"].get(part, {}) for part in ("parameters", "fitted"))
    if kind in ("ContrastiveSparseEncoder", "FlopsEncoder"):
        build = contrastive_encoder if kind == "ContrastiveSparseEncoder" else _flops_encoder
        encoder = build(tensors, parameters)
        if "feature_names_in_" in fitted:
            fitted["feature_names_in_"] = np.asarray(fitted["feature_names_in_"], dtype=object)
        vars(encoder).update(fitted)
        return encoder
    encoder = ENCODERS[kind](str(_unchanged(folder, config["config"])), **parameters)
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


def _flops_encoder(tensors: dict[str, Tensor], parameters: dict[str, Any]) -> FlopsEncoder:
    encoder = FlopsEncoder(**parameters)
    n_components, n_features = tensors["linear.weight"].shape
    activation: Any = encoder.activation
    module = SparseProjection(
        n_features, n_components, activation=activation, threshold=encoder.threshold
    )
    module.load_state_dict(tensors)
    encoder.module_, encoder.n_features_in_ = module.eval(), n_features
    return encoder


def _of_embeddings(
    encoder: ContrastiveSparseEncoder | FlopsEncoder,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters and the weights of an encoder of embeddings."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(encoder)
    parameters = encoder.get_params()
    parameters = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in parameters.items()
    }
    if not isinstance(parameters["random_state"], (int, type(None))):
        parameters["random_state"] = None  # the state of a generator is not kept
    tensors = dict(encoder.module_.state_dict())
    fitted: dict[str, Any] = {"n_iter_": encoder.n_iter_}
    names = vars(encoder).get("feature_names_in_")
    if names is not None:
        fitted["feature_names_in_"] = [str(name) for name in names]
    if isinstance(encoder, ContrastiveSparseEncoder):
        tensors["code_norms"] = torch.from_numpy(encoder.code_norms_)
    else:
        if encoder.encoder is not None:
            raise TypeError(
                "`encoder` must take embeddings to be saved; this one holds a module of your own. "
                "Save `module_.state_dict()` beside the code of that module."
            )
        fitted["weight_"] = encoder.weight_
    return {"parameters": parameters, "fitted": fitted}, tensors


def _of_texts(encoder: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write the language model, and return the parameters and the rest of the weights."""
    model, fresh = encoder.documents, folder / "model-new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a call that was killed
    fresh.mkdir(parents=True)
    model.mlm.save_pretrained(fresh)
    model.tokenizer.save_pretrained(fresh)
    files = io.digest_of_files(fresh)
    name = f"model-{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}"
    shutil.rmtree(folder / name, ignore_errors=True)
    fresh.rename(folder / name)
    parameters: dict[str, Any] = {
        "n_logs": model.n_logs,
        "max_length": model.max_length,
        "batch_size": encoder.batch_size,
        "device": encoder.device,
    }
    tensors = {"n_tokens": torch.tensor([model.n_tokens])}
    if isinstance(encoder, InferenceFreeEncoder):
        parameters["learn_idf"] = encoder.queries.idf.requires_grad
        parameters["max_query_length"] = encoder.queries.max_length
        tensors["idf"] = encoder.queries.idf.detach().cpu()
    return {"parameters": parameters, "model": {"folder": name, "files": files}}, tensors


def _unchanged(folder: Path, config: dict[str, Any]) -> Path:
    """Return the folder of a language model whose files are those that were written."""
    stored = config.get("model", {})
    name, files = str(stored.get("folder")), stored.get("files")
    if not MODEL.fullmatch(name) or not isinstance(files, dict):
        raise io.CorruptFileError(
            f"`{folder / CONFIG}` must name a model of its own folder; got {name!r}."
        )
    found = io.digest_of_files(folder / name)
    differ = sorted(file for file in {*files, *found} if files.get(file) != found.get(file))
    if differ:
        raise io.CorruptFileError(
            f"`{folder / name}` must hold exactly what was written; {', '.join(differ)} differ. "
            "Restore it from a copy or save the encoder again."
        )
    return folder / name
