"""Losses and files beside sentence-transformers, from the version on in which its CSR is right."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from retrieval import (
    ContrastiveSparseEncoder,
    InferenceFreeEncoder,
    SpladeEncoder,
    load_encoder,
    losses,
)
from retrieval.encoders.sentence_transformers import write_sparse_encoder
from retrieval.encoders.tied_topk import TiedTopK

WORDS = [
    "the",
    "a",
    "of",
    "cat",
    "dog",
    "horse",
    "bird",
    "sits",
    "runs",
    "sleeps",
    "flies",
    "near",
    "river",
]
TEXTS = ["the cat sits near the river", "a dog runs", "the bird flies"]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture
def sparse() -> ModuleType:
    """The sparse encoders of sentence-transformers."""
    reason = "compares with sentence-transformers >= 6.2: pip install 'sparsecode[compare]'"
    package = pytest.importorskip("sentence_transformers", reason=reason, exc_type=ImportError)
    if tuple(map(int, package.__version__.split(".")[:2])) < (6, 2):
        pytest.skip(reason)
    return pytest.importorskip("sentence_transformers.sparse_encoder", exc_type=ImportError)


@pytest.fixture
def text_model() -> tuple[Any, Any]:
    """A small random BERT and its tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=16,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(config).eval(), tokenizer


# Losses


@pytest.mark.parametrize("threshold", [None, 0, 5, 6])
def test_flops_of_one_slot_is_theirs(sparse: ModuleType, threshold: int | None) -> None:
    a = torch.randn(9, 12).relu()
    theirs = sparse.losses.FlopsLoss(None, threshold=threshold).compute_loss_from_embeddings(a)
    torch.testing.assert_close(losses.flops(a, threshold=threshold), theirs, **TOLERANCE)


def test_flops_of_slots_is_not_theirs(sparse: ModuleType) -> None:
    # They put the slots below each other, the reference code sums over them: a factor of about G.
    a = torch.rand(500, 3, 12)
    theirs = sparse.losses.FlopsLoss(None).compute_loss_from_embeddings(a.flatten(0, 1))
    assert float(losses.flops(a) / theirs) == pytest.approx(3, rel=0.05)


def test_reconstruction_terms_are_theirs(sparse: ModuleType) -> None:
    module = TiedTopK(10, 40, seed=0).double()
    with torch.no_grad():
        module.b_pre.normal_()
        module.b_latent.normal_(std=0.1)
    their_module = sparse.modules.SparseAutoEncoder(10, 40, k=4, k_aux=6).double().train()
    weights = {
        "encoder.weight": module.W, "decoder.linear.weight": module.W,
        "latent_bias": module.b_latent, "pre_bias": module.b_pre,
        "stats_last_nonzero": torch.where(torch.arange(40) < 15, 1000, 0),
    }  # fmt: skip
    their_module.load_state_dict(weights)
    x = torch.randn(8, 10, dtype=torch.float64)
    features = their_module({"sentence_embedding": x})
    theirs = sparse.losses.CSRReconstructionLoss(None, beta=1.0)
    found = theirs.compute_loss_from_embeddings([features])
    # Their count is advanced before it is asked: those that fired in this batch are alive again.
    dead = their_module.stats_last_nonzero > 30
    fired_by_4k = (features["sentence_embedding_encoded_4k"] > 1e-5).any(0)
    assert dead.any()
    before = (torch.arange(40) < 15) & ~(features["sentence_embedding"] > 1e-5).any(0)
    assert (dead <= before).all()
    assert fired_by_4k.any()
    ours = module.reconstruction_terms(x, 4, dead_latents=before, k_aux=6)
    torch.testing.assert_close(ours.k / 10, found["reconstruction_loss_k"], **TOLERANCE)
    torch.testing.assert_close(ours.wider / 80, found["reconstruction_loss_4k"], **TOLERANCE)
    torch.testing.assert_close(ours.aux, found["reconstruction_loss_aux"], **TOLERANCE)


def test_ranking_losses_are_theirs(sparse: ModuleType) -> None:
    q, d, n = (torch.randn(6, 15).relu() for _ in range(3))
    from sentence_transformers import util

    class Model(torch.nn.Module):
        similarity_fn_name = None

    ranking = sparse.losses.SparseMultipleNegativesRankingLoss(Model())
    theirs = ranking.compute_loss_from_embeddings([q, d, n], None)
    ours = losses.info_nce(q @ torch.cat([d, n]).t())
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    cosine = sparse.losses.SparseMultipleNegativesRankingLoss(
        Model(), scale=5.0, similarity_fct=util.cos_sim
    )
    paired = losses.paired_contrastive(q, d)
    torch.testing.assert_close(
        paired, cosine.compute_loss_from_embeddings([q, d], None), **TOLERANCE
    )
    scores = torch.stack([(q * d).sum(1), (q * n).sum(1)], dim=1)
    teacher = torch.randn(6, 2)
    divergence = sparse.losses.SparseDistillKLDivLoss(Model(), temperature=2.0)
    torch.testing.assert_close(
        losses.kl_divergence(scores, teacher, temperature=2.0),
        divergence.compute_loss_from_embeddings([q, d, n], teacher),
        **TOLERANCE,
    )
    margins = sparse.losses.SparseMarginMSELoss(Model())
    torch.testing.assert_close(
        losses.margin_mse(scores, teacher),
        margins.compute_loss_from_embeddings([q, d, n], teacher),
        **TOLERANCE,
    )


# Files


def dense(rows: Any) -> np.ndarray:
    return rows.to_dense().cpu().numpy() if rows.is_sparse else rows.cpu().numpy()


def test_our_models_of_texts_load_there(
    sparse: ModuleType, text_model: tuple[Any, Any], tmp_path: Path
) -> None:
    free = InferenceFreeEncoder(*text_model, idf={"cat": 3.0}, n_logs=2, max_length=16)
    for name, encoder in (("splade", SpladeEncoder(*text_model, max_length=16)), ("free", free)):
        folder = write_sparse_encoder(encoder, tmp_path / name)
        model = sparse.SparseEncoder(str(folder), device="cpu")
        for ours, theirs in (
            (encoder.encode_documents(TEXTS), model.encode_document(TEXTS)),
            (encoder.encode_queries(TEXTS), model.encode_query(TEXTS)),
        ):
            np.testing.assert_allclose(ours.toarray(), dense(theirs), atol=1e-5)


def test_their_models_of_texts_load_here(
    sparse: ModuleType, text_model: tuple[Any, Any], tmp_path: Path
) -> None:
    from sentence_transformers.base.modules import Router

    model, tokenizer = text_model
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    parts = sparse.modules

    def documents(activation: str) -> list[Any]:
        transformer = parts.MLMTransformer(str(tmp_path / "bert"))
        return [transformer, parts.SpladePooling(activation_function=activation)]

    table = parts.SparseStaticEmbedding(tokenizer, weight=torch.rand(len(tokenizer)), frozen=True)
    with torch.no_grad():
        table.weight[:5] = 0.0  # no published model weighs special tokens
    router = Router.for_query_document([table], documents("log1p_relu"))
    for name, modules in (("splade", documents("relu")), ("free", [router])):
        theirs = sparse.SparseEncoder(modules=modules, device="cpu")
        theirs.save(str(tmp_path / name))
        ours = load_encoder(tmp_path / name)
        for found, expected in (
            (ours.encode_documents(TEXTS), theirs.encode_document(TEXTS)),
            (ours.encode_queries(TEXTS), theirs.encode_query(TEXTS)),
        ):
            np.testing.assert_allclose(found.toarray(), dense(expected), atol=1e-5)


def test_lengths_of_texts_survive_their_files(
    sparse: ModuleType, text_model: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = text_model
    long = " ".join(TEXTS * 2)
    free = InferenceFreeEncoder(model, tokenizer, idf={"cat": 3.0}, max_length=6)
    for name, ours in (("splade", SpladeEncoder(model, tokenizer, max_length=6)), ("free", free)):
        theirs = sparse.SparseEncoder(
            str(write_sparse_encoder(ours, tmp_path / name)), device="cpu"
        )
        theirs.save(str(tmp_path / "again" / name))
        for encoder in (ours, load_encoder(tmp_path / "again" / name)):
            for found, expected in (
                (encoder.encode_documents([long]), theirs.encode_document([long])),
                (encoder.encode_queries([long]), theirs.encode_query([long])),
            ):
                np.testing.assert_allclose(found.toarray(), dense(expected), atol=1e-5)


def test_autoencoders_load_both_ways(sparse: ModuleType, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    encoder = ContrastiveSparseEncoder(24, k=3, normalize=False, max_steps=2, device="cpu").fit(x)
    folder = write_sparse_encoder(encoder, tmp_path / "ours")
    module = sparse.modules.SparseAutoEncoder.load(str(folder)).eval()
    with torch.inference_mode():
        found = module({"sentence_embedding": torch.from_numpy(x)})["sentence_embedding"]
    np.testing.assert_allclose(encoder.transform(x).toarray(), found.numpy(), atol=1e-5)
    (tmp_path / "theirs").mkdir()
    module.save(str(tmp_path / "theirs"))
    from retrieval.encoders.sentence_transformers import read_sparse_encoder

    again = read_sparse_encoder(tmp_path / "theirs")
    np.testing.assert_allclose(again.transform(x).toarray(), found.numpy(), atol=1e-5)
