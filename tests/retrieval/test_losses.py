import math

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval import losses
from sparsecode import topk


@pytest.fixture
def a() -> Tensor:
    return torch.randn(7, 11, dtype=torch.float64).relu()


# FLOPs and its baseline


def test_flops_by_hand(a: Tensor) -> None:
    found = losses.flops(a.detach())
    expected = sum(float(a.detach()[:, j].abs().mean()) ** 2 for j in range(11))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(losses.flops, torch.randn_like(a, requires_grad=True))


def test_flops_takes_the_size_of_negative_activations() -> None:
    assert float(losses.flops(torch.tensor([[1.0], [-1.0]]))) == 1.0


def test_slots_of_a_group_are_averaged_apart_and_summed(a: Tensor) -> None:
    grouped = torch.stack([a, 2 * a, a.flip(1)], dim=1)
    expected = losses.flops(a) + losses.flops(2 * a) + losses.flops(a.flip(1))
    assert float(losses.flops(grouped)) == pytest.approx(float(expected), rel=1e-12)
    flat = losses.flops(grouped.reshape(-1, 11))
    assert float(flat) < float(losses.flops(grouped)), "one mean over all rows is smaller"


def test_rows_under_the_threshold_get_a_gradient_of_exactly_zero(a: Tensor) -> None:
    active = (a != 0).sum(1)
    a.requires_grad_()
    t = int(active.median())
    losses.flops(a, threshold=t).backward()
    assert a.grad is not None
    assert not a.grad[active <= t].any()
    assert (a.grad[active > t].abs().sum(1) > 0).all()
    masked = a.detach() * (active > t).unsqueeze(1)
    by_hand = (masked.sum(0) / 7).square().sum()
    assert float(losses.flops(a.detach(), threshold=t)) == pytest.approx(float(by_hand), rel=1e-12)


def test_the_mask_looks_at_each_slot_by_itself() -> None:
    grouped = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]]])
    assert float(losses.flops(grouped, threshold=1)) == pytest.approx(4 * 0.25)


def test_nothing_costs_nothing() -> None:
    assert float(losses.flops(torch.zeros(0, 3))) == 0.0
    assert float(losses.l1(torch.zeros(0, 3))) == 0.0
    with pytest.raises(ValueError, match=r"`activations` must have shape .*got \(3,\)"):
        losses.flops(torch.zeros(3))
    with pytest.raises(ValueError, match="`threshold` must be an int"):
        losses.flops(torch.zeros(1, 3), threshold=-1)


def test_l1_by_hand(a: Tensor) -> None:
    assert float(losses.l1(a)) == pytest.approx(float(a.detach().abs().sum(1).mean()), rel=1e-12)
    assert float(losses.l1(torch.stack([a, a], 1))) == pytest.approx(2 * float(losses.l1(a)))


# Contrast


def cosines(z: Tensor) -> np.ndarray:
    rows = z.detach().numpy()
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows @ rows.T


def test_info_nce_by_hand() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64)
    expected = -np.mean([
        float(scores[i, i]) - math.log(sum(math.exp(float(s)) for s in scores[i]))
        for i in range(3)
    ])  # fmt: skip
    assert float(losses.info_nce(scores)) == pytest.approx(expected, rel=1e-12)
    moved = losses.info_nce(scores.roll(1, 1), torch.tensor([1, 2, 3]))
    assert float(moved) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"with a document for each query; got \(5, 3\)"):
        losses.info_nce(scores.t())


def test_contrast_without_labels_is_the_papers_equation(a: Tensor) -> None:
    e = np.exp(cosines(a) / 0.2)
    expected = -np.log(np.diag(e) / e.sum(1)).mean()
    assert float(losses.contrastive(a)) == pytest.approx(expected, rel=1e-9)


def released_code(z: Tensor, labels: list[int], temperature: float) -> float:
    """Return the loss as CSRv2 computes it: each row twice, none compared with itself."""
    e = np.exp(cosines(torch.cat([z, z])) / temperature)
    y = np.array(labels * 2)
    same = (y[:, None] == y) & ~np.eye(len(y), dtype=bool)
    pos, neg = (e * same).sum(1), (e * (y[:, None] != y)).sum(1)
    return float(-np.log(np.maximum(pos, 1e-8) / (np.maximum(pos, 1e-8) + neg)).mean())


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 2, 1, 1, 3], [0] * 7])
def test_two_views_are_those_of_the_released_code(a: Tensor, labels: list[int]) -> None:
    found = losses.contrastive(a, torch.tensor(labels), temperature=0.3, views=2)
    assert float(found) == pytest.approx(released_code(a, labels, 0.3), abs=1e-9)


def test_labels_that_all_differ_are_no_labels(a: Tensor) -> None:
    assert float(losses.contrastive(a, torch.arange(7))) == float(losses.contrastive(a))


def test_pairs_by_hand(a: Tensor) -> None:
    d = torch.randn_like(a)
    q = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(d, dim=1).t()
    expected = torch.nn.functional.cross_entropy(q / 0.2, torch.arange(7))
    assert float(losses.paired_contrastive(a, d)) == pytest.approx(float(expected), rel=1e-9)


def test_codes_and_dense_rows_give_one_loss_and_gradient() -> None:
    x = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    codes = topk(x.relu(), 4)
    dense = codes.to_dense()
    for function in (losses.contrastive, lambda z: losses.paired_contrastive(z, z)):
        sparse_loss, dense_loss = function(codes), function(dense)
        torch.testing.assert_close(sparse_loss, dense_loss)
        (first,) = torch.autograd.grad(sparse_loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(dense_loss, x, retain_graph=True)
        torch.testing.assert_close(first, second)


def test_rows_of_zeros_do_no_harm() -> None:
    z = torch.zeros(3, 4, requires_grad=True)
    loss = losses.contrastive(z)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


# Triplets and margins


def test_triplets_by_hand() -> None:
    found = losses.triplet(
        torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 3.0], [0.0, -5.0]]), margin=0.5
    )
    assert float(found) == pytest.approx((0 + 1.5 + 0.5 + 0) / 4)


def semi_hard_by_hand(z: np.ndarray, y: list[int], margin: float) -> float:
    d = ((z[:, None] - z) ** 2).sum(-1)
    found = []
    for i in range(len(y)):
        others = [d[i, k] for k in range(len(y)) if y[k] != y[i]]
        for j in range(len(y)):
            if i != j and y[i] == y[j] and others:
                farther = [o for o in others if o > d[i, j]]
                found.append(max(0.0, margin + d[i, j] - min(farther, default=max(others))))
    return float(np.mean(found)) if found else 0.0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2, 2], [0] * 7, list(range(7))])
def test_semi_hard_triplets_by_hand(a: Tensor, labels: list[int]) -> None:
    found = losses.semi_hard_triplet(a, torch.tensor(labels), margin=0.7)
    expected = semi_hard_by_hand(a.detach().numpy(), labels, 0.7)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_angular_margin_by_hand() -> None:
    rows, centers = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1])
    unit = torch.nn.functional.normalize
    angles = torch.acos(unit(rows, dim=1) @ unit(centers, dim=1).t())
    angles[torch.arange(4), labels] += 0.3
    assert (angles < math.pi).all()
    expected = torch.nn.functional.cross_entropy(8 * angles.cos(), labels)
    found = losses.angular_margin(rows, centers, labels, scale=8.0, margin=0.3)
    assert float(found) == pytest.approx(float(expected), rel=1e-9)
    plain = losses.angular_margin(rows, centers, labels, scale=8.0, margin=0.0)
    assert float(plain) < float(found)


def test_the_loss_under_an_angular_margin_rises_with_the_angle() -> None:
    centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = [
        float(losses.angular_margin(torch.tensor([[math.cos(t), math.sin(t)]]), centers, own))
        for own in [torch.tensor([0])]
        for t in torch.linspace(0.1, 3.1, 13)
    ]
    assert found == sorted(found)


# Teachers


def test_margins_and_divergences_by_hand() -> None:
    s, t = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    margins = [
        float((s[i, 0] - s[i, j]) - (t[i, 0] - t[i, j])) ** 2 for i in range(3) for j in (1, 2, 3)
    ]
    assert float(losses.margin_mse(s, t)) == pytest.approx(np.mean(margins), rel=1e-12)
    p, q = (t / 2).softmax(1), (s / 2).softmax(1)
    expected = float((p * (p / q).log()).sum(1).mean() * 4)
    assert float(losses.kl_divergence(s, t, temperature=2.0)) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match=r"`teacher` must have shape .*= \(3, 4\); got \(2, 4\)"):
        losses.margin_mse(s, t[:2])
    with pytest.raises(ValueError, match=r"`scores` must have shape .*got \(4,\)"):
        losses.kl_divergence(s[0], t[0])


def test_an_ensemble_is_the_mean_of_stretched_scores() -> None:
    first, second = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[7.0, 7.0, 7.0]])
    assert losses.ensemble([first]).tolist() == [[0.0, 7.5, 30.0]]
    assert losses.ensemble([first, second], scale=10.0).tolist() == [[0.0, 1.25, 5.0]]
    with pytest.raises(ValueError, match="at least one teacher"):
        losses.ensemble([])


def test_nothing_to_compare_costs_nothing() -> None:
    none = torch.zeros(0, 3, requires_grad=True)
    assert float(losses.kl_divergence(none, torch.zeros(0, 3)).detach()) == 0
    assert float(losses.kl_divergence(torch.zeros(3, 0), torch.zeros(3, 0))) == 0
    assert float(losses.margin_mse(torch.ones(3, 1), torch.ones(3, 1))) == 0
    assert float(losses.info_nce(torch.zeros(0, 0))) == 0
    assert float(losses.triplet(torch.zeros(0), torch.zeros(0))) == 0
    losses.kl_divergence(none, torch.zeros(0, 3)).backward()


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must all have the same shape .*\(2, 3\) and \(2, 1\)"):
        losses.ensemble([torch.ones(2, 3), torch.ones(2, 1)])
    with pytest.raises(ValueError, match="`scores` must be finite"):
        losses.ensemble([torch.tensor([[float("nan"), 1.0]])])
    with pytest.raises(
        ValueError, match=r"`positive` and `negative` must have .* \(2,\) and \(1,\)"
    ):
        losses.triplet(torch.ones(2), torch.ones(1))


def test_sums_of_half_precision_do_not_overflow() -> None:
    rows = torch.full((4, 50_000), 3.0, dtype=torch.float16)
    assert float(losses.l1(rows)) == 150_000
    assert float(losses.flops(rows)) == 450_000
