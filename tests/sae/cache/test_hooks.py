"""Hookpoints by glob, and a model that is left as it was found."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from sae.cache.hooks import capture, edited, hookpoint_pair, match_hookpoints


def test_patterns_match_parts_of_names_in_natural_order() -> None:
    model = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(1, 1)}) for _ in range(12)),
            "mlp": nn.Linear(1, 1),
        }
    )
    assert match_hookpoints(model, ["layers.*"]) == [f"layers.{i}" for i in range(12)]
    assert match_hookpoints(model, "layers.[2-3].mlp") == ["layers.2.mlp", "layers.3.mlp"]
    assert match_hookpoints(model, ["layers.1?", "layers.[!0-8]"]) == [
        "layers.9", "layers.10", "layers.11"
    ]  # fmt: skip
    assert len(match_hookpoints(model, ["**.mlp"])) == 12
    assert match_hookpoints(model, ["mlp", "mlp"]) == ["mlp"]


@pytest.mark.parametrize("hookpoint", ["encoder.layers.1", "encoder.layer.7", "encoder.layer.1."])
def test_an_unknown_hookpoint_is_refused_with_near_ones(bert: nn.Module, hookpoint: str) -> None:
    expected = (
        f"`hookpoints` must name modules of the BertModel; '{hookpoint}' matches none. Did you"
    )
    with pytest.raises(ValueError, match=re.escape(expected) + ".*'encoder.layer.1'"):
        match_hookpoints(bert, [hookpoint])


@pytest.mark.parametrize("hookpoints", [[], [3], ""])
def test_hookpoints_are_names(bert: nn.Module, hookpoints: Any) -> None:
    with pytest.raises(ValueError, match="`hookpoints` must"):
        match_hookpoints(bert, hookpoints)


def test_outputs_are_the_models_own_hidden_states(bert: nn.Module) -> None:
    ids = torch.randint(4, 20, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.no_grad():
        expected = bert.eval()(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    names = match_hookpoints(bert, ["encoder.layer.*"])
    with capture(bert, names) as run:
        found = run(ids, mask)
    assert list(found) == names
    for layer, name in enumerate(names):
        torch.testing.assert_close(found[name], expected[layer + 1], rtol=0, atol=0)


def test_the_model_is_not_run_behind_the_last_hook(bert: nn.Module) -> None:
    ran = []
    handle = bert.encoder.layer[2].register_forward_pre_hook(lambda *_: ran.append(2))
    try:
        with capture(bert, ["encoder.layer.0", "encoder.layer.1"]) as run:
            run(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))
    finally:
        handle.remove()
    assert ran == []


@pytest.mark.parametrize("failing", [False, True])
def test_hooks_and_training_flags_are_put_back(bert: nn.Module, failing: bool) -> None:
    bert.train()
    bert.encoder.layer[1].eval()
    flags = [module.training for module in bert.modules()]
    hooks = [list(module._forward_hooks) for module in bert.modules()]
    ids = torch.full((1, 2), 10_000 if failing else 1)  # too large an id makes the model raise
    try:
        with capture(bert, ["encoder.layer.0"]) as run:
            assert not bert.training
            run(ids, torch.ones_like(ids))
    except IndexError:
        assert failing
    assert [module.training for module in bert.modules()] == flags
    assert [list(module._forward_hooks) for module in bert.modules()] == hooks
    bert.eval()
    assert bert(torch.ones(1, 2, dtype=torch.int64)).last_hidden_state.shape == (1, 2, 16)


class Outputs(nn.Module):
    """A model whose modules put out whatever it is told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.block = Constant(output)
        self.unused = nn.Linear(1, 1)

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.block(input_ids)


class Constant(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> Any:
        return self.output


HIDDEN = torch.arange(24.0).reshape(2, 3, 4)
IDS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "output",
    [HIDDEN, (HIDDEN, None), [HIDDEN], {"last_hidden_state": HIDDEN}, {"a": HIDDEN, "b": None}],
    ids=["tensor", "tuple", "list", "hidden state", "first of dict"],
)
def test_the_hidden_state_is_found_in_the_output(output: Any) -> None:
    with capture(Outputs(output), ["block"]) as run:
        assert torch.equal(run(IDS, IDS)["block"], HIDDEN)


@pytest.mark.parametrize(
    ("output", "fact"),
    [
        ((None, HIDDEN), "must be a tensor or start with one; got NoneType"),
        ({}, "must be a tensor or start with one; got NoneType"),
        (HIDDEN[:, 0], r"\(batch, tokens, n_features\) = \(2, 3, any\); got .* \(2, 4\)"),
        (HIDDEN[:1], r"got .* \(1, 3, 4\)"),
        (HIDDEN.long(), "must be floating, .* got torch.int64"),
    ],
)
def test_other_outputs_are_refused(output: Any, fact: str) -> None:
    with (
        capture(Outputs(output), ["block"]) as run,
        pytest.raises(ValueError, match=f"hookpoint 'block' .*{fact}.*Choose another module"),
    ):
        run(IDS, IDS)


def test_a_module_that_does_not_run_is_refused() -> None:
    with (
        capture(Outputs(HIDDEN), ["block", "unused"]) as run,
        pytest.raises(
            ValueError, match="must be run by the model's forward pass; 'unused' was not"
        ),
    ):
        run(IDS, IDS)


def test_the_prefix_of_the_models_body_may_be_there_or_not(bert: nn.Module) -> None:
    with_head = nn.ModuleDict({bert.base_model_prefix: bert})
    with_head.base_model_prefix = bert.base_model_prefix
    assert bert.base_model_prefix == "bert"
    assert match_hookpoints(bert, ["bert.encoder.layer.1"]) == ["encoder.layer.1"]
    assert match_hookpoints(with_head, ["encoder.layer.*"])[1] == "bert.encoder.layer.1"


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "mapping"])
def test_an_edit_replaces_the_activations_in_any_form_of_output(form: str) -> None:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            if form == "mapping":
                return {"last_hidden_state": x, "other": 3}
            return {"tensor": x, "tuple": (x, 3), "list": [x, 3]}[form]

    model = nn.ModuleDict({"a": Module()})
    with edited(model, "a", lambda read, before: read + before):
        out = model["a"](torch.ones(1, 2, 4))
    kept = out if form == "tensor" else out["last_hidden_state"] if form == "mapping" else out[0]
    assert kept.tolist() == torch.full((1, 2, 4), 2.0).tolist()
    if form != "tensor":
        assert (out["other"] if form == "mapping" else out[1]) == 3
    assert not model["a"]._forward_hooks


@pytest.mark.parametrize("hookpoint", ["a+b+c", 3])
def test_a_hookpoint_is_one_or_two_names(bert: nn.Module, hookpoint: Any) -> None:
    with pytest.raises(ValueError, match="an input and an output joined by"):
        hookpoint_pair(bert, hookpoint)


def test_a_pair_of_hookpoints(bert: nn.Module) -> None:
    assert hookpoint_pair(bert, "encoder.layer.1") == ("encoder.layer.1",) * 2
    assert hookpoint_pair(bert, "bert.encoder.layer.0+encoder.layer.1") == (
        "encoder.layer.0",
        "encoder.layer.1",
    )
    with pytest.raises(ValueError, match=r"must name one module; 'encoder.layer.\*' matches 3"):
        hookpoint_pair(bert, "encoder.layer.*")
