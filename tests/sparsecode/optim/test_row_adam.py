"""RowAdam equals dense gradients and torch.optim.Adam, a block of rows at a time."""

import copy

import pytest
import torch

import sae
from sparsecode import decode_mse, encode_topk
from sparsecode.optim import RowAdam, row_adam
from sparsecode.testing import max_new_bytes


def batches(n_steps, n_rows=40, d=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_steps, n_rows, d, generator=generator)


def new_model(**options):
    return sae.TopK(**{"n_features": 6, "n_latents": 90, "k": 4, "k_aux": 5, "seed": 0, **options})


def dead_latents():
    return torch.arange(90) % 5 == 0


def backward(model, x):
    losses = model.loss_terms(x, x, dead_latents=dead_latents())
    torch.stack(list(losses.terms.values())).sum().backward()


def train_dense(model, data, *, max_norm=None, lr=1e-2):
    """The specification: autograd, projection, torch.optim.Adam, renormalization."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for x in data:
        backward(model, x)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        with torch.no_grad():
            parallel = (model.W_dec.grad * model.W_dec).sum(1, keepdim=True)
            model.W_dec.grad -= parallel * model.W_dec
            optimizer.step()
            model.W_dec /= torch.linalg.vector_norm(model.W_dec, dim=1, keepdim=True)
        optimizer.zero_grad()
    return model


def train_rows(model, data, *, max_norm=None, lr=1e-2):
    optimizer = RowAdam(model.parameter_groups(), lr=lr)
    for x in data:
        backward(model, x)
        if max_norm is not None:
            optimizer.clip_grad_norm_(max_norm)
        optimizer.step()
        optimizer.zero_grad()
    optimizer.release()
    return model


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("block_entries", [6, 13 * 6, 1 << 20])
def test_equals_dense_gradients_with_torch_adam(monkeypatch, block_entries, max_norm):
    monkeypatch.setattr(row_adam, "BLOCK_ENTRIES", block_entries)
    data = batches(25)
    ours, theirs = (
        train_rows(new_model(), data, max_norm=max_norm),
        train_dense(new_model(), data, max_norm=max_norm),
    )
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=1e-4, atol=2e-6)


def test_tied_weights_train_too():
    data = batches(10)
    ours = sae.KSparse(n_features=6, n_latents=50, k=4, seed=0)
    theirs = copy.deepcopy(ours)
    optimizers = [
        RowAdam(ours.parameter_groups(), lr=1e-2),
        torch.optim.Adam(theirs.parameters(), lr=1e-2),
    ]
    for x in data:
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model.loss_terms(x, x).terms["mse"].backward()
            optimizer.step()
            optimizer.zero_grad()
    assert ours.W_enc.grad is None
    torch.testing.assert_close(ours.W_enc, theirs.W_enc, rtol=1e-4, atol=2e-6)


def test_rows_stay_at_unit_norm_and_gradients_are_orthogonal_to_them():
    model = train_rows(new_model(), batches(5), lr=0.3)
    norms = torch.linalg.vector_norm(model.W_dec.detach().double(), dim=1)
    assert float((norms - 1).abs().max()) < 1e-6


def test_a_zero_row_gives_no_nan():
    model = new_model()
    with torch.no_grad():
        model.W_dec[7] = 0.0
    train_rows(model, batches(3))
    assert bool(torch.isfinite(model.W_dec).all())


def test_accumulation_equals_the_large_batch():
    whole, parts = new_model(aux_coefficient=0.0), new_model(aux_coefficient=0.0)
    optimizers = [RowAdam(model.parameter_groups(), lr=1e-2) for model in (whole, parts)]
    for x in batches(6):
        backward(whole, x)
        for part in x.split(10):
            losses = parts.loss_terms(part, part)
            (losses.terms["mse"] * len(part) / len(x)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parameter, parts.get_parameter(name), rtol=1e-4, atol=2e-6)


def test_state_dict_continues_bit_for_bit():
    data = batches(10)
    straight = train_rows(new_model(), data)
    model = new_model()
    optimizer = RowAdam(model.parameter_groups(), lr=1e-2)
    for step, x in enumerate(data):
        if step == 5:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            model = new_model()
            model.load_state_dict(saved[0])
            optimizer = RowAdam(model.parameter_groups(), lr=1e-2)
            optimizer.load_state_dict(saved[1])
        backward(model, x)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_release_gives_autograd_its_gradients_back():
    model = train_rows(new_model(), batches(1))
    backward(model, batches(1)[0])
    assert model.W_dec.grad is not None
    assert model.W_enc.grad is not None


def test_layout_of_the_encoder_does_not_matter():
    data = batches(5)
    model = new_model()
    model.W_enc = torch.nn.Parameter(model.W_enc.detach().contiguous())
    train_rows(model, data)
    torch.testing.assert_close(
        model.W_enc, train_rows(new_model(), data).W_enc, rtol=1e-5, atol=1e-6
    )


def test_no_dense_gradient_is_made():
    model = sae.TopK(n_features=64, n_latents=20_000, k=4, seed=0)
    optimizer = RowAdam(model.parameter_groups(), lr=1e-3)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def step():
        model.loss_terms(x, x).terms["mse"].backward()
        optimizer.step()
        optimizer.zero_grad()

    assert max_new_bytes(step) < 0.75 * model.W_dec.numel() * 4


def test_unused_parameters_stay_as_they_are():
    W = torch.nn.Parameter(torch.eye(3))
    RowAdam([{"params": [W], "latent_dim": 0}], lr=0.1).step()
    assert torch.equal(W, torch.eye(3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "`lr` must be a finite number"),
        ({"betas": (0.9, 1.5)}, "`betas` must be a finite"),
        ({"eps": float("nan")}, "`eps` must be"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RowAdam([torch.nn.Parameter(torch.eye(2))], **options)


def tiny(**options):
    return sae.TopK(n_features=3, n_latents=7, k=2, k_aux=2, seed=0, **options)


def train_with(options, *, n_steps=3, clip=None, accumulate=1):
    """Train a tiny model, dead latents included; return its weights and the optimizer's state."""
    model = tiny()
    optimizer = RowAdam(model.parameter_groups(), lr=0.05, **options)
    for x in torch.randn(n_steps, 4, 3, generator=torch.Generator().manual_seed(0)):
        for part in x.chunk(accumulate):
            losses = model.loss_terms(part, part, dead_latents=torch.arange(7) % 3 == 0)
            torch.stack(list(losses.terms.values())).sum().backward()
        if clip is not None:
            optimizer.clip_grad_norm_(clip)
        optimizer.step()
        optimizer.zero_grad()
    state = [s[name] for s in optimizer.state.values() for name in sorted(s) if name != "step"]
    return [*model.parameters(), *state]


OPTIONS = {
    "adam": {},
    "signum": {"rule": "signum"},
    "bfloat16": {"state_dtype": torch.bfloat16, "shadow_dtype": torch.bfloat16},
    "touched": {"touched_only": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("impl", ["triton"])
def test_kernels_take_the_step_of_the_definition(impl, name):
    """Unit norm, projection, several lists, long and empty ones; state and shadow included."""
    ours = train_with(OPTIONS[name] | {"impl": impl})
    theirs = train_with(OPTIONS[name] | {"impl": "reference"})
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.dtype == yours.dtype
        loose = {"rtol": 2e-2, "atol": 1e-4} if mine.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(mine, yours, **loose or {"rtol": 1e-4, "atol": 1e-6})


@pytest.mark.parametrize(("clip", "accumulate"), [(0.1, 1), (None, 4)])
@pytest.mark.parametrize("impl", ["triton"])
def test_kernels_with_clipping_and_accumulation(impl, clip, accumulate):
    options = {"clip": clip, "accumulate": accumulate, "n_steps": 2}
    for mine, yours in zip(
        train_with({"impl": impl}, **options), train_with({}, **options), strict=True
    ):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-6)


def test_the_definition_is_torch_adam():
    for mine, yours in zip(train_with({"impl": "reference"}), train_with({}), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-6)


def test_signum_moves_every_weight_by_lr():
    W = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = RowAdam([{"params": [W], "latent_dim": 0}], lr=0.5, rule="signum")
    W.grad = torch.tensor([[1e-9, -3.0], [0.0, 2.0]])
    optimizer.step()
    assert W.tolist() == [[-0.5, 0.5], [0.0, -0.5]]
    assert "exp_avg_sq" not in optimizer.state[W]


def test_bfloat16_averages_follow_small_changes():
    """Rounded to the nearest, an average with beta 0.999 would stay where it started."""
    W = torch.nn.Parameter(torch.zeros(50, 40))
    optimizer = RowAdam([{"params": [W], "latent_dim": 0}], lr=0.0, state_dtype=torch.bfloat16)
    W.grad = torch.ones(50, 40)
    for _ in range(1000):
        optimizer.step()
    average = optimizer.state[W]["exp_avg_sq"].double().mean()
    assert abs(float(average) - (1 - 0.999**1000)) < 0.01


def test_rows_that_nothing_touched_stay():
    W = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = RowAdam([{"params": [W], "latent_dim": 0}], lr=0.5, touched_only=True)
    for _ in range(2):
        W.row_gradient.add(
            torch.tensor([2]), torch.tensor([0]), torch.tensor([1.0]), torch.ones(1, 2)
        )
        optimizer.step()
        optimizer.zero_grad()
    assert W[[0, 1, 3]].eq(1).all()
    assert not W[2].eq(1).any()
    assert not optimizer.state[W]["exp_avg"][[0, 1, 3]].any()


def test_half_precision_state_continues_bit_for_bit():
    W = torch.nn.Parameter(torch.ones(3, 5))
    options = {"state_dtype": torch.bfloat16, "shadow_dtype": torch.float16}
    optimizer = RowAdam([{"params": [W], "latent_dim": 0}], lr=0.1, **options)
    W.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    again = RowAdam([{"params": [W], "latent_dim": 0}], lr=0.1, **options)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name, value in optimizer.state[W].items():
        assert again.state[W][name].dtype == value.dtype
        assert torch.equal(again.state[W][name], value)


def test_an_implementation_that_does_not_serve_says_so():
    W = torch.nn.Parameter(torch.ones(2, 2))
    W.grad = torch.ones(2, 2)
    with pytest.raises(NotImplementedError, match="settings other than the default ones"):
        RowAdam([{"params": [W], "latent_dim": 0}], impl="cpu", rule="signum").step()
    V = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    V.grad = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="dtype float64"):
        RowAdam([{"params": [V], "latent_dim": 0}], impl="triton").step()


@pytest.mark.parametrize("impl", ["triton"])
def test_a_whole_step_in_kernels_is_the_step_of_the_fast_path(impl):
    """Encode, decode, every gradient and the update: what a GPU runs, against what a CPU runs."""
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    trained = []
    for each in (impl, "auto"):
        model = sae.TopK(n_features=5, n_latents=23, k=3, seed=0)
        optimizer = RowAdam(model.parameter_groups(), lr=0.02, impl=each)
        for batch in x:
            codes = encode_topk(batch, model.W_enc, model.b_enc, 3, pre_bias=model.b_dec, impl=each)
            loss, _ = decode_mse(codes, model.W_dec, batch, bias=model.b_dec, impl=each)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append(list(model.parameters()))
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("latent_dim", [0, 1])
@pytest.mark.parametrize("impl", ["triton"])
def test_kernels_take_dense_gradients_of_any_layout(impl, latent_dim):
    weights = []
    for each in (impl, "auto"):
        generator = torch.Generator().manual_seed(0)
        W = torch.nn.Parameter(torch.randn(5, 6, generator=generator))
        group = {"params": [W], "latent_dim": latent_dim, "unit_norm": True}
        optimizer = RowAdam([group], lr=0.1, impl=each)
        for _ in range(2):
            W.grad = torch.randn(6, 5, generator=generator).t()
            optimizer.step()
        weights.append(W.detach())
    torch.testing.assert_close(*weights)
