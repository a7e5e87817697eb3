from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from retrieval import ContrastiveSparseEncoder, FlopsEncoder
from retrieval.encoders.flops_task import LOSSES
from retrieval.encoders.projection import SparseProjection


def small(**changes: Any) -> FlopsEncoder:
    settings = {"n_components": 24, "max_steps": 6, "batch_size": 32, "device": "cpu"}
    return FlopsEncoder(**settings | changes)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


@parametrize_with_checks([small(max_steps=2, n_components=12)])
def test_check_estimator(estimator: FlopsEncoder, check: Any) -> None:
    check(estimator)


# The projection


def test_activations_by_the_formula() -> None:
    z = torch.tensor([[-2.0, -0.3, 0.0, 0.4, 1.5]])
    expected = {
        "relu": [0.0, 0.0, 0.0, 0.4, 1.5],
        "soft_threshold": [-1.5, 0.0, 0.0, 0.0, 1.0],
        "step": [0.0, 0.0, 0.0, 1.0, 1.0],
    }
    for activation, values in expected.items():
        module = SparseProjection(5, 5, activation=activation, threshold=0.5)
        with torch.no_grad():
            module.linear.weight.copy_(torch.eye(5))
            module.linear.bias.zero_()
        wanted = torch.tensor(values) / np.linalg.norm(values)
        torch.testing.assert_close(module(z)[0].detach(), wanted)


def test_the_step_lets_gradients_through_near_zero() -> None:
    module = SparseProjection(3, 3, activation="step")
    z = torch.tensor([[-2.0, 0.5, 0.9]], requires_grad=True)
    module._sparse(z).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 1.0, 1.0]]


def test_a_row_without_entries_is_zero() -> None:
    module = SparseProjection(2, 3)
    with torch.no_grad():
        module.linear.bias.fill_(-100.0)
    assert not module(torch.zeros(1, 2)).any()


@pytest.mark.parametrize("activation", ["relu", "soft_threshold", "step"])
def test_a_projection_is_calibrated_to_the_entries_wanted(activation: str) -> None:
    module, x = SparseProjection(5, 40, activation=activation), torch.randn(100, 5)
    module.adapt(x)
    for wanted in (1.5, 7.0):
        module.calibrate(x, wanted)
        assert float((module(x) != 0).sum()) == pytest.approx(100 * wanted, abs=2)


# What is learned


@pytest.mark.parametrize("activation", ["relu", "soft_threshold", "step"])
def test_rows_are_canonical_and_of_unit_length(x: np.ndarray, activation: str) -> None:
    encoder = small(activation=activation).fit(x)
    rows = encoder.transform(x)
    assert isinstance(rows, scipy.sparse.csr_matrix)
    assert (rows.dtype, rows.shape) == (np.float32, (50, 24))
    assert rows.has_canonical_format
    assert (rows.data != 0).all()
    assert (rows.data > 0).all() == (activation != "soft_threshold")
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    np.testing.assert_allclose(norms[norms > 0], 1.0, rtol=1e-5)
    few = encoder.transform(x, k=2)
    assert few.getnnz(axis=1).max() == 2
    assert (encoder.encode_queries(x) != encoder.encode_documents(x)).nnz == 0
    with pytest.raises(ValueError, match=r"`k` must be an int in \[1, n_components\]; got 25"):
        encoder.transform(x, k=25)


@pytest.mark.parametrize("regularizer", ["flops", "l1"])
def test_the_weight_is_steered_to_the_active_entries(regularizer: str) -> None:
    x = np.random.default_rng(0).standard_normal((512, 12)).astype(np.float32)
    encoder = small(
        n_components=64, target_active=6, regularizer=regularizer, max_steps=60, lr=0.01,
        batch_size=128, weight=0.1,
    ).fit(x)  # fmt: skip
    assert encoder.transform(x).getnnz() / 512 == pytest.approx(6, rel=0.02)
    assert encoder.weight_ != 0.1


def test_a_larger_weight_leaves_fewer_entries(x: np.ndarray) -> None:
    entries = [
        small(weight=weight, max_steps=60, lr=0.01, ramp="constant").fit(x).transform(x).nnz
        for weight in (0.0, 30.0)
    ]
    assert entries[1] < 0.7 * entries[0]


@pytest.mark.parametrize("loss", ["auto", *LOSSES["labels"]])
def test_labels_pull_rows_together(loss: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = rng.normal(size=(240, 8)).astype(np.float32)
    x[:, :3] += 3 * np.eye(3)[y]
    settings = {"max_steps": 40, "lr": 0.01, "weight": 0.01, "batch_size": 120, "loss": loss}
    rows = small(**settings).fit(x, np.array(list("abc"))[y]).transform(x)
    cosines, same = (rows @ rows.T).toarray(), y[:, None] == y
    assert cosines[same].mean() > cosines[~same].mean() + 0.15


@pytest.mark.parametrize("loss", LOSSES["triplets"])
def test_pairs_with_negatives_are_told_apart(loss: str) -> None:
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(200, 10)).astype(np.float32)
    queries = (documents + rng.normal(size=(200, 10))).astype(np.float32)
    others = rng.permutation(documents)
    settings = {"max_steps": 40, "lr": 0.01, "weight": 0.01, "loss": loss, "temperature": 0.2}
    encoder = small(**settings, n_components=48).fit_pairs(queries, documents, others)
    q, d, n = (encoder.transform(part) for part in (queries, documents, others))
    assert q.multiply(d).sum() > 1.5 * q.multiply(n).sum()
    with pytest.raises(ValueError, match="a row for each pair; got 200, 3 rows"):
        small().fit_pairs(queries, documents[:3])


def test_a_torch_encoder_is_trained_along(x: np.ndarray) -> None:
    backbone = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    before = backbone[0].weight.detach().clone()
    encoder = small(encoder=backbone, n_components=None, lr=0.01).fit(x, np.arange(50) % 2)
    assert encoder.transform(x).shape == (50, 20)
    assert torch.equal(backbone[0].weight, before), "the user's own module stays as it is"
    assert not torch.equal(encoder.module_.backbone[0].weight, before)
    with pytest.raises(ValueError, match="`encoder` needs labels or pairs"):
        small(encoder=backbone).fit(x)


def test_losses_that_the_data_do_not_allow_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`loss` must be one of 'distillation' for rows; got"):
        small(loss="triplet").fit(x)
    with pytest.raises(ValueError, match="`loss` must be one of"):
        small(loss="hinge").fit(x)
    with pytest.raises(ValueError, match="`regularizer` must be one of 'flops', 'l1'"):
        small(regularizer="l2").fit(x)
    with pytest.raises(ValueError, match="`target_active` must be a finite number"):
        small(target_active=0).fit(x)


def test_equal_seeds_give_equal_results_and_files_are_read(x: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small().fit(x).transform(x)
    assert torch.equal(before, torch.get_rng_state())
    np.save(tmp_path / "x.npy", x)
    second = small().fit(tmp_path / "x.npy").transform(tmp_path / "x.npy")
    assert (first != second).nnz == 0
    assert (small(random_state=1).fit(x).transform(x) != first).nnz > 0


def test_a_module_of_half_precision_is_not_trained() -> None:
    encoder = FlopsEncoder(12, encoder=nn.Linear(6, 4).bfloat16(), max_steps=2, device="cpu")
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    with pytest.raises(ValueError, match=r"`encoder` must have float32 .*; got bfloat16. Call"):
        encoder.fit(x, np.arange(20) % 2)


def test_the_target_holds_for_rows_in_any_order_and_for_both_sides_of_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 6)).astype(np.float32)
    sorted_by_kind = np.concatenate([x, 0.1 * x + 3, 5 * x])
    encoder = small(target_active=6.0, max_steps=20).fit(sorted_by_kind)
    assert encoder.transform(sorted_by_kind).nnz / 4500 == pytest.approx(6.0, rel=0.1)
    encoder = small(target_active=6.0, max_steps=20).fit_pairs(x, x + 3)
    both = encoder.transform(x).nnz + encoder.transform(x + 3).nnz
    assert both / 3000 == pytest.approx(6.0, rel=0.1)


def test_rows_without_an_entry_are_told_of() -> None:
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"% of the training rows have no entry, and no search"):
        small(target_active=0.5).fit(x)


def test_half_precision_tensors_are_data_too() -> None:
    x = torch.randn(40, 6)
    assert small().fit(x.bfloat16()).transform(x).shape == (40, 24)


@pytest.mark.parametrize("kind", ["array", "tensor", "file"])
def test_entries_that_float32_cannot_square_are_refused(kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x * 1e25)
    found: Any = {"array": x * 1e25, "tensor": torch.tensor(x) * 1e25}
    given = found.get(kind, tmp_path / "x.npy")
    for encoder in (small(), ContrastiveSparseEncoder(24, k=3, max_steps=2, device="cpu")):
        with pytest.raises(ValueError, match=r"`X` must have entries of at most 1e\+15 in size"):
            encoder.fit(given)
        with pytest.raises(ValueError, match=r"`X` must have entries of at most 1e\+15 in size"):
            encoder.fit(x).transform(given)
