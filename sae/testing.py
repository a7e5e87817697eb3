"""check_autoencoder: what every architecture must hold, ours or a user's."""

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder, ReconstructsProducts
from sae.files import load, save
from sparsecode import SparseCodes


def check_autoencoder(
    make: Callable[[], AbstractAutoencoder], *, n_rows: int = 12, seed: int = 0
) -> None:
    """Run the contract of an architecture and raise AssertionError at the first breach.

    Checks names, shapes and dtypes of weights, codes and reconstructions, input of any number of
    axes, gradients of every loss term, sparse against dense decoding, that rows are encoded
    independently of their batch, determinism, `k` at inference, that evaluation changes no
    state, copies, and (for classes named in `sae.AUTOENCODERS`) files.

    Parameters
    ----------
    make : callable without arguments
        Returns a new model of some 100 latents or fewer, the same one at each call.
    n_rows : int, default=12
    seed : int, default=0
        Of the random activations.

    Examples
    --------
    >>> import sae
    >>> check_autoencoder(lambda: sae.TopK(n_features=6, n_latents=20, k=3, seed=0))
    """
    model = make()
    rows = torch.randn(n_rows, model.row_width, generator=torch.Generator().manual_seed(seed))
    x, _ = model.input_and_target(rows)
    _check_weights(model, make())
    model.initialize(rows)
    _check_shapes_and_dtypes(model.eval(), x)
    _check_decode(model, x)
    _check_rows_are_independent(model, x)
    _check_k(model, x)
    _check_no_state_changes(model, x)
    _check_losses(model.train(), rows)
    _check_copies(model.eval(), x)
    if type(model) in AUTOENCODERS.values():
        _check_files(model, x)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _require_close(got: Tensor, want: Tensor, sentence: str) -> None:
    torch.testing.assert_close(
        got, want, rtol=1e-4, atol=1e-5, msg=lambda found: f"{sentence} {found}"
    )


def _check_weights(model: AbstractAutoencoder, again: AbstractAutoencoder) -> None:
    d, f, out = model.n_features, model.n_latents, model.n_targets or model.n_features
    shapes = {"W_enc": (d, f), "b_enc": (f,), "W_dec": (f, out), "b_dec": (out,)}
    shapes |= {"left": (f, d), "right": (f, d)}
    _require("b_dec" in model.weight_names, "`weight_names` must hold `b_dec`.")
    for name, shape in ((name, shapes[name]) for name in model.weight_names):
        got = tuple(getattr(model, name).shape)
        _require(got == shape, f"`{name}` must have shape {shape}; got {got}.")
    _require(
        type(model)(**model.config()).config() == model.config(),
        "`config()` must rebuild the model.",
    )
    for (name, first), second in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        _require(
            torch.equal(first, second),
            f"`make` must return the same model each time; `{name}` differs.",
        )
    if model.unit_norm_decoder:
        norms = torch.linalg.vector_norm(model.W_dec, dim=1)
        _require(bool((norms - 1).abs().max() < 1e-5), "rows of `W_dec` must start at unit norm.")
    storages = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    _require(len(storages) == len(set(storages)), "parameters must not share storage.")


def _check_shapes_and_dtypes(model: AbstractAutoencoder, x: Tensor) -> None:
    matrix = (model.n_features,) if isinstance(model, ReconstructsProducts) else ()
    for batch in (x, x[0], x[:0], x.reshape(2, 2, -1, model.n_features)):
        codes = model.encode(batch)
        _require(
            isinstance(codes, SparseCodes),
            f"`encode` must return SparseCodes; got {type(codes).__name__}.",
        )
        want = (*batch.shape[:-1], model.n_latents)
        _require(codes.shape == want, f"codes must have shape {want}; got {codes.shape}.")
        shape = (*batch.shape[:-1], model.n_targets or model.n_features, *matrix)
        found = model(batch).shape
        _require(found == shape, f"`forward` must return shape {shape}; got {found}.")
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        same = x.to(dtype)
        _require(model.encode(same).dtype == dtype, f"`encode` must keep {dtype}.")
        _require(model(same).dtype == dtype, f"`forward` must keep {dtype}.")
    double = copy.deepcopy(model).double()
    difference = (double(x.double()) - model(x).double()).abs().max()
    _require(
        bool(difference < 1e-4 * (1 + x.abs().max())),
        "float64 weights must give the same reconstruction.",
    )


def _check_decode(model: AbstractAutoencoder, x: Tensor) -> None:
    codes = model.encode(x)
    if isinstance(model, ReconstructsProducts):
        _check_products(model, x, codes)
        return
    dense = codes.to_dense() @ model.W_dec + model.b_dec
    sentence = "`decode` must give codes @ W_dec + b_dec."
    with warnings.catch_warnings(action="ignore"):  # of models that normalize rows
        _require_close(model.decode(codes), dense, sentence)
        _require_close(model.decode(codes.to_ragged()), dense, sentence)


def _check_products(model: AbstractAutoencoder, x: Tensor, codes: SparseCodes) -> None:
    assert isinstance(model, ReconstructsProducts)
    decoded, u = model.decode(codes), model.product_rows(x)
    inner, energy = model.product_energies(x, codes)
    torch.testing.assert_close(
        inner, torch.einsum("nde,nd,ne->n", decoded, u, u), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(energy, decoded.square().sum((-2, -1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.decode(codes.to_ragged()), decoded, rtol=1e-4, atol=1e-5)


def _check_rows_are_independent(model: AbstractAutoencoder, x: Tensor) -> None:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    whole = model.encode(x).to_dense()
    sentence = "`encode` must give a row the same code in every batch, at inference."
    _require_close(model.encode(x[order]).to_dense(), whole[order], sentence)
    alone = torch.cat([model.encode(row[None]).to_dense() for row in x])
    _require_close(alone, whole, sentence)
    _require(model.encode(x) == model.encode(x), "`encode` must be deterministic.")


def _check_k(model: AbstractAutoencoder, x: Tensor) -> None:
    if "k" not in model.config():
        return
    for k in (1, 2):
        active = model.encode(x, k=k).n_active
        _require(
            bool((active <= k).all()), f"`encode(x, k={k})` must keep at most {k} latents a row."
        )


def _check_no_state_changes(model: AbstractAutoencoder, x: Tensor) -> None:
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    model(x)
    model.encode(x)
    same = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    _require(same and torch.equal(rng, torch.get_rng_state()), "evaluation must change no state.")


def _check_losses(model: AbstractAutoencoder, rows: Tensor) -> None:
    x, target = model.input_and_target(rows)
    dead = torch.zeros(model.n_latents, dtype=torch.bool)
    dead[1::2] = True
    for progress in (0.0, 0.5, 1.0):
        model.set_progress(progress)
        losses = model.loss_terms(x, target, dead_latents=dead)
        _require(
            losses.codes.shape == (len(x), model.n_latents), "`codes` must hold one row a sample."
        )
        if losses.reconstruction is None:
            _require(losses.error is not None, "without a `reconstruction` there is an `error`.")
        else:
            _require(
                losses.reconstruction.shape == target.shape,
                "`reconstruction` must have the shape of the target.",
            )
        for name, term in losses.terms.items():
            _require(
                term.ndim == 0 and bool(torch.isfinite(term)),
                f"term `{name}` must be a finite scalar.",
            )
        model.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            _require(
                grad is not None and bool(torch.isfinite(grad).all()),
                f"`{name}` must get a finite gradient.",
            )
    model.zero_grad()


def _check_copies(model: AbstractAutoencoder, x: Tensor) -> None:
    twin = copy.deepcopy(model)
    _require(twin.encode(x) == model.encode(x), "a copy must give the same codes.")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        _require(not torch.equal(mine, theirs), f"`{name}` of a copy must have its own storage.")


def _check_files(model: AbstractAutoencoder, x: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(save(model, Path(folder) / "model"))
    _require(
        type(loaded) is type(model) and loaded.config() == model.config(),
        "files must keep the configuration.",
    )
    for name, tensor in model.state_dict().items():
        _require(
            torch.equal(loaded.state_dict()[name], tensor), f"files must keep `{name}` bit for bit."
        )
    _require(loaded.encode(x) == model.encode(x), "files must keep the codes.")
