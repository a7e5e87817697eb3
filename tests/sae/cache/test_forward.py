"""Which rows a forward pass gives: outliers left out, values that are not finite refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.cache import Cache


def test_outliers_are_dropped_at_all_hookpoints(
    write: Callable[..., Cache], bert: nn.Module, tmp_path: Path
) -> None:
    # With one context in a batch, that of a single word is the one with three tokens.
    handle = bert.encoder.layer[1].register_forward_hook(
        lambda module, args, output: output * (1000 if output.shape[1] == 3 else 1)
    )
    texts = ["the cat sat", "dog", "on a red mat", "birds sang of old days"]
    try:
        whole, strict, lenient = (
            write(texts, drop_outliers=multiple, out=tmp_path / str(multiple), batch_size=1)
            for multiple in (False, True, 1e6)
        )
    finally:
        handle.remove()
    assert strict.n_rows == whole.n_rows - 1 == lenient.n_rows - 1
    assert strict.document_ids(0, strict.n_rows).unique().tolist() == [0, 2, 3]
    assert strict.n_documents == 4
    assert [c.provenance["drop_outliers"] for c in (whole, strict)] == [False, 10.0]
    assert strict.at("encoder.layer.1").statistics.norm_max < 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(
    write: Callable[..., Cache], bert: nn.Module, value: float
) -> None:
    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if output.shape[1] > 2:
            output[:, 2][ids_seen[-1][:, 2] == 9] = value
        return output

    ids_seen: list[Tensor] = []
    handles = [
        bert.embeddings.word_embeddings.register_forward_pre_hook(
            lambda m, a: ids_seen.append(a[0])
        ),
        bert.encoder.layer[1].register_forward_hook(spoil),
    ]
    texts = [[2, 4, 5, 6, 3], [2, 7, 9, 8, 3], [2, 9, 5, 5, 3]]  # position 2 of the second
    kind = "NaN" if math.isnan(value) else "an infinity"
    message = f"hookpoint 'encoder.layer.1' must be finite in float16; got {kind} in row 4 "
    try:
        with pytest.raises(ValueError, match=message + r"\(1 rows of 9\)"):
            write(texts)
    finally:
        for handle in handles:
            handle.remove()
    assert write(texts, dtype="float32").n_rows == 9  # the failed call is not in the way


def test_values_too_large_for_float16_are_refused_with_advice(
    write: Callable[..., Cache], bert: nn.Module, tmp_path: Path
) -> None:
    handle = bert.encoder.layer[0].register_forward_hook(lambda module, args, output: output * 1e6)
    try:
        with pytest.raises(ValueError, match=r'must be finite in float16; .*Use dtype="bfloat16"'):
            write()
        cache = write(dtype="bfloat16", out=tmp_path / "b")
        assert bool(torch.isfinite(cache.rows(0, cache.n_rows)).all())
    finally:
        handle.remove()
