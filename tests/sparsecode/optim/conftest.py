"""Tests of kernels need Triton; `impl="triton"` is skipped where it cannot be installed."""

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _needs_triton(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    named = callspec is not None and callspec.params.get("impl") == "triton"
    if (named or "triton" in request.node.name) and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it has no wheel for this machine)")
