"""The dispatch rule."""

import importlib
import logging

import pytest
import torch

import sae
from sparsecode._impl import choose_impl

x = torch.zeros(1)


def test_auto_prefers_the_fast_path_and_falls_back_to_the_reference(caplog):
    assert choose_impl("op", "auto", (x,)) == "reference"
    assert choose_impl("op", "auto", (x,), cpu=lambda: None) == "cpu"
    assert choose_impl("op", "auto", (x,), triton=lambda: None) == "reference"
    with caplog.at_level(logging.DEBUG, logger="sparsecode"):
        for _ in range(2):
            assert choose_impl("op", "auto", (x,), cpu=lambda: "odd dtype") == "reference"
    assert [record.getMessage() for record in caplog.records] == ["op: not using 'cpu': odd dtype"]


def test_a_named_implementation_never_falls_back():
    assert choose_impl("op", "reference", (x,), cpu=lambda: None) == "reference"
    assert choose_impl("op", "cpu", (x,), cpu=lambda: None) == "cpu"
    for options, fact in [
        ({}, "there is no such implementation"),
        ({"cpu": lambda: "odd dtype"}, "odd dtype"),
    ]:
        with pytest.raises(
            NotImplementedError,
            match=rf'`op\(impl="cpu"\)` is unsupported here: {fact}. Use impl="auto"',
        ):
            choose_impl("op", "cpu", (x,), **options)
    with pytest.raises(ValueError, match="`impl` must be one of"):
        choose_impl("op", "quick", (x,))


def test_kernels_know_their_devices_and_may_be_absent():
    def absent():
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    assert choose_impl("op", "triton", (x,), triton=lambda: None) == "triton"
    with pytest.raises(NotImplementedError, match=r"triton is not installed \(pip install"):
        choose_impl("op", "triton", (x,), triton=absent)
    with pytest.raises(ModuleNotFoundError, match="math2"):
        choose_impl("op", "triton", (x,), triton=lambda: importlib.import_module("math2"))


# torch's own tracer does what it warns about
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        (sae.TopK, {"k": 4}),
        (sae.HierarchicalTopK, {"k": 4}),
        (sae.KSparse, {"k": 4}),
        (sae.MultiTopK, {"k": 4}),
        (sae.BilinearTopK, {"k": 4}),
        (sae.ReLU, {}),
        (sae.Gated, {}),
        (sae.JumpReLU, {"target_l0": 4}),
    ],
)
def test_a_step_compiles_into_one_graph(architecture, options):
    model = architecture(n_features=6, n_latents=40, seed=0, **options)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))

    def loss_of(batch):
        return sum(model.loss_terms(batch, batch).terms.values())

    torch.compiler.reset()
    results = []
    for call in (torch.compile(loss_of, fullgraph=True, backend="aot_eager"), loss_of):
        model.zero_grad()
        loss = call(x)
        loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([loss.detach(), *grads])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
