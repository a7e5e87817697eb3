"""One sentence form for the whole library."""

import numpy as np
import pytest
import torch

from sparsecode import _checks as checks


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_ints_of_any_library_are_ints(value):
    assert checks.check_int("k", value, low=1, high=5) == 3


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: checks.check_int("k", 70000, low=1, high=65536, high_name="n_latents"),
            ValueError,
            r"^`k` must be an int in \[1, n_latents\]; got 70000 with n_latents=65536\.$",
        ),
        (
            lambda: checks.check_int("k", 0, low=1),
            ValueError,
            r"^`k` must be an int in \[1, inf\); got 0\.$",
        ),
        (lambda: checks.check_int("k", 1.0), TypeError, r"^`k` must be an int; got 1\.0\.$"),
        (lambda: checks.check_int("k", True), TypeError, "got True"),
        (lambda: checks.check_float("a", "x"), TypeError, r"^`a` must be a number; got 'x'\.$"),
        (
            lambda: checks.check_float("a", float("nan")),
            ValueError,
            "^`a` must be a finite number; got nan",
        ),
        (
            lambda: checks.check_float("a", 0, low=0, open_low=True),
            ValueError,
            r"in \(0, inf\); got 0",
        ),
        (lambda: checks.check_float("a", 2, low=0, high=1), ValueError, r"in \[0, 1\]; got 2"),
        (
            lambda: checks.check_choice("how", "x", ("a", "b")),
            ValueError,
            r"^`how` must be one of 'a', 'b'; got 'x'\.$",
        ),
        (
            lambda: checks.check_floating("x", [1.0]),
            TypeError,
            r"^`x` must be a torch\.Tensor; got list\.$",
        ),
        (
            lambda: checks.check_shape(
                "dictionary", torch.zeros(3, 5), (5, 3), ("n_latents", "n_features")
            ),
            ValueError,
            (
                r"^`dictionary` must have shape \(n_latents, n_features\) = \(5, 3\); "
                r"got \(3, 5\)\. Was it passed transposed\?$"
            ),
        ),
        (
            lambda: checks.check_finite("x", torch.tensor([[1.0], [float("nan")], [float("inf")]])),
            ValueError,
            (
                r"^`x` must be finite; got NaN or infinity; first in row 1 \(2 rows\)\. "
                r"Drop or repair those rows first\.$"
            ),
        ),
        (
            lambda: checks.check_same_device("x", torch.zeros(1), W=torch.zeros(1, device="meta")),
            ValueError,
            r"^`W` must be on the device of `x` \(cpu\); got meta\.$",
        ),
    ],
)
def test_sentences(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_finite_values_whose_sum_overflows_are_finite():
    x = torch.full((4,), 1e308, dtype=torch.float64)
    assert checks.check_finite("x", x) is x


def test_near_matches_are_offered():
    assert checks.near_matches("layer.3", ["layers.3", "head"]) == " Did you mean 'layers.3'?"
    assert checks.near_matches("zzz", ["layers.3"]) == ""
