"""A chat endpoint as OpenAI's, vLLM's, llama.cpp's or Ollama's: plain HTTP, no client library."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

RETRIED = (408, 425, 429, 500, 502, 503, 504, 529)
LONGEST_WAIT = 60.0
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
        opener = urllib.request.build_opener(_NoRedirect)
        problem, wait = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(wait, self.pause * 2 ** (attempt - 1)))
            try:
                with opener.open(request, timeout=self.timeout) as answer:
                    reply = json.loads(answer.read())
            except urllib.error.HTTPError as error:
                problem, wait = f"HTTP {error.code}{_said(error)}", _wanted_pause(error)
                if error.code not in RETRIED:
                    break
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            except ValueError:  # cut short, or bytes that are no text
                problem = "no JSON"
            else:
                return _content(reply, address)
        raise ConnectionError(
            f"`url` must lead to a chat endpoint that answers; {address} gave {problem}. "
            "What was explained so far is kept: call again to go on."
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would take the key to another server."""

    def redirect_request(self, *_args: object) -> None:
        """Refuse: the redirection becomes an HTTP error."""


def _content(answer: Any, address: str) -> str:
    """Return the text of a chat completion."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ConnectionError(
            f"`url` must lead to a chat endpoint; {address} answered without "
            "choices[0].message.content."
        ) from None
    if not isinstance(content, str) or not content.strip():
        raise ConnectionError(
            f"`model` must answer with text; {address} gave {content!r}, finish_reason "
            f"{choice.get('finish_reason')!r}. Let it answer longer, or take another model."
        )
    return content


def _said(error: urllib.error.HTTPError) -> str:
    """Return the server's own words, if it has any."""
    try:
        text = error.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        error.close()
    try:
        told = json.loads(text)["error"]
        text = told["message"] if isinstance(told, dict) else told
    except (ValueError, KeyError, TypeError):
        pass
    text = " ".join(str(text).split())[:300]
    return f" ({text})" if text else ""


def _wanted_pause(error: urllib.error.HTTPError) -> float:
    """Return the seconds that the server asks to wait."""
    told = (error.headers or {}).get("Retry-After", "")
    return min(float(told), LONGEST_WAIT) if told.isdigit() else 0.0
