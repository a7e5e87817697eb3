import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval import InferenceFreeEncoder, LexicalTraining, SpladeEncoder, contributions, losses
from retrieval.encoders.lexical_task import LexicalTask

ANIMALS, DEEDS = ["cat", "dog", "horse", "bird"], ["sits", "runs", "sleeps", "flies", "eats"]
PAIRS = [(f"{a} {b} ?", f"the {a} {b} near the river") for a in ANIMALS for b in DEEDS]
QUERIES, DOCUMENTS = [q for q, _ in PAIRS], [d for _, d in PAIRS]


def training(**changes: Any) -> LexicalTraining:
    settings = {"max_steps": 40, "batch_size": 10, "lr": 2e-3, "temperature": 1.0}
    return LexicalTraining(**settings | changes)


def found_first(encoder: Any) -> float:
    scores = encoder.encode_queries(QUERIES) @ encoder.encode_documents(DOCUMENTS).T
    return float((scores.toarray().argmax(1) == np.arange(len(PAIRS))).mean())


def test_it_learns_from_pairs_of_texts(mlm: Any, tokenizer: Any) -> None:
    encoder = InferenceFreeEncoder(mlm, tokenizer, learn_idf=True, device="cpu")
    before = encoder.queries.weights.detach().clone()
    encoder.fit(QUERIES, DOCUMENTS, training=training(max_steps=80))
    assert found_first(encoder) >= 0.8
    assert not torch.equal(encoder.queries.weights, before)
    assert encoder.n_dimensions == len(tokenizer)
    query, document = encoder.encode_queries(QUERIES[:1]), encoder.encode_documents(DOCUMENTS[:1])
    ids, values = contributions(query, document)
    assert values.sum() == pytest.approx(float((query @ document.T).toarray()[0, 0]), rel=1e-6)
    assert {"cat", "sits"} <= set(encoder.dimension_names(ids))


def test_a_fixed_table_stays(mlm: Any, tokenizer: Any) -> None:
    encoder = InferenceFreeEncoder(mlm, tokenizer, idf={"cat": 3.0}, device="cpu")
    before = encoder.queries.weights.detach().clone()
    encoder.fit(QUERIES, DOCUMENTS, training=training(max_steps=2))
    assert torch.equal(encoder.queries.weights, before)


@pytest.mark.parametrize("loss", ["kl", "margin_mse"])
def test_it_learns_from_a_teacher(mlm: Any, tokenizer: Any, loss: str) -> None:
    negatives = [[d for d in DOCUMENTS if d != right][i :: 9][:2] for i, right in enumerate(
        [*DOCUMENTS[:8]])]  # fmt: skip
    teacher = losses.ensemble([torch.tensor([[9.0, 1.0, 3.0]] * 8)], scale=5.0)
    encoder = InferenceFreeEncoder(mlm, tokenizer, device="cpu")
    encoder.fit(
        QUERIES[:8],
        DOCUMENTS[:8],
        negatives,
        teacher=teacher,
        training=training(loss=loss, max_steps=25, batch_size=8, document_weight=0.0),
    )
    first, last = (encoder.history_[i]["loss/rank"] for i in (0, -1))
    assert last < first


def test_a_larger_weight_leaves_fewer_tokens(mlm: Any, tokenizer: Any) -> None:
    active = []
    for weight in (0.0, 3.0):
        encoder = InferenceFreeEncoder(copy.deepcopy(mlm), tokenizer, device="cpu")
        options = training(document_weight=weight, ramp_share=0.0)
        encoder.fit(QUERIES, DOCUMENTS, training=options)
        active.append(encoder.encode_documents(DOCUMENTS).nnz)
    assert active[1] < 0.8 * active[0]


def batch_of(model: Any) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    q, d = model.token_rows(QUERIES[:4]), model.token_rows(DOCUMENTS[:8])
    rows = np.concatenate([q, d.reshape(4, -1)], axis=1)
    return torch.from_numpy(rows).float(), (q.shape[1], d.shape[1], 2, 0)


def test_the_loss_by_hand(mlm: Any, tokenizer: Any) -> None:
    encoder = InferenceFreeEncoder(mlm.eval(), tokenizer, idf={"cat": 2.0}, n_logs=2, device="cpu")
    model = encoder.documents.eval()
    batch, widths = batch_of(model)
    settings = training(document_weight=0.5, ramp_share=0.0, temperature=3.0)
    task = LexicalTask(model, encoder.queries, settings, widths)
    task.set_progress(0.0)
    found = task.losses(batch, None)
    d = torch.from_numpy(encoder.encode_documents(DOCUMENTS[:8]).toarray())
    q = torch.from_numpy(encoder.encode_queries(QUERIES[:4]).toarray())
    columns = torch.cat([d[0::2], d[1::2]])
    rank = torch.nn.functional.cross_entropy(q @ columns.t() / 3, torch.arange(4))
    cost = 0.5 * sum(part.mean(0).square().sum() for part in (d[0::2], d[1::2]))
    torch.testing.assert_close(found.total.detach(), rank + cost, rtol=1e-4, atol=1e-5)


def test_documents_under_the_threshold_get_no_gradient(mlm: Any, tokenizer: Any) -> None:
    encoder = InferenceFreeEncoder(mlm.eval(), tokenizer, device="cpu")
    model = encoder.documents.eval()
    batch, widths = batch_of(model)
    settings = training(document_weight=1.0, ramp_share=0.0, threshold=len(tokenizer))
    task = LexicalTask(model, encoder.queries, settings, widths)
    task.set_progress(0.0)
    found = task.losses(batch, None)
    (grad,) = torch.autograd.grad(
        found.observed["loss/documents"], [model.mlm.bert.embeddings.word_embeddings.weight]
    )
    assert not grad.any()


def test_splade_uses_one_model_on_both_sides(mlm: Any, tokenizer: Any) -> None:
    encoder = SpladeEncoder(mlm, tokenizer, device="cpu")
    encoder.fit(QUERIES, DOCUMENTS, training=training(max_steps=40, document_weight=1e-3))
    assert found_first(encoder) >= 0.4
    same = encoder.encode_queries(DOCUMENTS[:2]) - encoder.encode_documents(DOCUMENTS[:2])
    assert abs(same).max() == 0
    assert "loss/queries" in encoder.history_[-1]
    assert encoder.dimension_names([8]) == ["cat"]


def test_wrong_training_data_are_refused(mlm: Any, tokenizer: Any) -> None:
    encoder = InferenceFreeEncoder(mlm, tokenizer, device="cpu")
    with pytest.raises(ValueError, match="a document for each query; got 20 queries and 3 doc"):
        encoder.fit(QUERIES, DOCUMENTS[:3])
    with pytest.raises(ValueError, match="`negatives` must hold equally many documents"):
        encoder.fit(QUERIES[:2], DOCUMENTS[:2], [["a"], ["a", "b"]])
    with pytest.raises(ValueError, match="`loss='kl'` needs `negatives` and a `teacher`"):
        encoder.fit(QUERIES, DOCUMENTS, training=training(loss="kl"))
    with pytest.raises(ValueError, match=r"`teacher` must have shape .* = \(2, 2\); got \(2, 3\)"):
        encoder.fit(
            QUERIES[:2], DOCUMENTS[:2], DOCUMENTS[2:4], teacher=np.zeros((2, 3)),
            training=training(loss="kl"),
        )  # fmt: skip
    with pytest.raises(ValueError, match="`loss` must be one of 'info_nce', 'margin_mse', 'kl'"):
        training(loss="hinge")
    with pytest.raises(ValueError, match="`threshold` must be an int in"):
        training(threshold=-1)


def test_weights_of_half_precision_are_not_trained(
    mlm: Any, tokenizer: Any, tmp_path: Path
) -> None:
    mlm.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = InferenceFreeEncoder(str(tmp_path), device="cpu")
    assert {p.dtype for p in encoder.documents.mlm.parameters()} == {torch.float32}
    encoder.fit(QUERIES, DOCUMENTS, training=training(max_steps=2))
    given = SpladeEncoder(mlm, tokenizer, device="cpu")
    assert given.encode_documents(DOCUMENTS[:2]).dtype == np.float32
    with pytest.raises(ValueError, match=r"`model` must have float32 weights .*; got bfloat16"):
        given.fit(QUERIES, DOCUMENTS, training=training(max_steps=2))


@pytest.mark.parametrize("k", [-1, 0, 1.5])
def test_a_wrong_k_is_refused(mlm: Any, tokenizer: Any, k: Any) -> None:
    encoder = InferenceFreeEncoder(mlm, tokenizer, device="cpu")
    for encode in (encoder.encode_documents, encoder.encode_queries):
        for texts in (["the cat"], [""], []):
            with pytest.raises((ValueError, TypeError), match="`k` must be an int in"):
                encode(texts, k=k)
    assert encoder.encode_documents(["the cat", "a dog"], k=1).nnz == 2
