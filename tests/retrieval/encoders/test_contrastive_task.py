import pytest
import torch

from retrieval.encoders.contrastive_task import ContrastiveSettings, ContrastiveTask
from retrieval.encoders.tied_topk import TiedTopK
from retrieval.losses import contrastive, paired_contrastive

SETTINGS = ContrastiveSettings(
    k=3, k_start=None, k_anneal_share=0.7, k_aux=4, beta=0.1, gamma=0.5, temperature=0.2
)


def started(kind: str, rows: torch.Tensor) -> ContrastiveTask:
    task = ContrastiveTask(TiedTopK(5, 24), SETTINGS, kind)  # type: ignore[arg-type]
    task.start(rows)
    task.set_progress(0.0)
    return task


@pytest.mark.parametrize("kind", ["rows", "labels", "pairs"])
def test_the_loss_is_the_weighted_sum_of_its_terms(kind: str) -> None:
    x, other = torch.randn(16, 5), torch.randn(16, 5)
    labels = (torch.arange(16) % 4).float().unsqueeze(1)
    rows = {"rows": x, "labels": torch.cat([x, labels], 1), "pairs": torch.cat([x, other], 1)}[kind]
    task = started(kind, rows)
    dead = torch.arange(24) < 6
    found = task.losses(rows, dead)
    sides = [x, other] if kind == "pairs" else [x]
    all_rows = torch.cat(sides)
    variance = (all_rows - all_rows.mean(0)).square().sum(1).mean()
    assert task.constants["variance"] == pytest.approx(float(variance), rel=1e-5)
    terms = [task.module.reconstruction_terms(s, 3, dead_latents=dead, k_aux=4) for s in sides]
    n = len(sides)
    expected = sum((t.k + t.wider / 8) / variance + 0.1 * t.aux for t in terms) / n
    codes = [t.codes for t in terms]
    if kind == "pairs":
        expected = expected + 0.5 * paired_contrastive(*codes)
    else:
        given = labels[:, 0] if kind == "labels" else None
        expected = expected + 0.5 * contrastive(codes[0], given)
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-6)
    assert found.codes.shape == (16 * n, 24)
    assert set(found.observed) == {"loss/k", "loss/4k", "loss/aux", "loss/contrastive", "fvu"}


def test_the_bias_starts_at_the_mean() -> None:
    x = torch.randn(40, 5) + 3
    task = started("rows", x)
    torch.testing.assert_close(task.module.b_pre.detach(), x.mean(0))
    groups = task.parameter_groups()
    assert groups[1]["lr_scale"] == pytest.approx((task.constants["variance"] / 5) ** 0.5)
    assert task.scheduled() == {"k": 3}
    assert task.evaluate() is None
