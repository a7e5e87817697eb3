"""Matryoshka: the loss over nested dictionaries, fixed or sampled, on either selection."""

import pytest
import torch

import sae


def make(**settings):
    return sae.Matryoshka(**{"n_features": 6, "n_latents": 48, "k": 4, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("selection", ["batch_topk", "topk"])
@pytest.mark.parametrize(
    ("prefixes", "weights"), [([8, 20, 48], None), ([1, 47], [2.0, 0.5, 1.0])], ids=str
)
def test_loss_and_gradients_are_those_of_the_formula(x, selection, prefixes, weights):
    """The mean over levels; dictionary_learning divides by their number twice."""
    model = make(prefixes=prefixes, weights=weights, selection=selection)
    model.initialize(x)
    losses = model.loss_terms(x, x)
    got = torch.autograd.grad(losses.terms["mse"], list(model.parameters()))
    model = model.double()
    z = ((x.double() - model.b_dec) @ model.W_enc + model.b_enc).relu()
    if selection == "topk":
        mask = torch.zeros_like(z).scatter(1, z.topk(4).indices, 1.0)
    else:
        kept = z.flatten().topk(4 * 24).indices
        mask = torch.zeros(z.numel()).scatter(0, kept, 1.0).reshape(z.shape)
    loss, levels = 0.0, model.prefixes
    for prefix, weight in zip(levels, weights or [1 / len(levels)] * len(levels), strict=True):
        recon = (z * mask)[:, :prefix] @ model.W_dec[:prefix] + model.b_dec
        loss = loss + weight * (x - recon).square().sum(1).mean()
    torch.testing.assert_close(losses.terms["mse"].double(), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.reconstruction.double(), recon, rtol=1e-4, atol=1e-5)
    for g, w in zip(got, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("selection", ["batch_topk", "topk"])
def test_one_level_is_the_model_of_the_selection(x, selection):
    kind = {"batch_topk": sae.BatchTopK, "topk": sae.TopK}[selection]
    plain = kind(n_features=6, n_latents=48, k=4, seed=1)
    ours = make(prefixes=[48], selection=selection)
    dead = torch.arange(48) % 5 == 0
    results = []
    for model in (ours, plain):
        model.initialize(x)
        losses = model.train().loss_terms(x, x, dead_latents=dead)
        total = sum(losses.terms.values())
        results.append((total, torch.autograd.grad(total, list(model.parameters()))))
        results[-1] += (model.eval().encode(x).to_dense(),)
    torch.testing.assert_close(results[0], results[1])


def test_sampled_prefixes_end_with_the_whole_and_follow_the_seed(x):
    model = make(n_sampled=6)
    torch.manual_seed(0)
    drawn = [model._sampled() for _ in range(300)]
    assert all(levels[-1] == 48 and levels == sorted(set(levels)) for levels in drawn)
    flat = torch.tensor([level for levels in drawn for level in levels[:-1]])
    assert int(flat.min()) == 1
    assert float((flat < 12).float().mean()) > 0.5
    torch.manual_seed(0)
    assert [model._sampled() for _ in range(300)] == drawn
    one = make(n_sampled=1)
    plain = sae.BatchTopK(n_features=6, n_latents=48, k=4, seed=1)
    torch.testing.assert_close(one.loss_terms(x, x).terms, plain.loss_terms(x, x).terms)


def test_first_latents_leave_later_groups_at_zero(x):
    model = make(prefixes=[8])
    model.initialize(x)
    codes = model.eval().encode(x.reshape(2, 12, 6))
    dense = codes.to_dense()
    cut = model.first_latents(codes, 8)
    assert cut.shape == (2, 12, 48)
    assert torch.equal(cut.to_dense()[..., :8], dense[..., :8])
    assert not cut.to_dense()[..., 8:].any()
    want = dense[..., :8] @ model.W_dec[:8] + model.b_dec
    torch.testing.assert_close(model.decode(cut), want)
    assert model.first_latents(codes, 0).values.numel() == 0
    assert model.first_latents(codes, 48) == codes


def test_the_default_prefixes_double_up_to_the_whole():
    assert make().prefixes == [3, 6, 12, 24, 48]
    assert make(n_latents=1, k=1).prefixes == [1]
    assert make(n_sampled=3).prefixes is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prefixes": [49]}, r"`prefixes` must be an int in \[1, n_latents\]; got 49"),
        ({"prefixes": [3, 3]}, r"`prefixes` must be different numbers; got \[3, 3\]"),
        ({"weights": [1.0]}, "`weights` must have one number for each of the prefixes"),
        ({"n_sampled": 2, "prefixes": [3]}, "`prefixes` and `weights` must be None"),
        ({"selection": "relu"}, "`selection` must be one of 'batch_topk', 'topk'; got 'relu'"),
        ({"k": 0}, "`k` must be a finite number in"),
        ({"k": 49, "selection": "topk"}, r"`k` must be an int in \[1, n_latents\]"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
