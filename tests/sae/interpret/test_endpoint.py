"""An endpoint that is busy, away, cut off, or answers something else."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sae.interpret import ChatEndpoint

Answer = tuple[int, dict[str, str], bytes]


def said(content: object, **choice: object) -> Answer:
    body = {"choices": [{"message": {"content": content}, **choice}]}
    return 200, {}, json.dumps(body).encode()


class Server:
    """Gives the answers that it is told, one after the other."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.keys.append(self.headers["Authorization"])
                answer = outer.answers.pop(0)
                if answer is None:  # the connection ends without a word
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    stand_in = Server()
    thread = threading.Thread(target=stand_in.server.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()


@pytest.fixture
def ask(server: Server) -> Callable[[], str]:
    endpoint = ChatEndpoint(server.url, "m", key="secret", pause=0.01, attempts=3)
    return lambda: endpoint.ask([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8000", "file:///x"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ValueError, match="`url` must start with http:// or https://"):
        ChatEndpoint(url, "m")


@pytest.mark.parametrize(
    "failure",
    [
        None,
        (200, {"Content-Length": "999"}, b'{"choices'),
        (200, {}, b"\xff\xfe"),
        (529, {}, b"busy"),
        (429, {"Retry-After": "0"}, b""),
    ],
)
def test_what_may_pass_is_tried_again(
    server: Server, ask: Callable[[], str], failure: Answer | None
) -> None:
    server.answers = [failure, failure, said("words")]
    assert ask() == "words"
    server.answers = [failure] * 3
    with pytest.raises(ConnectionError, match="must lead to a chat endpoint that answers"):
        ask()


def test_the_words_of_the_server_are_passed_on(server: Server, ask: Callable[[], str]) -> None:
    told = json.dumps({"error": {"message": "context is too\nlong"}}).encode()
    server.answers = [(400, {}, told)]
    with pytest.raises(ConnectionError, match=r"gave HTTP 400 \(context is too long\)"):
        ask()
    server.answers = [(401, {}, b"no such key")]
    with pytest.raises(ConnectionError, match=r"gave HTTP 401 \(no such key\)"):
        ask()


def test_the_key_does_not_follow_a_redirection(server: Server, ask: Callable[[], str]) -> None:
    server.answers = [(302, {"Location": f"{server.url}/elsewhere"}, b"")]
    with pytest.raises(ConnectionError, match="gave HTTP 302"):
        ask()
    assert server.keys == ["Bearer secret"]


def test_only_text_is_an_answer(server: Server, ask: Callable[[], str]) -> None:
    for nothing in (None, "", [], 3):
        server.answers = [said(nothing, finish_reason="length")]
        with pytest.raises(ConnectionError, match=r"`model` must answer with text.*'length'"):
            ask()
    server.answers = [said([{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}])]
    assert ask() == "two parts"
    server.answers = [(200, {}, b"[]")]
    with pytest.raises(ConnectionError, match=r"without choices\[0\].message.content"):
        ask()
