"""Where a public library is wrong, in its installed version, and what we do instead.

The judge is plain autograd in float64 on the formula of the paper. Each test shows first that the
library still departs from it (else the test fails, and says that it should become a parity test),
then that we do not.

Known defects of public libraries, and the tests that hold us on the right side. Those without a
file are in this one; the others need no other library. MAT is Bussmann's matryoshka_sae, OC
overcomplete, OAI OpenAI's sparse_autoencoder, SB SAEBench: not installed, described.

- The auxiliary and the larger code give the encoder no gradient (sparsify):
  `test_aux_loss_reaches_the_encoder`, `test_the_larger_code_of_multi_topk_reaches_the_encoder`.
- Picks of value 0 get a gradient (sparsify): `test_picks_of_value_zero_get_no_gradient`,
  `test_a_row_without_positive_latents_teaches_the_encoder_nothing`.
- Latents of value 0 count as fired (sparsify, dictionary_learning), thresholds let ties through
  (OC): `test_a_latent_that_is_zero_has_not_fired`, `test_ties_go_to_the_lower_id`,
  ``autoencoders/test_jumprelu.py``: a value equal to the threshold is off.
- Multi-TopK returns the larger code (sparsify): `test_a_second_budget_does_not_replace_the_code`.
- AuxK adds ``b_dec`` twice (sparsify, SAELens, both mended), lets gradients through the residual
  (MAT, OC): `test_aux_loss_counts_the_decoder_bias_once`; ``sparsecode/test_losses.py``.
- Denominators of 0 (sparsify): `test_one_row_has_a_finite_loss`; ``sae/test_trainer.py``.
- BatchTopK multiplies k by the first axis only, and k must be an int (dictionary_learning):
  ``comparison/test_architecture_parity.py``, `test_k_of_batch_topk_may_be_a_fraction`. Rows of
  zeros, rows that take the places of others: ``autoencoders/test_batch_topk.py``; more places than
  positive latents: ``sparsecode/ops/encode_batch``.
- The running threshold starts at 0 (SAELens) or late (dictionary_learning), is lost on saving
  (MAT, OC): `test_the_threshold_is_right_from_the_first_batch`;
  ``autoencoders/test_batch_topk.py``.
- Matryoshka divides by n twice (dictionary_learning): ``comparison/test_loss_parity.py``.
- HierarchicalTopK refuses shapes and needs sorted picks (the published kernel):
  ``autoencoders/test_hierarchical_topk.py``.
- JumpReLU's step sees codes, not pre-activations (dictionary_learning):
  ``comparison/test_architecture_parity.py``; thresholds that do not learn (older SAELens),
  or end below 0: ``autoencoders/test_jumprelu.py``.
- The gates' own reconstruction teaches the decoder (SAELens):
  `test_the_gates_do_not_teach_the_decoder`.
- Folding changes what is selected: ``autoencoders/test_relu.py``, ``test_gated.py``,
  ``test_batch_topk.py``.
- Rows off unit norm after the last step (OAI, sparsify), gradients along rows, rows of zeros:
  ``sparsecode/optim/test_row_adam.py``, ``sae/test_trainer.py``.
- Encoder and decoder share storage: `sae.testing.check_autoencoder`.
- A constant error counts as explained (dictionary_learning), the mean is not per dimension (SB,
  SAELens before March 2026): `test_a_constant_error_is_not_explained`,
  `test_explained_variance_is_that_of_sae_lens`; ``sparsecode/metrics/test_reconstruction.py``.
- Logging moves counters and thresholds (dictionary_learning): `test_looking_changes_nothing`;
  ``sae/test_trainer.py``.
- Micro-batches that change the loss, resuming that starts anew (sparsify): ``sae/test_trainer.py``,
  ``sae/test_trainer_resume.py``.
- Tiles of the bilinear kernel are counted the wrong way round (bae, not installed):
  ``autoencoders/test_bilinear.py``.
- Decoding that remembers the last encoding (OAI, MAT): ``autoencoders/test_topk.py``.
- dtypes, int32 ids, large offsets: `check_autoencoder`, ``sparsecode/ops``.
- A mean where a median is promised, and outliers that move it: ``autoencoders/test_base.py``,
  ``comparison/test_loss_parity.py``; rows left out of a cache: ``sae/cache/test_forward.py``.
"""

import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor

import sae
from sparsecode import encode_topk

Weights = dict[str, Tensor]
FIXED = "this version of {} is right here: make this a parity test"


def _sparsify_coder(module: ModuleType, weights: Weights, **config):
    n_latents, n_features = weights["W_dec"].shape
    coder = module.SparseCoder(
        n_features, module.SparseCoderConfig(num_latents=n_latents, **config)
    )
    with torch.no_grad():
        coder.encoder.weight.copy_(weights["W_enc"].T)
        coder.encoder.bias.copy_(weights["b_enc"])
        coder.W_dec.copy_(weights["W_dec"])
        coder.b_dec.copy_(weights["b_dec"])
    return coder


def _ours(weights: Weights, k: int) -> sae.TopK:
    n_latents, n_features = weights["W_dec"].shape
    model = sae.TopK(n_features=n_features, n_latents=n_latents, k=k)
    model.load_state_dict(weights)
    return model


def _of(kind: type, weights: Weights, **settings) -> sae.AbstractAutoencoder:
    n_latents, n_features = weights["W_dec"].shape
    model = kind(n_features=n_features, n_latents=n_latents, **settings)
    model.load_state_dict(model.state_dict() | weights)
    return model


def _double(weights: Weights) -> Weights:
    return {name: value.double().requires_grad_() for name, value in weights.items()}


def _pre_activations(x: Tensor, w: Weights) -> Tensor:
    return ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()


def _top(z: Tensor, k: int) -> Tensor:
    values, indices = z.topk(k)
    return torch.zeros_like(z).scatter(1, indices, values)


def _aux_by_formula(x: Tensor, w: Weights, dead: Tensor, k: int, k_aux: int) -> Tensor:
    """Return ``mean ||e - e_hat||^2``: e detached, no bias in e_hat, the pre-bias constant."""
    z = _pre_activations(x, w)
    e = (x - _top(z, k) @ w["W_dec"] - w["b_dec"]).detach()
    frozen = w | {"b_dec": w["b_dec"].detach()}
    z_dead = torch.where(dead, _pre_activations(x, frozen), -1.0)
    return (e - _top(z_dead, k_aux).relu() @ w["W_dec"]).pow(2).sum(1).mean()


@pytest.fixture
def dead() -> Tensor:
    """Every third latent dead: 32 of 96, more than the d / 2 = 12 that may speak."""
    return torch.arange(96) % 3 == 0


def test_aux_loss_reaches_the_encoder(
    sparsify: ModuleType, weights: Weights, x: Tensor, dead: Tensor
) -> None:
    """The backward of sparsify's fused encoder ignores the gradient of the pre-activations."""
    weights["b_enc"][dead] -= 3.0  # dead latents are not among the top k
    coder = _sparsify_coder(sparsify, weights, k=6)
    coder(x, dead_mask=dead).auxk_loss.backward()
    theirs = coder.encoder.weight.grad
    assert theirs is None or not theirs.any(), FIXED.format("sparsify")

    truth = _double(weights)
    _aux_by_formula(x.double(), truth, dead, k=6, k_aux=12).backward()
    model = _ours(weights, k=6)
    (model.loss_terms(x, x, dead_latents=dead).terms["auxk"] / model.aux_coefficient).backward()
    assert truth["W_enc"].grad.any()
    for name in ("W_enc", "b_enc", "W_dec"):
        torch.testing.assert_close(
            getattr(model, name).grad.double(), truth[name].grad, atol=1e-5, rtol=1e-4
        )
    assert model.b_dec.grad is None or not model.b_dec.grad.any()


@pytest.mark.parametrize("library", ["sparsify", "sae_lens"])
def test_aux_loss_counts_the_decoder_bias_once(
    request: pytest.FixtureRequest, library: str, weights: Weights, x: Tensor, dead: Tensor
) -> None:
    """Older versions added ``b_dec`` to the auxiliary decode; the installed ones agree with us."""
    module = request.getfixturevalue(library)
    weights["b_enc"][dead] += 1.0  # all that speak are positive: SAELens has no ReLU here
    expected = _aux_by_formula(x.double(), _double(weights), dead, k=6, k_aux=12)
    if library == "sparsify":
        theirs = _sparsify_coder(module, weights, k=6)(x, dead_mask=dead).auxk_loss
        theirs = theirs * (x - x.mean(0)).pow(2).sum() / len(x)
    else:
        model = module.TopKTrainingSAE(
            module.TopKTrainingSAEConfig(d_in=24, d_sae=96, k=6, device="cpu")
        )
        model.load_state_dict(weights)
        codes, z = model.encode_with_hidden_pre(x)
        theirs = model.calculate_topk_aux_loss(x, model.decode(codes), z, dead)
    assert float(theirs) == pytest.approx(float(expected), rel=1e-5)
    ours = _ours(weights, k=6)
    auxk = ours.loss_terms(x, x, dead_latents=dead).terms["auxk"] / ours.aux_coefficient
    assert float(auxk) == pytest.approx(float(expected), rel=1e-5)


def test_picks_of_value_zero_get_no_gradient(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    """A row with fewer than k positive latents is filled up with zeros, which must not learn."""
    weights["b_enc"] -= 3.0
    truth = _double(weights)
    z = _pre_activations(x.double(), truth)
    assert bool(((z > 0).sum(1) < 6).any()), "the test needs rows with few positive latents"
    (_top(z, 6) @ truth["W_dec"] + truth["b_dec"] - x).pow(2).sum(1).mean().backward()

    coder = _sparsify_coder(sparsify, weights, k=6)
    (coder(x).sae_out - x).pow(2).sum(1).mean().backward()
    leaked = (coder.encoder.weight.grad.T - truth["W_enc"].grad).abs().max()
    assert float(leaked) > 1e-3, FIXED.format("sparsify")

    model = _ours(weights, k=6)
    model.loss_terms(x, x, dead_latents=None).terms["mse"].backward()
    for name, parameter in truth.items():
        torch.testing.assert_close(
            getattr(model, name).grad.double(), parameter.grad, atol=1e-5, rtol=1e-4
        )


def test_a_row_without_positive_latents_teaches_the_encoder_nothing(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    weights["b_enc"][:] = -100.0
    coder = _sparsify_coder(sparsify, weights, k=6)
    (coder(x).sae_out - x).pow(2).sum(1).mean().backward()
    assert coder.encoder.weight.grad.any(), FIXED.format("sparsify")

    model = _ours(weights, k=6)
    losses = model.loss_terms(x, x, dead_latents=None)
    losses.terms["mse"].backward()
    assert not model.W_enc.grad.any()
    assert not model.b_enc.grad.any()
    assert not model.W_dec.grad.any()
    assert losses.codes.n_active.sum() == 0


@pytest.mark.parametrize("library", ["sparsify", "dictionary_learning"])
def test_a_latent_that_is_zero_has_not_fired(
    request: pytest.FixtureRequest, library: str, weights: Weights, x: Tensor
) -> None:
    """Both libraries count every selected index as fired, so never-firing latents look alive."""
    module = request.getfixturevalue(library)
    weights["b_enc"][:] = -100.0
    if library == "sparsify":
        selected = _sparsify_coder(module, weights, k=6)(x).latent_indices.unique()
    else:
        trainer = module.TopKTrainer(
            steps=2000, activation_dim=24, dict_size=96, k=6, layer=0, lm_name="none", device="cpu"
        )
        trainer.ae.encoder.bias.data.fill_(-100.0)
        trainer.loss(x, step=0)
        selected = (trainer.num_tokens_since_fired == 0).nonzero()
    assert len(selected) > 0, FIXED.format(library)

    codes = _ours(weights, k=6).encode(x)
    assert not bool((codes.values > 0).any())
    assert codes.to_scipy().nnz == 0


def test_the_larger_code_of_multi_topk_reaches_the_encoder(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    coder = _sparsify_coder(sparsify, weights, k=6, multi_topk=True)
    coder(x).multi_topk_fvu.backward()
    theirs = coder.encoder.weight.grad
    assert theirs is None or not theirs.any(), FIXED.format("sparsify")

    truth = _double(weights)
    recon = _top(_pre_activations(x.double(), truth), 24) @ truth["W_dec"] + truth["b_dec"]
    (recon - x).pow(2).sum(1).mean().backward()
    model = _of(sae.MultiTopK, weights, k=6, multiple=4, multiple_weight=1.0)
    model.loss_terms(x, x).terms["multi"].backward()
    assert truth["W_enc"].grad.any()
    for name, parameter in truth.items():
        torch.testing.assert_close(
            getattr(model, name).grad.double(), parameter.grad, atol=1e-5, rtol=1e-4
        )


def test_a_second_budget_does_not_replace_the_code(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    """With Multi-TopK sparsify returns the 4k code, and counts it as fired; ours stays k wide."""
    coder = _sparsify_coder(sparsify, weights, k=6, multi_topk=True)
    assert coder(x).latent_indices.shape == (len(x), 24), FIXED.format("sparsify")
    model = _of(sae.MultiTopK, weights, k=6, multiple=4)
    assert model.loss_terms(x, x).codes == _ours(weights, k=6).encode(x)
    wide = model.encode(x, k=24)
    assert wide.values.shape == (len(x), 24)
    assert model.encode(x).values.shape == (len(x), 6)
    assert wide.truncate(6) == model.encode(x)


def test_one_row_has_a_finite_loss(sparsify: ModuleType, weights: Weights, x: Tensor) -> None:
    """sparsify divides by the variance of the batch, which is 0 for one row and for equal rows."""
    for rows in (x[:1], x[:1].expand(8, -1)):
        assert not bool(torch.isfinite(_sparsify_coder(sparsify, weights, k=6)(rows).fvu)), (
            FIXED.format("sparsify")
        )
        dead = torch.ones(96, dtype=torch.bool)
        for term in _ours(weights, k=6).loss_terms(rows, rows, dead_latents=dead).terms.values():
            assert bool(torch.isfinite(term))


def test_k_of_batch_topk_may_be_a_fraction(
    dictionary_learning: ModuleType, weights: Weights, x: Tensor
) -> None:
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE

    with pytest.raises(AssertionError, match="must be a positive integer"):
        BatchTopKSAE(24, 96, 2.5)
    codes = _of(sae.BatchTopK, weights, k=2.5).train().encode(x)
    assert int(codes.n_active.sum()) == int(2.5 * len(x))


@pytest.mark.parametrize("library", ["sae_lens", "dictionary_learning"])
def test_the_threshold_is_right_from_the_first_batch(
    request: pytest.FixtureRequest, library: str, weights: Weights, x: Tensor
) -> None:
    """After ten equal batches: SAELens is at a tenth, dictionary_learning has none before 1,000."""
    request.getfixturevalue(library)
    ours = _of(sae.BatchTopK, weights, k=6).train()
    for _ in range(10):
        codes = ours.loss_terms(x, x).codes
    smallest = codes.values.min()
    torch.testing.assert_close(ours.threshold, smallest)
    if library == "sae_lens":
        from sae_lens.saes import batchtopk_sae as peer

        config = peer.BatchTopKTrainingSAEConfig(d_in=24, d_sae=96, k=6, device="cpu")
        model = peer.BatchTopKTrainingSAE(config)
        for _ in range(10):
            model.update_topk_threshold(codes.to_dense())
        assert float(model.topk_threshold) < 0.2 * float(smallest), FIXED.format(library)
    else:
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

        trainer = BatchTopKTrainer(
            steps=2000, activation_dim=24, dict_size=96, k=6, layer=0, lm_name="none", device="cpu"
        )
        for step in range(10):
            trainer.loss(x, step=step)
        assert float(trainer.ae.threshold) == -1.0, FIXED.format(library)
        assert (trainer.ae.encode(x) > 0).sum() > 12 * len(x), FIXED.format(library)


def test_the_gates_do_not_teach_the_decoder(
    sae_lens: ModuleType, weights: Weights, x: Tensor
) -> None:
    """In the paper the decoder is a constant in the error of the gates."""
    from sae_lens.saes import gated_sae as peer
    from sae_lens.saes.sae import TrainStepInput

    model = peer.GatedTrainingSAE(peer.GatedTrainingSAEConfig(d_in=24, d_sae=96, device="cpu"))
    with torch.no_grad():
        for name, value in weights.items():
            getattr(model, "b_gate" if name == "b_enc" else name).copy_(value)
    step = TrainStepInput(x, {"l1": 1.0}, None, 0, False)
    model.training_forward_pass(step).losses["auxiliary_reconstruction_loss"].backward()
    assert model.W_dec.grad.any(), FIXED.format("SAELens")

    ours = _of(sae.Gated, weights)
    ours.loss_terms(x, x).terms["aux"].backward()
    assert ours.W_dec.grad is None or not ours.W_dec.grad.any()
    assert ours.W_enc.grad.any()


def test_a_constant_error_is_not_explained(
    dictionary_learning: ModuleType, weights: Weights, x: Tensor
) -> None:
    """Its variance of the residual leaves out the mean of the residual."""
    from dictionary_learning.evaluation import evaluate

    explained, fvu = [], []
    for offset in (0.0, 3.0):  # of the reconstruction: the encoder sees the same
        moved = {
            "b_dec": weights["b_dec"] + offset,
            "b_enc": weights["b_enc"] + offset * weights["W_enc"].sum(0),
        }
        ours = _ours(weights | moved, k=6)
        theirs = dictionary_learning.AutoEncoderTopK(24, 96, 6)
        with torch.no_grad():
            theirs.encoder.weight.copy_(ours.W_enc.T)
            theirs.encoder.bias.copy_(ours.b_enc)
            theirs.decoder.weight.copy_(ours.W_dec.T)
            theirs.b_dec.copy_(ours.b_dec)
        explained.append(evaluate(theirs, iter([x]))["frac_variance_explained"])
        fvu.append(sae.evaluate(ours, x)["fvu"])
    assert explained[0] == pytest.approx(explained[1], abs=1e-4), FIXED.format(
        "dictionary_learning"
    )
    residual = x - _ours(weights, k=6)(x)
    errors = [float((residual - by).square().sum()) for by in (0.0, 3.0)]
    total = float((x - x.mean(0)).square().sum())
    assert fvu == pytest.approx([error / total for error in errors], rel=1e-4)
    assert fvu[1] > fvu[0] + 5


def test_explained_variance_is_that_of_sae_lens(
    sae_lens: ModuleType, weights: Weights, x: Tensor
) -> None:
    from sae_lens.evals import ExplainedVarianceCalculator

    model = _ours(weights, k=6)
    rows = x * torch.linspace(0.1, 3.0, 24) + torch.linspace(-5.0, 20.0, 24)
    theirs = ExplainedVarianceCalculator()
    for part in rows.split(10):
        theirs.add_batch(model(part).detach(), part)
    found = sae.evaluate(model, rows, batch_size=7)["explained_variance"]
    assert found == pytest.approx(theirs.compute(), rel=1e-5)


def test_looking_changes_nothing(
    dictionary_learning: ModuleType, weights: Weights, x: Tensor
) -> None:
    """To log, dictionary_learning computes the loss again: counters and thresholds move."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.training import log_stats

    trainer = BatchTopKTrainer(
        steps=2000, activation_dim=24, dict_size=96, k=1, layer=0, lm_name="none", device="cpu"
    )
    trainer.ae.threshold.fill_(5.0)
    log_stats([trainer], 1500, x, False, False, log_queues=[])
    assert float(trainer.ae.threshold) != 5.0, FIXED.format("dictionary_learning")
    assert trainer.num_tokens_since_fired.any(), FIXED.format("dictionary_learning")

    for model in (_of(sae.BatchTopK, weights, k=1), _of(sae.JumpReLU, weights)):
        model.train()
        before = copy.deepcopy(model.state_dict())
        sae.evaluate(model, x)
        model.eval().loss_terms(x, x)
        for name, value in model.state_dict().items():
            assert torch.equal(before[name], value), name


def test_ties_go_to_the_lower_id() -> None:
    """`torch.topk` breaks ties as it likes; with us equal latents come in order of their id."""
    x, w_enc = torch.ones(3, 4), torch.ones(4, 50)
    codes = encode_topk(x, w_enc, None, 5)
    assert codes.indices.tolist() == [[0, 1, 2, 3, 4]] * 3
