"""Explanations from a stand-in for a language model, over HTTP, interrupted and resumed."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

import sae
from sae.cache import as_source
from sae.interpret import ChatEndpoint, EncodedRows, LatentPages, explain
from sae.interpret.explain import detect_prompt, explain_prompt, read_explanation, read_list


@pytest.fixture(scope="module")
def pages(word_cache) -> LatentPages:
    model = sae.TopK(n_features=16, n_latents=40, k=3, seed=0)
    source = word_cache.at("encoder.layer.1")
    model.initialize(source.rows(0, 200))
    return LatentPages(EncodedRows(model, source), word_cache.vocabulary, n_top=6)


class Server:
    """Answers like a chat endpoint: a word that was marked, and where that word stands."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.headers: list[str | None] = []
        self.status: list[int] = []  # of the next answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append(self.headers["Authorization"])
                status = outer.status.pop(0) if outer.status else 200
                content = outer.answer(body["messages"][1]["content"])
                text = json.dumps({"choices": [{"message": {"content": content}}]})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode() if status != 299 else b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def answer(self, content: str) -> str:
        if not content.startswith("Explanation:"):
            words = re.findall(r"<<(.*?)>>", content)
            return f"I see.\nExplanation: {max(set(words), key=words.count)}"
        head, *passages = content.split("\n\n")
        word = head.removeprefix("Explanation: ")
        return f"Answer: {[int(word in passage) for passage in passages]}"


@pytest.fixture
def server() -> Iterator[Server]:
    stand_in = Server()
    thread = threading.Thread(target=stand_in.server.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()


def test_latents_are_explained_scored_and_kept(pages, server, tmp_path: Path) -> None:
    endpoint = ChatEndpoint(server.url, "stand-in", key="secret")
    fired = [page.latent for page in pages if len(page.examples) > 7][:3]
    found = explain(pages, endpoint.ask, tmp_path / "words.jsonl", latents=fired)
    assert [entry["latent"] for entry in found] == fired
    assert all(entry["explanation"] for entry in found)
    assert all(0 <= entry["score"] <= 1 for entry in found)
    assert max(entry["score"] for entry in found) > 0.5
    assert server.headers[0] == "Bearer secret"
    assert "secret" not in repr(endpoint)
    assert server.requests[0]["model"] == "stand-in"
    lines = (tmp_path / "words.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found


def test_an_interrupted_call_goes_on(pages, server, tmp_path: Path) -> None:
    ask, out = ChatEndpoint(server.url, "m", attempts=1).ask, tmp_path / "words.jsonl"
    latents = [page.latent for page in pages if page.examples][:3]
    whole = explain(pages, ask, tmp_path / "whole.jsonl", latents=latents)
    calls = len(server.requests)
    server.status = [200, 200, 200, 400]
    with pytest.raises(ConnectionError, match=r"gave HTTP 400 .*What was explained so far is kept"):
        explain(pages, ask, out, latents=latents)
    with out.open("a") as file:
        file.write('{"latent": 3, "expl')  # killed while it wrote
    before = len(server.requests)
    assert explain(pages, ask, out, latents=latents) == whole
    assert len(server.requests) - before < calls
    assert len(out.read_text().splitlines()) == 3


def test_explanations_of_another_autoencoder_are_not_taken(pages, tmp_path: Path) -> None:
    out = tmp_path / "words.jsonl"
    latent = next(page.latent for page in pages if page.examples)
    answer = "Explanation: a"
    (found,) = explain(pages, lambda _: answer, out, latents=[latent])
    assert found["explanation"] == "a"
    other = sae.TopK(n_features=16, n_latents=40, k=3, seed=1)
    others = LatentPages(EncodedRows(other, pages.encoded.data), pages.texts, n_top=6)
    with pytest.raises(ValueError, match="`out` must be new, or hold explanations of the same"):
        explain(others, lambda _: answer, out, latents=[latent])
    with pytest.raises(ValueError, match="`out` must be new, or hold explanations of the same"):
        explain(pages, lambda _: answer, out, latents=[latent], seed=1)


def test_a_busy_server_is_asked_again(server) -> None:
    server.status = [503, 429]
    endpoint = ChatEndpoint(server.url, "m", pause=0.01)
    assert endpoint.ask([{}, {"content": "<<a>>"}]).endswith("Explanation: a")
    assert len(server.requests) == 3
    server.status = [503] * 2
    with pytest.raises(ConnectionError, match="`url` must lead to a chat endpoint that answers; "):
        ChatEndpoint(server.url, "m", pause=0.01, attempts=2).ask([{}, {"content": "<<a>>"}])


def test_what_is_no_endpoint_is_refused(server) -> None:
    server.status = [299]
    with pytest.raises(ConnectionError, match=r"answered without choices\[0\].message.content"):
        ChatEndpoint(server.url, "m").ask([{}, {"content": "<<a>>"}])
    with pytest.raises(ValueError, match="`url` must start with http:// or https://; got 'file:"):
        ChatEndpoint("file:///etc/passwd", "m")
    with pytest.raises(ConnectionError, match="that answers"):
        ChatEndpoint("http://127.0.0.1:9", "m", attempts=1).ask([])


def test_passages_for_scoring_are_of_both_kinds_and_have_no_marks(pages, tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(messages) -> str:
        asked.append(messages[1]["content"])
        return "Explanation: x" if len(asked) % 2 else "[1]"

    latent = next(page.latent for page in pages if len(page.examples) > 7)
    (found,) = explain(pages, ask, tmp_path / "words.jsonl", latents=[latent], n_scored=2)
    assert "<<" in asked[0]
    assert "<<" not in asked[1]
    assert asked[1].count("Passage") == 4
    assert found["score"] is None  # an answer of the wrong length is no answer


def test_prompts_and_answers() -> None:
    assert read_explanation("no mark\nat all\n") == "at all"
    assert read_explanation("") == ""
    assert read_list("[1, 0] and then [0, 1]", 2) == [0, 1]
    assert read_list("[1, 0, 1]", 2) is None
    assert read_list("[1,0,1]\nExplanation of 3", 3) == [1, 0, 1]
    assert read_list("Answers:\n1, 0, 1", 3) == [1, 0, 1]
    assert read_list("[true, False]", 2) == [1, 0]
    assert explain_prompt([])[0]["role"] == "system"
    assert detect_prompt("verbs", [])[1]["content"] == "Explanation: verbs"


def test_wrong_arguments_are_refused(pages, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not JSON\n")
    with pytest.raises(ValueError, match="`out` must hold explanations, a JSON object a line"):
        explain(pages, str, bad, latents=[0])
    with pytest.raises(ValueError, match="`latents` must be an int in"):
        explain(pages, str, tmp_path / "x.jsonl", latents=[40])
    model = sae.TopK(n_features=4, n_latents=8, k=2, seed=0)
    bare = LatentPages(EncodedRows(model, as_source(torch.eye(4))), None)
    with pytest.raises(ValueError, match="`pages` must be of data with tokens to be explained"):
        explain(bare, str, tmp_path / "x.jsonl")
