"""Addresses of endpoints; what they answer is tested with explanations."""

import pytest

from sae.interpret import ChatEndpoint


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8000", "file:///x"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ValueError, match="`url` must start with http:// or https://"):
        ChatEndpoint(url, "m")
