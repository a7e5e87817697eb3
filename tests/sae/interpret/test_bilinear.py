"""Forms of latents and groups, and comparisons of dictionaries, against explicit matrices."""

import sys

import pytest
import torch

import sae
from sae.cache import as_source
from sae.interpret import (
    EncodedRows,
    QuadraticForm,
    browser_data,
    dictionary_similarity,
    effective_dimension,
    group_form,
    group_weights,
    latent_form,
    manifold_figure,
    probe_interactions,
)

D, F = 7, 20


def make(variant="mixed", seed=0, **options) -> sae.Bilinear:
    options = {"n_features": D, "n_latents": F, **options}
    model = sae.Bilinear(variant=variant, seed=seed, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (model.left, model.right):
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def matrices(model):
    atoms = torch.einsum("fd,fe->fde", model.left, model.right).detach()
    return (atoms + atoms.mT) / 2


def rows(n=40):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(1)).double()
    return x / x.norm(dim=1, keepdim=True)


def test_the_form_of_a_latent_is_its_eigendecomposition_and_its_value():
    model, u = make(), rows()
    codes = model.encode(u).to_dense()
    for latent in range(F):
        form = latent_form(model, latent)
        torch.testing.assert_close(form.matrix(), matrices(model)[latent])
        torch.testing.assert_close(form(u), codes[:, latent].detach())
        torch.testing.assert_close(form.vectors @ form.vectors.T, torch.eye(2).double())
        assert form.values.sort().values.sign().tolist() == [-1, 1]
        assert form.values[0].abs() >= form.values[1].abs()


def test_parallel_weights_leave_one_eigenvalue():
    model = make()
    with torch.no_grad():
        model.right[3] = -2.0 * model.left[3]
    form = latent_form(model, 3)
    assert float(form.values[0]) < 0
    assert abs(float(form.values[1])) < 1e-12
    torch.testing.assert_close(form.matrix(), matrices(model)[3])


def test_the_form_of_a_group_is_the_signed_sum_of_its_latents():
    model, u = make(), rows()
    weights = group_weights(model, 5, n_members=4)
    form = group_form(model, weights)
    want = torch.einsum("f,fde->de", weights, matrices(model))
    torch.testing.assert_close(form.matrix(), want)
    torch.testing.assert_close(form(u), (model.encode(u).to_dense() @ weights).detach())
    assert bool((form.values.abs().diff() <= 1e-12).all())
    torch.testing.assert_close(form.vectors @ form.vectors.T, torch.eye(D).double())


def test_groups_are_rows_of_the_gram_matrix_of_the_mixture():
    model = make()
    mixture = model.mixture.detach() / model.mixture.detach().norm(dim=0)
    gram = mixture.T @ mixture
    torch.testing.assert_close(group_weights(model, 2, n_members=None), gram[2])
    cut = group_weights(model, 2, n_members=3)
    assert int((cut != 0).sum()) == 3
    assert float(cut[2]) == pytest.approx(1.0)
    assert bool((cut < 0).any() | (cut > 0).any())
    four, eight = gram.pow(4).sum(1), gram.pow(8).sum(1)
    torch.testing.assert_close(effective_dimension(model), four.square() / eight)


def test_without_a_mixture_groups_have_one_member():
    model = make("vanilla")
    assert group_weights(model, 2).tolist() == [float(j == 2) for j in range(F)]
    assert effective_dimension(model).tolist() == [1.0] * F


def test_similarity_of_dictionaries():
    first, second = make("vanilla"), make("vanilla", seed=1)
    A, B = (matrices(model).flatten(1) for model in (first, second))
    norm = torch.linalg.matrix_norm
    want = 2 * norm(A @ B.T) / (norm(A @ A.T) + norm(B @ B.T))
    assert dictionary_similarity(first, second) == pytest.approx(float(want))
    assert dictionary_similarity(second, first) == pytest.approx(float(want))
    assert dictionary_similarity(first, first) == pytest.approx(1.0)


def test_order_and_swapped_sides_do_not_matter():
    first, second = make("vanilla"), make("vanilla")
    order = torch.randperm(F, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        second.left.copy_(first.right[order])
        second.right.copy_(first.left[order])
    assert dictionary_similarity(first, second) == pytest.approx(1.0)
    itself = dictionary_similarity(first, first, kind="matched")
    assert dictionary_similarity(first, second, kind="matched") == pytest.approx(itself)
    other = dictionary_similarity(first, make("vanilla", seed=3), kind="matched")
    assert other < itself


def test_probe_interactions_are_cosines_of_forms():
    model = make("vanilla")
    p, q = rows(2)
    forms = matrices(model)
    norms = forms.flatten(1).norm(dim=1)
    one = torch.einsum("fde,d,e->f", forms, p, p) / norms
    torch.testing.assert_close(probe_interactions(model, 3 * p), one)
    two = torch.einsum("fde,d,e->f", forms, p, q) / norms
    torch.testing.assert_close(probe_interactions(model, p, 2 * q), two)
    assert bool((probe_interactions(model, p).abs() <= 1).all())


def test_a_probe_finds_the_latent_that_joins_two_directions():
    model = make("vanilla")
    p, q = torch.eye(D).double()[:2]
    with torch.no_grad():
        model.left[4], model.right[4] = 5 * p, q
    found = probe_interactions(model, p, q)
    assert int(found.argmax()) == 4
    assert float(probe_interactions(model, p)[4]) == 0


def test_a_figure_shows_the_rows_on_which_the_form_is_largest():
    pytest.importorskip("matplotlib")
    model, u = make(), rows(40)
    form = group_form(model, group_weights(model, 0))
    ax = manifold_figure(model, form, 3.0 * u, n_rows=10)
    assert len(ax.collections[0].get_offsets()) == 10
    size = (form.coordinates(u).square() * form.values).square().sum(1)
    largest = size.topk(10).indices
    expected = form.coordinates(u[largest], 2)
    shown = torch.tensor(ax.collections[0]._offsets3d[0].data).double()
    torch.testing.assert_close(shown, expected[:, 0])
    flat = manifold_figure(model, form, u, labels=torch.arange(40), ax=ax.figure.add_subplot())
    assert flat.get_ylabel().startswith("eigenvalue ")


def test_a_figure_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'sparsecode\[robustness\]'"):
        manifold_figure(make(), latent_form(make(), 0), rows())


def test_the_report_browses_bilinear_latents():
    model = make().float()
    data = browser_data(EncodedRows(model, as_source(rows().float())), None)
    assert data["n_latents"] == F
    assert data["n_neighbors"] == 6


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda m: latent_form(m, F), ValueError, r"`latent` must be an int in \[0, 19\]"),
        (lambda m: group_form(m, torch.ones(3)), ValueError, r"`weights` must have shape \(n_lat"),
        (lambda m: group_weights(m, 0, n_members=0), ValueError, "`n_members` must be an int"),
        (
            lambda m: dictionary_similarity(m, make(n_features=5)),
            ValueError,
            "`second` must have n_features = 7, as `first`; got 5",
        ),
        (
            lambda m: dictionary_similarity(m, m, kind="cosine"),
            ValueError,
            "`kind` must be one of 'frobenius', 'matched'",
        ),
        (lambda m: probe_interactions(m, torch.ones(3)), ValueError, "`probe` must have shape"),
        (
            lambda m: effective_dimension(sae.TopK(n_features=2, n_latents=4, k=1)),
            TypeError,
            "`model` must be a sae.Bilinear; got TopK",
        ),
        (
            lambda m: manifold_figure(m, latent_form(m, 0), rows(), labels=torch.ones(3)),
            ValueError,
            "`labels` must have shape",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(make())


def test_a_form_by_hand():
    form = QuadraticForm(torch.tensor([3.0, -1.0]), torch.eye(2))
    assert form(torch.tensor([1.0, 2.0])) == -1.0
    assert form.coordinates(torch.tensor([[1.0, 2.0]]), 1).tolist() == [[1.0]]


def spans_one_of(form: QuadraticForm, planes: torch.Tensor) -> bool:
    cosines = torch.linalg.svdvals(torch.einsum("pid,jd->pij", planes, form.vectors[:2]))
    energy = form.values.square()
    return bool((cosines.amin(1) > 0.95).any() & (energy[:2].sum() > 0.8 * energy.sum()))


@pytest.mark.parametrize("coefficient", [0.0, 1.0])
def test_planes_are_found_by_signed_groups_and_by_single_latents_if_sparse(coefficient):
    """Circles in five planes; rows of the mixture alone never find one: they can be rotated."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.linalg.qr(torch.randn(20, 10, generator=generator)).Q.T.reshape(5, 2, 20)
    angle = 2 * torch.pi * torch.rand(3000, generator=generator)
    which = torch.randint(0, 5, (3000,), generator=generator)
    points = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = torch.einsum("np,npd->nd", points, planes[which])
    x += 0.02 * torch.randn(3000, 20, generator=generator)
    options = {"variant": "mixed", "n_mixed": 15, "density_coefficient": coefficient, "seed": 0}
    model = sae.Bilinear(n_features=20, n_latents=60, **options)
    sae.Trainer(model, x, sae.TrainConfig(batch_size=256, n_steps=500, lr=1e-2)).fit()
    groups = [group_weights(model, latent) for latent in range(60)]
    signed = sum(spans_one_of(group_form(model, weights), planes) for weights in groups)
    unsigned = sum(spans_one_of(group_form(model, w.abs()), planes) for w in groups)
    single = sum(spans_one_of(latent_form(model, latent), planes) for latent in range(60))
    assert not any(spans_one_of(group_form(model, row), planes) for row in model.mixture.detach())
    assert signed > unsigned
    assert single > 50 if coefficient else single < 5
