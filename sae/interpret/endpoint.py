"""A chat endpoint as OpenAI's, vLLM's, llama.cpp's or Ollama's: plain HTTP, no client library."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field

RETRIED = (408, 429, 500, 502, 503, 504)
Message = dict[str, str]


@dataclass(frozen=True)
class ChatEndpoint:
    """Asks a language model behind ``<url>/chat/completions``.

    Parameters
    ----------
    url : str
        Such as ``"http://localhost:8000/v1"``.
    model : str
        Its name there.
    key : str or None, default=None
        Sent as a bearer token.
    timeout : float, default=120.0
        Seconds to wait for an answer.
    attempts : int, default=4
        Times to ask before giving up, where the server is busy or away.
    pause : float, default=1.0
        Seconds before the second attempt; doubled before each further one.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    attempts: int = 4
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"`url` must start with http:// or https://; got {self.url!r}.")

    def ask(self, messages: Sequence[Message]) -> str:
        """Return the answer to a conversation.

        Parameters
        ----------
        messages : sequence of dict
            Each with ``role`` and ``content``.

        Returns
        -------
        str

        Raises
        ------
        ConnectionError
            If the server does not answer, or with something else than a chat completion.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0.0}
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            address, json.dumps(body).encode(), headers
        )
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                    return _content(json.loads(answer.read()), address)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                error.close()
                if error.code not in RETRIED:
                    break
            except (urllib.error.URLError, TimeoutError) as error:
                problem = str(getattr(error, "reason", error))
            except json.JSONDecodeError:
                problem = "no JSON"
        raise ConnectionError(
            f"`url` must lead to a chat endpoint that answers; {address} gave {problem}. "
            "What was explained so far is kept: call again to go on."
        )


def _content(answer: object, address: str) -> str:
    """Return the text of a chat completion."""
    try:
        return str(answer["choices"][0]["message"]["content"])  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        raise ConnectionError(
            f"`url` must lead to a chat endpoint; {address} answered without "
            "choices[0].message.content."
        ) from None
