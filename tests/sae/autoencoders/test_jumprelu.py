"""JumpReLU: the estimator of the paper, thresholds that learn, a target for L0."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data


def make(**settings):
    return sae.JumpReLU(**{"n_features": 6, "n_latents": 50, "target_l0": 4, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def one_latent(z, threshold, *, bandwidth, **settings):
    """A model whose pre-activation is the input and whose reconstruction is its code."""
    model = sae.JumpReLU(n_features=1, n_latents=1, bandwidth=bandwidth, warmup_share=0, **settings)
    with torch.no_grad():
        model.W_enc.fill_(1.0)
        model.W_dec.fill_(1.0)
        model.threshold.fill_(threshold)
    return model, torch.tensor([[value] for value in z])


def test_the_estimator_by_hand():
    """Values 0.9 | 1.1 | 1.6 | 0.2 around threshold 1 with window (0.75, 1.25)."""
    model, x = one_latent(
        [0.9, 1.1, 1.6, 0.2], 1.0, bandwidth=0.5, target_l0=None, l0_coefficient=3.0
    )
    losses = model.loss_terms(x, torch.zeros(4, 1))
    assert losses.codes.to_dense().flatten().tolist() == pytest.approx([0.0, 1.1, 1.6, 0.0])
    assert float(losses.terms["mse"].detach()) == pytest.approx((1.1**2 + 1.6**2) / 4)
    assert float(losses.terms["l0"].detach()) == pytest.approx(3.0 * 2 / 4)
    # d mse / d a = 2 a / N is 0 for 0.9, which is off: only 1.1 moves the threshold by the error.
    (by_error,) = torch.autograd.grad(losses.terms["mse"], model.threshold, retain_graph=True)
    assert float(by_error) == pytest.approx(-(1.0 / 0.5) * 2 * 1.1 / 4)
    # The step sees pre-activations: 0.9 counts although it is off, 1.6 is out of the window.
    # dictionary_learning feeds it the codes, and loses the lower half of the window.
    (by_l0,) = torch.autograd.grad(losses.terms["l0"], model.threshold, retain_graph=True)
    assert float(by_l0) == pytest.approx(-(3.0 / 0.5) * 2 / 4)
    assert torch.autograd.grad(losses.terms["l0"], model.b_enc, allow_unused=True)[0] in (
        None,
        torch.zeros(1),
    )


def test_a_value_equal_to_the_threshold_is_off():
    model, x = one_latent([1.0, 1.0000001192092896], 1.0, bandwidth=0.1)
    assert model.encode(x).n_active.tolist() == [0, 1]
    assert model.loss_terms(x, x).codes.n_active.tolist() == [0, 1]


def test_a_threshold_below_zero_counts_as_zero_and_can_come_back():
    """A step may take it there; a clamp within the graph would hold it at zero for ever."""
    model, x = one_latent([-0.5, 0.5, 0.02], -1.0, bandwidth=0.1, target_l0=None)
    assert model.encode(x).to_dense().flatten().tolist() == pytest.approx([0.0, 0.5, 0.02])
    losses = model.loss_terms(x, x)
    assert losses.codes.to_dense().flatten().tolist() == pytest.approx([0.0, 0.5, 0.02])
    losses.terms["l0"].backward()
    assert float(model.threshold.grad) < 0  # a larger threshold makes L0 smaller


@pytest.mark.parametrize("bandwidth", [0.02, 0.3])
@pytest.mark.parametrize("target_l0", [4, None])
def test_loss_and_gradients_are_those_of_the_dense_formula(x, target_l0, bandwidth):
    model = make(target_l0=target_l0, l0_coefficient=0.5, bandwidth=bandwidth)
    model.initialize(x)
    with torch.no_grad():
        model.threshold += 0.05 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    model = model.double()
    x = x.double()
    losses = model.loss_terms(x, x)
    names = dict(model.named_parameters())
    got = torch.autograd.grad(sum(losses.terms.values()), list(names.values()))

    width = float(model.bandwidth * model.scale)
    z = (x - model.b_dec) @ model.W_enc + model.b_enc
    active = (z > model.threshold).double()
    codes = z * active
    codes.retain_grad()
    recon = codes @ model.W_dec + model.b_dec
    mse = (x - recon).square().sum(1).mean()
    mse.backward()
    l0 = float(active.sum(1).mean())
    excess = l0 if target_l0 is None else (l0 / target_l0 - 1) ** 2
    slope = 1.0 if target_l0 is None else 2 * (l0 / target_l0 - 1) / target_l0
    factor = 0.5 * float(model.scale) ** 2
    torch.testing.assert_close(losses.terms["mse"], mse)
    assert float(losses.terms["l0"].detach()) == pytest.approx(factor * excess)
    window = ((z - model.threshold).abs() < width / 2).double()
    assert window.any()
    to_theta = -(window / width) * (model.threshold * codes.grad + factor * slope / len(x))
    for (name, parameter), g in zip(names.items(), got, strict=True):
        want = to_theta.sum(0) if name == "threshold" else parameter.grad
        torch.testing.assert_close(g, want.detach())


def test_training_reaches_the_target_and_moves_the_thresholds():
    """With the logarithm as parameter they stay where they were (SAELens #494)."""
    data = make_sparse_data(6000, 16, 64, k=4, noise=0.05, seed=0)[0]
    for scale in (1.0, 100.0):
        model = sae.JumpReLU(n_features=16, n_latents=64, target_l0=4, seed=0)
        config = sae.TrainConfig(batch_size=256, n_steps=400, progress=False)
        rows = scale * data
        model.initialize(rows[:2000])
        before = model.threshold.detach().clone()
        found = sae.Trainer(model, rows, config).fit().evaluation
        moved = ((model.threshold - before).abs() / before).mean()
        assert float(moved.detach()) > 0.1
        assert bool((model.threshold >= 0).all()) or float(model.threshold.min()) > -0.01 * scale
        assert found["l0"] == pytest.approx(4, rel=0.1)
        assert found["fvu"] < 0.35


def test_the_target_holds_on_rows_of_a_text(letter_pairs):
    model = sae.JumpReLU(n_features=48, n_latents=192, target_l0=6.5, seed=0)
    config = sae.TrainConfig(batch_size=512, n_steps=300, progress=False)
    found = sae.Trainer(model, letter_pairs, config).fit().evaluation
    assert found["l0"] == pytest.approx(6.5, rel=0.05)
    spread = model.threshold.detach().std() / model.threshold.detach().mean()
    assert float(spread) > 0.05  # they began as one


def test_the_penalty_warms_up(x):
    model = make(warmup_share=0.4, target_l0=None)
    terms = []
    for progress in (0.0, 0.2, 0.4, 1.0):
        model.set_progress(progress)
        terms.append(float(model.loss_terms(x, x).terms["l0"].detach()))
    assert terms == pytest.approx([0.0, terms[-1] / 2, terms[-1], terms[-1]])
    assert terms[-1] > 0


def test_thresholds_travel_with_the_model(x, tmp_path):
    model = make()
    model.initialize(x)
    loaded = sae.load(sae.save(model, tmp_path / "model"))
    assert torch.equal(loaded.threshold, model.threshold)
    assert float(loaded.scale) == float(model.scale) > 1.0
    assert loaded.encode(x) == model.encode(x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_l0": 0}, "`target_l0` must be a finite number"),
        ({"bandwidth": 0.0}, "`bandwidth` must be a finite number"),
        ({"l0_coefficient": -1.0}, "`l0_coefficient` must be a finite number"),
        ({"warmup_share": 2.0}, "`warmup_share` must be a finite number"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
