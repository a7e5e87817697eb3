"""Encoders in the files of sentence-transformers' `SparseEncoder`, both ways, without that package.

Only JSON and safetensors are read, and no class that a file names is imported.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from retrieval.encoders.contrastive import ContrastiveSparseEncoder
from retrieval.encoders.inference_free import InferenceFreeEncoder
from retrieval.encoders.lexical_model import LONGEST, places
from retrieval.encoders.query_table import read_idf
from retrieval.encoders.splade import SpladeEncoder
from sparsecode import io

MODULES = "sentence_transformers.sparse_encoder.modules"
TRANSFORMER = f"{MODULES}.mlm_transformer.MLMTransformer"
POOLING = f"{MODULES}.splade_pooling.SpladePooling"
STATIC = f"{MODULES}.sparse_static_embedding.SparseStaticEmbedding"
AUTOENCODER = f"{MODULES}.sparse_auto_encoder.SparseAutoEncoder"
ROUTER = "sentence_transformers.base.modules.router.Router"
ACTIVATIONS = {1: "relu", 2: "log1p_relu"}
NO_END = LONGEST + 1
LOGS = {name: n_logs for n_logs, name in ACTIVATIONS.items()}


def write_sparse_encoder(encoder: Any, folder: str | Path) -> Path:
    """Write an encoder so that sentence-transformers loads it.

    Parameters
    ----------
    encoder : SpladeEncoder, InferenceFreeEncoder or ContrastiveSparseEncoder
        The first two become a whole model, ``SparseEncoder(folder)``. The last becomes a module
        that follows a dense model, ``SparseAutoEncoder.load(folder)``; its codes have no unit
        length there.
    folder : path
        New or empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the encoder nests logarithms more than twice, which those files cannot say.

    Examples
    --------
    ``SparseEncoder(modules=[Transformer(...), Pooling(...), SparseAutoEncoder.load(folder)])``
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"`{folder}` must be empty; it holds files. Choose another folder.")
    if isinstance(encoder, ContrastiveSparseEncoder):
        return _write_autoencoder(encoder, folder)
    if not isinstance(encoder, (SpladeEncoder, InferenceFreeEncoder)):
        raise TypeError(
            "`encoder` must be a SpladeEncoder, an InferenceFreeEncoder or a "
            f"ContrastiveSparseEncoder; got {type(encoder).__name__}."
        )
    if encoder.documents.n_logs not in ACTIVATIONS:
        raise ValueError(
            "`n_logs` must be 1 or 2 in files of sentence-transformers; "
            f"got {encoder.documents.n_logs}."
        )
    if isinstance(encoder, SpladeEncoder):
        _write_transformer(encoder, folder)
        _write_pooling(encoder, folder / "1_SpladePooling")
        modules = [("", TRANSFORMER), ("1_SpladePooling", POOLING)]
    else:
        _write_router(encoder, folder)
        modules = [("", ROUTER)]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    _write(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    return folder


def read_sparse_encoder(folder: str | Path) -> Any:
    """Read a `SparseEncoder` that sentence-transformers, or `write_sparse_encoder`, wrote.

    Parameters
    ----------
    folder : path
        With ``modules.json``, or with the ``config.json`` of a `SparseAutoEncoder` alone.

    Returns
    -------
    SpladeEncoder, InferenceFreeEncoder or ContrastiveSparseEncoder
        The last for a sparse autoencoder behind a dense model: it takes the embeddings of that.

    Raises
    ------
    ValueError
        If the modules are others than those, or pool in another way.

    Notes
    -----
    Special tokens have weight 0 in queries here, whatever the file says; published models have no
    other weights for them.
    """
    folder = Path(folder)
    if not (folder / "modules.json").is_file():
        return _read_autoencoder(folder)
    modules = [(_kind(entry["type"]), folder / entry["path"]) for entry in _read(folder, "modules")]
    kinds = [kind for kind, _ in modules]
    if "SparseAutoEncoder" in kinds:
        return _read_autoencoder(modules[kinds.index("SparseAutoEncoder")][1])
    if kinds == ["Router"]:
        return _read_router(modules[0][1])
    if len(kinds) == 2 and kinds[1] == "SpladePooling":
        options = _text_options(modules[0][1], modules[1][1])
        return SpladeEncoder(str(modules[0][1]), **options)
    raise ValueError(
        "`folder` must hold a masked language model with SpladePooling, a Router of that and a "
        f"SparseStaticEmbedding, or a SparseAutoEncoder; got {', '.join(kinds)}."
    )


def _write_autoencoder(encoder: ContrastiveSparseEncoder, folder: Path) -> Path:
    module = encoder.module_
    sizes = {"input_dim": module.n_features, "hidden_dim": module.n_latents}
    k = min(encoder.k, module.n_latents)
    k_aux = min(encoder.k_aux, module.n_latents)
    options = {"k": k, "k_aux": k_aux, "normalize": False, "dead_threshold": 30}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "decoder.linear.weight": module.W.detach().cpu(),
        "latent_bias": module.b_latent.detach().cpu(),
        "pre_bias": module.b_pre.detach().cpu(),
        "stats_last_nonzero": torch.zeros(module.n_latents, dtype=torch.int64),
    }
    io.save_tensors(folder / "model.safetensors", weights)
    _write(folder / "config.json", sizes | options)
    return folder


def _read_autoencoder(folder: Path) -> ContrastiveSparseEncoder:
    from retrieval.encoders.files import contrastive_encoder

    config, tensors = _read(folder, "config"), io.load_tensors(folder / "model.safetensors")
    if config.get("normalize"):
        raise ValueError(
            f"`{folder}` must hold a SparseAutoEncoder without normalization of its inputs; got "
            "normalize=true."
        )
    weight = tensors.get("encoder.weight", tensors.get("decoder.linear.weight"))
    if weight is None or weight.shape != (config["hidden_dim"], config["input_dim"]):
        raise ValueError(
            f"`{folder}` must hold weights of shape (hidden_dim, input_dim) = "
            f"({config['hidden_dim']}, {config['input_dim']}); "
            f"got {'none' if weight is None else tuple(weight.shape)}."
        )
    named = {"W": weight, "b_latent": tensors["latent_bias"], "b_pre": tensors["pre_bias"]}
    parameters = {"n_components": config["hidden_dim"], "k": config["k"]}
    # Its codes have no unit length, so that decoding is exact.
    return contrastive_encoder(named, parameters | {"normalize": False})


def _write_transformer(encoder: Any, folder: Path) -> None:
    model = encoder.documents
    folder.mkdir(parents=True, exist_ok=True)
    model.mlm.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    _write(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "fill-mask",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "token_embeddings",
            "max_seq_length": model.max_length,
        },
    )


def _write_pooling(encoder: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    activation = ACTIVATIONS[encoder.documents.n_logs]
    width = encoder.documents.n_tokens
    options = {"pooling_strategy": "max", "activation_function": activation}
    _write(folder / "config.json", options | {"embedding_dimension": width})


def _write_router(encoder: InferenceFreeEncoder, folder: Path) -> None:
    names = ["query_0_SparseStaticEmbedding", "document_0_MLMTransformer"]
    names.append("document_1_SpladePooling")
    table = folder / names[0]
    table.mkdir(parents=True, exist_ok=True)
    weights = {"weight": encoder.queries.weights.detach().cpu().contiguous()}
    io.save_tensors(table / "model.safetensors", weights)
    encoder.documents.tokenizer.save_pretrained(table)
    _write(table / "config.json", {"frozen": not encoder.queries.idf.requires_grad})
    _write_transformer(encoder, folder / names[1])
    _write_pooling(encoder, folder / names[2])
    types = dict(zip(names, (STATIC, TRANSFORMER, POOLING), strict=True))
    structure = {"query": names[:1], "document": names[1:]}
    parameters = {"default_route": "document", "allow_empty_key": True}
    router = {"types": types, "structure": structure, "parameters": parameters}
    _write(folder / "router_config.json", router)


def _read_router(folder: Path) -> InferenceFreeEncoder:
    config = _read(folder, "router_config")
    kinds = {name: _kind(kind) for name, kind in config["types"].items()}
    queries, documents = (config["structure"].get(side, []) for side in ("query", "document"))
    found = [[kinds.get(name) for name in side] for side in (queries, documents)]
    if found[0] not in (["SparseStaticEmbedding"], ["IDF"]) or found[1][1:] != ["SpladePooling"]:
        raise ValueError(
            "`folder` must route queries through a SparseStaticEmbedding and documents through a "
            f"masked language model with SpladePooling; got {found[0]} and {found[1]}."
        )
    model = folder / documents[0]
    table = folder / queries[0]
    options = _text_options(model, folder / documents[1])
    known = (table / "tokenizer_config.json").is_file()
    longest = _read(table, "tokenizer_config").get("model_max_length") if known else None
    options["learn_idf"] = _read(table, "config").get("frozen") is False
    options["max_query_length"] = None if longest is None else min(int(longest), NO_END)
    encoder = InferenceFreeEncoder(str(model), **options)
    weight = _static_weights(table, encoder)
    with torch.no_grad():
        encoder.queries.idf[: len(weight)] = weight
    return encoder


def _static_weights(folder: Path, encoder: InferenceFreeEncoder) -> Tensor:
    """Return the weights of a query table, from safetensors or from a JSON file of idf."""
    path = _read(folder, "config").get("path")
    if path is None:
        return io.load_tensors(folder / "model.safetensors")["weight"]
    weight = torch.zeros(encoder.n_dimensions)  # as there, tokens that are missing weigh nothing
    vocabulary = encoder.documents.tokenizer.get_vocab()
    name = Path(path).name
    for token, value in read_idf(next(iter(folder.parent.rglob(name)), folder / name)).items():
        if token in vocabulary:
            weight[vocabulary[token]] = float(value)
    return weight


def _text_options(model: Path, pooling: Path) -> dict[str, Any]:
    config = _read(pooling, "config")
    if config.get("pooling_strategy", "max") != "max":
        raise ValueError(
            f"`{pooling}` must pool by the maximum; got {config['pooling_strategy']!r}."
        )
    n_logs = LOGS.get(config.get("activation_function", "relu"))
    if n_logs is None:
        raise ValueError(
            f"`{pooling}` must have an activation in {', '.join(LOGS)}; "
            f"got {config['activation_function']!r}."
        )
    return {"n_logs": n_logs, "max_length": _max_length(model)}


def _max_length(model: Path) -> int:
    """Return how many tokens are read: what the settings say, and no more than have places."""
    names = ("sentence_bert_config", "tokenizer_config", "config")
    sentence, tokenizer, config = (
        _read(model, name) if (model / f"{name}.json").is_file() else {} for name in names
    )
    longest = min(places(SimpleNamespace(**config)), NO_END)
    wanted = sentence.get("max_seq_length") or tokenizer.get("model_max_length") or longest
    return int(min(wanted, longest))


def _kind(dotted: str) -> str:
    """Return the last part of the dotted name of a class."""
    return str(dotted).rpartition(".")[2]


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"`{path}` must exist; there is no such file.")
    return json.loads(path.read_text())


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())
