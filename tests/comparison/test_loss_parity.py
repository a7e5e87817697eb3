"""Losses of the further architectures and their gradients equal those of three public libraries.

For the same weights and batch. Where a library divides by something else, the test says by what;
where it is wrong, `test_where_peers_differ` holds the case.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import Tensor

import sae

Weights = dict[str, Tensor]
Pairs = dict[str, tuple[Tensor, bool]]  # our name -> (a peer's parameter, is it transposed)
N_STEPS = 10_000  # so many that a peer's penalty has warmed up at the last
DEAD_AFTER = 10_000_000  # rows, in dictionary_learning


def _ours(kind: type, weights: Weights, **settings) -> sae.AbstractAutoencoder:
    n_latents, n_features = weights["W_dec"].shape
    model = kind(n_features=n_features, n_latents=n_latents, **settings)
    with torch.no_grad():
        for name, value in weights.items():
            getattr(model, name).copy_(value)
    return model.train()


def _fill(pairs: Pairs, weights: Weights) -> None:
    with torch.no_grad():
        for name, (parameter, flip) in pairs.items():
            parameter.copy_(weights[name].T if flip else weights[name])


def _same_gradients(
    ours: sae.AbstractAutoencoder, loss: Tensor, theirs: Tensor, pairs: Pairs
) -> None:
    """Check two scalars and their gradients in every parameter; None counts as zero."""
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    options = {"allow_unused": True, "retain_graph": True}
    mine = torch.autograd.grad(loss, [getattr(ours, name) for name in pairs], **options)
    other = torch.autograd.grad(theirs, [p for p, _ in pairs.values()], **options)
    for (name, (parameter, flip)), g, w in zip(pairs.items(), mine, other, strict=True):
        want = torch.zeros_like(parameter) if w is None else w
        got = torch.zeros_like(getattr(ours, name)) if g is None else g
        torch.testing.assert_close(
            got,
            want.T if flip else want,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def _linear(model: torch.nn.Module, bias: str) -> Pairs:
    """Return the parameters of a model of dictionary_learning that is made of `nn.Linear`."""
    return {
        "W_enc": (model.encoder.weight, True),
        "b_enc": (model.encoder.bias, False),
        "W_dec": (model.decoder.weight, True),
        "b_dec": (getattr(model, bias), False),
    }


def _named(model: torch.nn.Module, weights: Weights, **others: str) -> Pairs:
    """Return the parameters of a model that uses our names, apart from `others`."""
    return {name: (getattr(model, others.get(name, name)), False) for name in weights}


@pytest.fixture
def trainer(dictionary_learning: ModuleType, weights: Weights) -> Callable:
    """Return a function that makes a trainer of dictionary_learning for the common shapes."""
    n_latents, n_features = weights["W_dec"].shape

    def make(module: str, name: str, **settings):
        kind = getattr(import_module(f"dictionary_learning.trainers.{module}"), name)
        return kind(
            steps=N_STEPS, activation_dim=n_features, dict_size=n_latents, layer=0,
            lm_name="none", device="cpu", **settings,
        )  # fmt: skip

    return make


@pytest.fixture
def few() -> Tensor:
    """Every seventh latent dead: 14 of 96, more than the d / 2 = 12 that may speak."""
    return torch.arange(96) % 7 == 0


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_dictionary_learning_topk_losses(
    trainer: Callable, weights: Weights, x: Tensor, few: Tensor, kind: str
) -> None:
    """It divides AuxK by the variance of the residual, as OpenAI's code does; we by nothing."""
    weights["b_enc"][few] -= 3.0  # they are not among the chosen
    if kind == "topk":
        theirs, ours = trainer("top_k", "TopKTrainer", k=6), _ours(sae.TopK, weights, k=6)
    else:
        theirs = trainer("batch_top_k", "BatchTopKTrainer", k=6)
        ours = _ours(sae.BatchTopK, weights, k=6)
    pairs = _linear(theirs.ae, "b_dec")
    _fill(pairs, weights)
    plain = ours.loss_terms(x, x).terms["mse"]
    _same_gradients(ours, plain, theirs.loss(x, step=0), pairs)

    theirs.num_tokens_since_fired[few] = DEAD_AFTER
    found = ours.loss_terms(x, x, dead_latents=few)
    residual = x - found.reconstruction
    variance = (residual - residual.mean(0)).square().sum(1).mean()
    both = theirs.loss(x, step=0)
    del pairs["b_dec"]  # theirs reaches it through the input of the encoder; in ours e is fixed
    _same_gradients(ours, found.terms["mse"] + found.terms["auxk"] / variance, both, pairs)
    assert float(found.terms["auxk"]) > 0


@pytest.mark.parametrize(
    ("group_weights", "level_weights", "share"),
    [(None, None, 1 / 3), ([1.0] * 3, None, 1.0), ([1.5, 0.9, 0.6], [0.5, 0.3, 0.2], 1.0)],
    ids=["its_default", "equal", "weighted"],
)
def test_dictionary_learning_matryoshka_loss(
    trainer: Callable, weights: Weights, x: Tensor, group_weights, level_weights, share: float
) -> None:
    """By default it multiplies by 1 / n and takes the mean as well: a loss n times smaller."""
    theirs = trainer(
        "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", k=6,
        group_fractions=[1 / 6, 1 / 3, 1 / 2], group_weights=group_weights,
    )  # fmt: skip
    pairs = _named(theirs.ae, weights)
    _fill(pairs, weights)
    n_latents, n_features = weights["W_dec"].shape
    ours = sae.Matryoshka(
        n_features=n_features, n_latents=n_latents, k=6, prefixes=[16, 48], weights=level_weights
    )
    ours.load_state_dict(ours.state_dict() | weights)
    loss = share * ours.loss_terms(x, x).terms["mse"]
    _same_gradients(ours, loss, theirs.loss(x, step=0), pairs)


def test_dictionary_learning_jumprelu_loss(trainer: Callable, weights: Weights, x: Tensor) -> None:
    """The loss is the same; so is its gradient but for thresholds, whose window it halves."""
    theirs = trainer(
        "jumprelu", "JumpReluTrainer", bandwidth=0.4, target_l0=5.0, sparsity_penalty=0.7
    )
    weights |= {"threshold": 0.5 + 0.5 * torch.rand(96)}
    pairs = _named(theirs.ae, weights)
    _fill(pairs, weights)
    settings = {"target_l0": 5, "l0_coefficient": 0.7, "bandwidth": 0.4, "pre_bias": False}
    ours = _ours(sae.JumpReLU, weights, **settings)
    terms = ours.loss_terms(x, x).terms
    of_theirs = theirs.loss(x, step=N_STEPS - 1)
    threshold = pairs.pop("threshold")
    _same_gradients(ours, terms["mse"] + terms["l0"], of_theirs, pairs)
    # By the error alone thresholds learn the same.
    theirs.sparsity_coefficient = 0.0
    _same_gradients(
        ours,
        ours.loss_terms(x, x).terms["mse"],
        theirs.loss(x, step=N_STEPS - 1),
        pairs | {"threshold": threshold},
    )


def test_dictionary_learning_gated_loss(trainer: Callable, weights: Weights, x: Tensor) -> None:
    theirs = trainer("gdm", "GatedSAETrainer", l1_penalty=0.3)
    model = theirs.ae
    weights |= {"r_mag": 0.3 * torch.randn(96), "b_mag": 0.3 * torch.randn(96)}
    pairs = {
        "W_enc": (model.encoder.weight, True),
        "b_enc": (model.gate_bias, False),
        "W_dec": (model.decoder.weight, True),
        "b_dec": (model.decoder_bias, False),
        "r_mag": (model.r_mag, False),
        "b_mag": (model.mag_bias, False),
    }
    _fill(pairs, weights)
    ours = _ours(sae.Gated, weights, l1_coefficient=0.3)
    loss = torch.stack(list(ours.loss_terms(x, x).terms.values())).sum()
    _same_gradients(ours, loss, theirs.loss(x, step=N_STEPS - 1), pairs)


@pytest.mark.parametrize(
    ("variant", "name"),
    [("unit_norm", "StandardTrainer"), ("decoder_norm", "StandardTrainerAprilUpdate")],
)
def test_dictionary_learning_l1_losses(
    trainer: Callable, weights: Weights, x: Tensor, variant: str, name: str
) -> None:
    if variant == "decoder_norm":
        weights["W_dec"] *= torch.linspace(0.1, 2.0, 96)[:, None]
    theirs = trainer("standard", name, l1_penalty=0.3)
    pairs = _linear(theirs.ae, "bias")
    _fill(pairs, weights)
    ours = _ours(sae.ReLU, weights, l1_coefficient=0.3, variant=variant)
    terms = ours.loss_terms(x, x).terms
    _same_gradients(ours, terms["mse"] + terms["l1"], theirs.loss(x, step=N_STEPS - 1), pairs)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.ae.encode(x))


@pytest.fixture
def lens(sae_lens: ModuleType, weights: Weights) -> Callable:
    """Return a function that makes a training module of SAELens for the common shapes."""
    n_latents, n_features = weights["W_dec"].shape

    def make(module: str, name: str, **settings):
        found = import_module(f"sae_lens.saes.{module}")
        config = getattr(found, f"{name}Config")(
            d_in=n_features, d_sae=n_latents, device="cpu", **settings
        )
        return getattr(found, name)(config)

    return make


def _lens_losses(model, x: Tensor, dead: Tensor | None = None, **coefficients: float) -> Weights:
    from sae_lens.saes.sae import TrainStepInput

    step = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=dead,
        n_training_steps=0, is_logging_step=False,
    )  # fmt: skip
    output = model.training_forward_pass(step)
    return {**output.losses, "total": output.loss}


@pytest.mark.parametrize("k", [6, 2.5])
@pytest.mark.parametrize("shape", [(36, 24), (4, 9, 24)], ids=["rows", "sequences"])
def test_sae_lens_batch_topk(
    lens: Callable, weights: Weights, x: Tensor, shape: tuple[int, ...], k: float
) -> None:
    """Codes over all leading axes with a k that is no integer, the loss, and its gradients."""
    theirs = lens("batchtopk_sae", "BatchTopKTrainingSAE", k=k, rescale_acts_by_decoder_norm=False)
    pairs = _named(theirs, weights)
    _fill(pairs, weights)
    ours = _ours(sae.BatchTopK, weights, k=k)
    rows = x[:36].reshape(shape)
    torch.testing.assert_close(ours.encode(rows).to_dense(), theirs.encode(rows))
    loss = ours.loss_terms(x[:36], x[:36]).terms["mse"]
    _same_gradients(ours, loss, _lens_losses(theirs, x[:36])["mse_loss"], pairs)


@pytest.mark.parametrize("n_dead", [5, 32], ids=["few_dead", "many_dead"])
def test_sae_lens_auxk(lens: Callable, weights: Weights, x: Tensor, n_dead: int) -> None:
    """It weighs AuxK less while fewer than d / 2 = 12 latents are dead, and has no ReLU there."""
    dead = torch.arange(96) < n_dead
    weights["b_enc"][~dead] += 12.0  # the living are chosen,
    weights["b_enc"][dead] += 6.0  # the dead are positive
    theirs = lens("topk_sae", "TopKTrainingSAE", k=6, rescale_acts_by_decoder_norm=False)
    pairs = _named(theirs, weights)
    _fill(pairs, weights)
    ours = _ours(sae.TopK, weights, k=6, aux_coefficient=1.0)
    auxk = min(n_dead / 12, 1.0) * ours.loss_terms(x, x, dead_latents=dead).terms["auxk"]
    del pairs["b_dec"]  # theirs reaches it through the input of the encoder; in ours e is fixed
    _same_gradients(
        ours, auxk, _lens_losses(theirs, x, dead)["auxiliary_reconstruction_loss"], pairs
    )


def test_sae_lens_matryoshka(lens: Callable, weights: Weights, x: Tensor) -> None:
    """It adds up the errors of the levels, as the paper does; ours is their mean."""
    theirs = lens(
        "matryoshka_batchtopk_sae", "MatryoshkaBatchTopKTrainingSAE", k=6,
        matryoshka_widths=[16, 48, 96], rescale_acts_by_decoder_norm=False,
    )  # fmt: skip
    pairs = _named(theirs, weights)
    _fill(pairs, weights)
    ours = _ours(sae.Matryoshka, weights, k=6, prefixes=[16, 48])
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x))
    loss = 3 * ours.loss_terms(x, x).terms["mse"]
    _same_gradients(ours, loss, _lens_losses(theirs, x)["total"], pairs)


def test_sae_lens_jumprelu(lens: Callable, weights: Weights, x: Tensor) -> None:
    """The penalty on L0: values, and gradients with those of the thresholds."""
    theirs = lens("jumprelu_sae", "JumpReLUTrainingSAE", jumprelu_bandwidth=0.4)
    weights |= {"threshold": 0.5 + 0.5 * torch.rand(96)}
    pairs = _named(theirs, weights)
    _fill(pairs, weights)
    settings = {"target_l0": None, "l0_coefficient": 0.7, "bandwidth": 0.4}
    ours = _ours(sae.JumpReLU, weights, **settings)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x))
    terms = ours.loss_terms(x, x).terms
    found = _lens_losses(theirs, x, l0=0.7)
    torch.testing.assert_close(terms["l0"], found["l0_loss"])
    _same_gradients(ours, terms["mse"] + terms["l0"], found["total"], pairs)


def test_sae_lens_gated(lens: Callable, weights: Weights, x: Tensor) -> None:
    """Codes, error and penalty; its auxiliary error lets the decoder learn, which ours does not."""
    theirs = lens("gated_sae", "GatedTrainingSAE")
    weights |= {"r_mag": 0.3 * torch.randn(96), "b_mag": 0.3 * torch.randn(96)}
    pairs = _named(theirs, weights, b_enc="b_gate")
    _fill(pairs, weights)
    ours = _ours(sae.Gated, weights, l1_coefficient=0.3)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x), rtol=1e-4, atol=1e-5)
    terms, found = ours.loss_terms(x, x).terms, _lens_losses(theirs, x, l1=0.3)
    _same_gradients(ours, terms["mse"], found["mse_loss"], pairs)
    torch.testing.assert_close(terms["aux"], found["auxiliary_reconstruction_loss"])
    rest = {name: pair for name, pair in pairs.items() if name != "W_dec"}  # weighed by its norm
    _same_gradients(ours, terms["l1"], found["l1_loss"], rest)


def test_sae_lens_l1(lens: Callable, weights: Weights, x: Tensor) -> None:
    weights["W_dec"] *= torch.linspace(0.1, 2.0, 96)[:, None]
    theirs = lens("standard_sae", "StandardTrainingSAE")
    pairs = _named(theirs, weights)
    _fill(pairs, weights)
    ours = _ours(sae.ReLU, weights, l1_coefficient=0.3)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x))
    terms = ours.loss_terms(x, x).terms
    _same_gradients(
        ours, terms["mse"] + terms["l1"], _lens_losses(theirs, x, l1=0.3)["total"], pairs
    )


def _sparsify(module: ModuleType, weights: Weights, **config) -> tuple[torch.nn.Module, Pairs]:
    n_latents, n_features = weights["W_dec"].shape
    coder = module.SparseCoder(
        n_features, module.SparseCoderConfig(num_latents=n_latents, k=6, **config)
    )
    pairs = {
        "W_enc": (coder.encoder.weight, True),
        "b_enc": (coder.encoder.bias, False),
        "W_dec": (coder.W_dec, False),
        "b_dec": (coder.b_dec, False),
    }
    _fill(pairs, weights)
    return coder, pairs


def test_sparsify_multi_topk(sparsify: ModuleType, weights: Weights, x: Tensor) -> None:
    """Values, over the variance of the batch; its encoder learns nothing from the larger code."""
    coder, pairs = _sparsify(sparsify, weights, multi_topk=True)
    ours = _ours(sae.MultiTopK, weights, k=6, multiple=4, multiple_weight=1 / 8)
    variance = (x - x.mean(0)).square().sum() / len(x)
    found, terms = coder(x), ours.loss_terms(x, x).terms
    _same_gradients(ours, terms["mse"] / variance, found.fvu, pairs)
    of_decoder = {"W_dec": pairs["W_dec"]}
    _same_gradients(ours, terms["multi"] / variance, found.multi_topk_fvu / 8, of_decoder)


@pytest.mark.parametrize("n_dead", [5, 32], ids=["few_dead", "many_dead"])
def test_sparsify_auxk(sparsify: ModuleType, weights: Weights, x: Tensor, n_dead: int) -> None:
    """Values, over the variance of the batch and less while few are dead; gradients of rows."""
    dead = torch.arange(96) < n_dead
    weights["b_enc"][dead] -= 3.0
    coder, pairs = _sparsify(sparsify, weights)
    ours = _ours(sae.TopK, weights, k=6, aux_coefficient=1.0)
    variance = (x - x.mean(0)).square().sum() / len(x)
    auxk = min(n_dead / 12, 1.0) * ours.loss_terms(x, x, dead_latents=dead).terms["auxk"]
    of_decoder = {"W_dec": pairs["W_dec"]}
    _same_gradients(ours, auxk / variance, coder(x, dead_mask=dead).auxk_loss, of_decoder)
