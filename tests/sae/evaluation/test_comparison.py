"""Sums over batches: against torch on all positions at once, whatever the batches were."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div

from sae.evaluation.batches import Batch
from sae.evaluation.comparison import Comparison, share

VARIANTS = ("reconstruction", "zero", "mean")
LENGTHS = torch.tensor([5, 3, 4])


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 7, (3, 5))


@pytest.fixture
def outputs() -> dict[str, Tensor]:
    return {name: torch.randn(3, 5, 7) for name in ("original", *VARIANTS)}


def compared(kind: str, ids: Tensor, outputs: dict[str, Tensor], hidden: Tensor | None, rows: list):
    mask = (torch.arange(5) < LENGTHS[:, None]).long()
    comparison = Comparison(kind)
    for part in rows:
        where = None if hidden is None else hidden[part]
        batch = Batch(ids[part], mask[part], mask[part].bool(), ids[part], where)
        comparison.start(batch, outputs["original"][part])
        for name in VARIANTS:
            comparison.add(name, outputs[name][part])
    return comparison.result()


@pytest.mark.parametrize("rows", [[[0, 1, 2]], [[2], [0, 1]]], ids=["at once", "in parts"])
def test_a_causal_model(ids: Tensor, outputs: dict[str, Tensor], rows: list) -> None:
    found = compared("causal", ids, outputs, None, rows)
    where = torch.arange(4) + 1 < LENGTHS[:, None]
    rows_of = {name: output[:, :-1][where] for name, output in outputs.items()}
    targets = ids[:, 1:][where]
    assert found["n_tokens"] == len(targets) == 9
    for name in ("original", *VARIANTS):
        expected = float(cross_entropy(rows_of[name], targets))
        assert found[f"ce_{name}"] == pytest.approx(expected, rel=1e-5)
    p, q = (rows_of[name].log_softmax(1) for name in ("original", "zero"))
    expected = float(kl_div(q, p, reduction="batchmean", log_target=True))
    assert found["kl_zero"] == pytest.approx(expected, rel=1e-5)
    assert not [name for name in found if "cosine" in name or "masked" in name]


@pytest.mark.parametrize("rows", [[[0, 1, 2]], [[2], [0, 1]]], ids=["at once", "in parts"])
def test_a_masked_model(ids: Tensor, outputs: dict[str, Tensor], rows: list) -> None:
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 4] = hidden[0, 1] = hidden[2, 0] = True
    found = compared("masked", ids, outputs, hidden, rows)
    assert (found["n_tokens"], found["n_masked"]) == (12, 3)
    expected = float(cross_entropy(outputs["mean"][hidden], ids[hidden]))
    assert found["ce_mean"] == pytest.approx(expected, rel=1e-5)
    real = torch.arange(5) < LENGTHS[:, None]
    cosines = cosine_similarity(outputs["original"][real], outputs["zero"][real], dim=1)
    assert found["cosine_zero"] == pytest.approx(float(cosines.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked", "encoder"])
def test_nothing_is_predicted(ids: Tensor, outputs: dict[str, Tensor], kind: str) -> None:
    found = compared(kind, ids, outputs, None, [[0, 1, 2]])
    assert not [name for name in found if name.startswith(("ce_", "loss", "n_masked"))]
    assert ("kl" in found) == (kind == "masked")
    expected = share(1.0, found["cosine_reconstruction"], found["cosine_zero"])
    assert found["cosine_recovered"] == expected


def test_shares() -> None:
    assert share(5.0, 6.0, 9.0) == 0.75
    assert share(5.0, 10.0, 9.0) == -0.25
    assert share(1.0, 1.0, 1.0) is None
    assert share(1.0, 1.0, float("inf")) is None
