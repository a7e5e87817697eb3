"""Bilinear: its errors are those of the explicit outer products, in all variants."""

import pytest
import torch
from sklearn.datasets import load_digits

import sae
from sae.autoencoders.bilinear import VARIANTS
from sparsecode.losses import hoyer_density

N, D, F = 11, 6, 21


def make(variant="vanilla", **options):
    options = {"n_features": D, "n_latents": F, "seed": 0, **options}
    return sae.Bilinear(variant=variant, **options).double()


def data(n=N, d=D, seed=0):
    return 5.0 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + 1.0


def explicit(model, x):
    """Return the products of the rows, the atoms and the weights of the atoms."""
    u = x / x.norm(dim=1, keepdim=True)
    atoms = torch.einsum("fd,fe->fde", model.left, model.right)
    f = (u @ model.left.T) * (u @ model.right.T)
    g = f if model.mixture is None else f @ (model.mixture.T @ model.mixture)
    return torch.einsum("nd,ne->nde", u, u), atoms, f, g


def error_of_first(X, atoms, g, k):
    return (X - torch.einsum("nf,fde->nde", g[:, :k], atoms[:k])).square().sum((1, 2)).mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_latents_and_reconstructions_are_those_of_the_definition(variant):
    model, x = make(variant), data()
    X, atoms, f, g = explicit(model, x)
    torch.testing.assert_close(model.encode(x).to_dense(), f)
    torch.testing.assert_close(torch.einsum("fde,nde->nf", atoms, X), f)
    torch.testing.assert_close(model(x), torch.einsum("nf,fde->nde", g, atoms))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_equals_that_of_the_explicit_outer_products(variant):
    model, x = make(variant), data()
    X, atoms, _, g = explicit(model, x)
    prefixes = range(1, F + 1) if variant in {"ordered", "combined"} else [F]
    want = torch.stack([error_of_first(X, atoms, g, k) for k in prefixes]).mean()
    torch.testing.assert_close(model.reconstruction_loss(x), want, rtol=1e-10, atol=0)
    losses = model.loss_terms(x, x)
    torch.testing.assert_close(losses.terms["mse"], want, rtol=1e-10, atol=0)
    torch.testing.assert_close(losses.error, error_of_first(X, atoms, g, F), rtol=1e-10, atol=0)
    weights = [weight for weight in (model.left, model.right, model.mixture) if weight is not None]
    for mine, theirs in zip(
        torch.autograd.grad(losses.terms["mse"], weights),
        torch.autograd.grad(want, weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [1, 8, F])
def test_the_error_of_the_first_latents(variant, k):
    model, x = make(variant), data()
    X, atoms, _, g = explicit(model, x)
    torch.testing.assert_close(model.reconstruction_loss(x, k=k), error_of_first(X, atoms, g, k))


@torch.no_grad()
def test_in_float32_too():
    model, x = make("mixed").float(), data().float()
    X, atoms, _, g = explicit(make("mixed"), data())
    want = error_of_first(X, atoms, g, F)
    assert float(model.reconstruction_loss(x)) == pytest.approx(float(want), rel=1e-5)


@torch.no_grad()
def test_tiles_off_the_diagonal_count_twice_and_not_those_on_it():
    """The public code sums tiles (i <= j) with weight ``(i == j) + 1``: another objective."""
    model, x = make(), data()
    X, atoms, _, g = explicit(model, x)
    tiles = torch.arange(F).chunk(4)
    sums = {"public": 0.0, "right": 0.0}
    for i, rows in enumerate(tiles):
        for j, columns in enumerate(tiles[i:], start=i):
            kernel = (model.left[rows] @ model.left[columns].T) * (
                model.right[rows] @ model.right[columns].T
            )
            tile = torch.einsum("ni,nj,ij->n", g[:, rows], g[:, columns], kernel).mean()
            sums["public"] += tile * ((i == j) + 1)
            sums["right"] += tile * ((i != j) + 1)
    cross = 2 * g.square().sum(1).mean()
    want = error_of_first(X, atoms, g, F)
    torch.testing.assert_close(1 - cross + sums["right"], want)
    torch.testing.assert_close(model.reconstruction_loss(x), want)
    assert abs(float(sums["public"] / sums["right"]) - 1) > 0.2
    assert abs(float(1 - cross + sums["public"] - want)) > 0.2 * float(sums["right"])


def test_the_weighted_density_is_the_mean_over_first_latents():
    model, x = make("ordered", density_coefficient=2.0), data()
    _, _, f, _ = explicit(model, x)
    each = torch.stack([hoyer_density(f[:, j : j + 1]) for j in range(F)])
    want = torch.stack([each[:k].mean() for k in range(1, F + 1)]).mean()
    torch.testing.assert_close(model.loss_terms(x, x).terms["density"], 2.0 * want)
    torch.testing.assert_close(model.density(x), each.mean())


@torch.no_grad()
def test_the_penalty_warms_up():
    model, x = make(density_coefficient=0.5), data()
    whole = float(model.loss_terms(x, x).terms["density"])
    for progress, share in ((0.0, 0.0), (0.125, 0.5), (0.25, 1.0), (1.0, 1.0)):
        model.set_progress(progress)
        assert float(model.loss_terms(x, x).terms["density"]) == pytest.approx(share * whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_neither_sign_nor_size_of_a_row_matters(variant):
    model, x = make(variant), data()
    for factor in (-1.0, 1e-30, 1e30):
        torch.testing.assert_close(model.encode(factor * x).to_dense(), model.encode(x).to_dense())


def test_a_row_of_zeros_has_zero_codes_and_no_error():
    model = make()
    zeros = torch.zeros(3, D).double()
    assert not model.encode(zeros).to_dense().any()
    assert float(model.reconstruction_loss(zeros).detach()) == 0
    loss = torch.stack(list(model.loss_terms(zeros, zeros).terms.values())).sum()
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_fewer_latents_are_the_largest_or_the_first():
    x = data()
    dense = make().encode(x).to_dense()
    kept = make().encode(x, k=4).to_dense()
    largest = dense.abs().topk(4).indices
    assert torch.equal(kept, torch.zeros_like(dense).scatter(1, largest, dense.gather(1, largest)))
    ordered = make("ordered")
    first = ordered.encode(x, k=4).to_dense()
    assert torch.equal(first[:, :4], ordered.encode(x).to_dense()[:, :4])
    assert not first[:, 4:].any()


def test_centered_rows():
    model, x = make(center=True), data()
    model.initialize(x)
    shifted = make()
    torch.testing.assert_close(
        model.encode(x).to_dense(), shifted.encode(x - model.b_dec).to_dense()
    )
    assert model.b_dec.abs().sum() > 0
    assert "b_dec" not in dict(model.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_is_that_of_the_matrices(variant):
    model, x = make(variant).float(), data(200).float()
    X, atoms, _, g = explicit(model.double(), x.double())
    Y = torch.einsum("nf,fde->nde", g, atoms)
    found = sae.evaluate(model, x, batch_size=64)
    want = (X - Y).square().sum() / (X - X.mean(0)).square().sum()
    assert found["fvu"] == pytest.approx(float(want), rel=1e-5)
    assert found["mse"] == pytest.approx(float((X - Y).square().sum((1, 2)).mean()), rel=1e-5)
    assert ("fvu_at_k" in found) == (variant == "ordered")
    if variant == "ordered":
        assert list(found["fvu_at_k"]) == ["1", "2", "4", "8", "16", "21"]
        variance = found["mse"] / found["fvu"]
        four = float(error_of_first(X, atoms, g, 4)) / variance
        assert found["fvu_at_k"]["4"] == pytest.approx(four, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "sorted"}, "`variant` must be one of 'vanilla', 'mixed', 'ordered', 'combine"),
        ({"n_mixed": 0}, r"`n_mixed` must be an int in \[1, inf\)"),
        ({"density_coefficient": -1.0}, "`density_coefficient` must be a finite number"),
        ({"warmup_share": 1.5}, "`warmup_share` must be a finite number"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_bad_input_gets_one_sentence():
    with pytest.raises(ValueError, match=r"`x` must have shape \(..., n_features\)"):
        make().reconstruction_loss(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"`k` must be an int in \[1, n_latents\]; got 22"):
        make().encode(data(), k=22)


def test_the_estimator_says_what_it_cannot_do():
    x = data(64).numpy()
    options = {"architecture": "bilinear", "max_steps": 5, "batch_size": 32, "device": "cpu"}
    model = sae.SparseAutoencoder(n_components=40, **options).fit(x)
    assert model.transform(x).shape == (64, 40)
    assert model.score(x) < 1
    with pytest.raises(TypeError, match=r"`inverse_transform` is unsupported for 'bili"):
        model.inverse_transform(model.transform(x))
    assert not hasattr(model, "components_")


def digits():
    """Return training and test rows of centered digits."""
    x = torch.from_numpy(load_digits().data).float()
    x = (x - x.mean(0))[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return x[:1400], x[1400:]


@pytest.fixture(scope="module")
def trained():
    """Return short runs of `tests/benchmarks/bench_bilinear.py`: 300 steps in place of 2,500."""
    train, _ = digits()
    models = {}
    for variant, coefficient in [
        ("vanilla", 0.0), ("mixed", 0.0), ("ordered", 0.0), ("vanilla", 0.1), ("vanilla", 1.0),
    ]:  # fmt: skip
        options = {"variant": variant, "density_coefficient": coefficient, "seed": 0}
        model = sae.Bilinear(n_features=64, n_latents=256, **options)
        config = sae.TrainConfig(
            batch_size=128, n_steps=300, lr=1e-2, warmup_share=0.0, decay_share=1.0,
            heldout_fraction=0.0,
        )  # fmt: skip
        sae.Trainer(model, train, config).fit()
        models[variant, coefficient] = model
    return models


@torch.no_grad()
def test_mixed_is_better_than_vanilla_and_vanilla_than_ordered(trained):
    _, test = digits()
    error = [
        float(trained[variant, 0.0].reconstruction_loss(test, k=256))
        for variant in ("mixed", "vanilla", "ordered")
    ]
    assert error == sorted(error)
    assert error[0] < 0.9 * error[1]
    assert error[2] < 1.2 * error[1]


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16, 32, 64, 128])
@torch.no_grad()
def test_ordered_latents_are_better_at_every_prefix(trained, k):
    _, test = digits()
    ordered, vanilla = (
        float(trained[variant, 0.0].reconstruction_loss(test, k=k))
        for variant in ("ordered", "vanilla")
    )
    assert ordered < vanilla


@torch.no_grad()
def test_the_penalty_lowers_the_density_at_little_cost(trained):
    _, test = digits()
    models = [trained["vanilla", coefficient] for coefficient in (0.0, 0.1, 1.0)]
    density = [float(model.density(test)) for model in models]
    assert density[0] > density[1] > density[2]
    error = [float(model.reconstruction_loss(test)) for model in models]
    assert error[1] < 1.05 * error[0]
