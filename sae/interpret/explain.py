"""explain: what single latents stand for in words, by a language model, with a score."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from sae.interpret.endpoint import Message
from sae.interpret.pages import Example, LatentPage, LatentPages
from sparsecode._checks import check_int

Ask = Callable[[Sequence[Message]], str]

EXPLAIN = (
    "You interpret neurons of a language model. You are given passages on which one neuron is "
    "active; the tokens that activate it stand between << and >>. Say in one short sentence what "
    "these tokens, or what they stand in, have in common. End with a line that starts with "
    "'Explanation:'."
)
DETECT = (
    "You are given an explanation of a neuron of a language model, and numbered passages. Say for "
    "each whether the neuron is active in it. Answer with one line that holds only a JSON list of "
    "0 and 1, one for each passage, in their order."
)


def explain(
    pages: LatentPages,
    ask: Ask,
    out: str | Path,
    *,
    latents: Iterable[int] | None = None,
    n_shown: int = 8,
    n_scored: int = 5,
    seed: int = 0,
    progress: bool | None = False,
) -> list[dict[str, Any]]:
    """Let a language model explain latents, and score each explanation by detection.

    The model sees top examples of a latent and writes an explanation. It then sees passages, as
    many of the latent's own as of others on which it is silent, without marks and in random order,
    and says from the explanation alone where the latent is active: the score is its balanced
    accuracy, 0.5 for guessing. Passages that were shown for the explanation are not asked about
    where there are others.

    Parameters
    ----------
    pages : LatentPages
        Of data with tokens.
    ask : callable
        Takes messages with ``role`` and ``content``, and returns the answer; see
        `ChatEndpoint.ask`.
    out : path
        A file of JSON lines, one for each latent. Latents that it holds already are not asked
        about again, so that an interrupted call goes on.
    latents : iterable of int or None, default=None
        None explains all that fired.
    n_shown : int, default=8
        Examples in the first prompt.
    n_scored : int, default=5
        Passages of either kind in the second one.
    seed : int, default=0
        Of the choice and order of passages; each latent has its own.
    progress : bool or None, default=False
        Whether to show a progress bar; None shows it on a terminal.

    Returns
    -------
    list of dict
        The lines of `out` for these latents: ``latent``, ``explanation``, ``score`` (None where the
        answer could not be read, or there is nothing to compare with), ``answers``, and ``of``,
        which tells autoencoder, rows and settings from others.

    Raises
    ------
    ValueError
        If `pages` have no text, or `out` holds explanations of something else.

    References
    ----------
    Bills et al. (2023), "Language models can explain neurons in language models". Paulo et al.
    (2024), "Automatically Interpreting Millions of Features in Large Language Models", sec. 3
    (detection). arXiv:2410.13928. Differs from the latter in: passages on which the latent is
    silent come from examples of other latents.
    """
    from tqdm.auto import tqdm

    if pages.texts is None:
        raise ValueError("`pages` must be of data with tokens to be explained; they have none.")
    n_shown, n_scored = (
        check_int(name, value, low=1)
        for name, value in (("n_shown", n_shown), ("n_scored", n_scored))
    )
    known = {page.latent: page for page in pages}
    bounds = {"low": 0, "high": pages.encoded.n_latents - 1, "high_name": "n_latents - 1"}
    wanted = (
        [latent for latent, page in known.items() if page.examples]
        if latents is None
        else [check_int("latents", latent, **bounds) for latent in latents]
    )
    path = Path(out)
    done = read_explanations(path)
    identity = _identity(pages, n_shown, n_scored, seed)
    if any(entry.get("of") != identity for entry in done.values()):
        raise ValueError(
            f"`out` must be new, or hold explanations of the same autoencoder, rows and settings; "
            f"`{path}` holds others. Choose another file."
        )
    hidden = None if progress is None else not progress
    path.parent.mkdir(parents=True, exist_ok=True)
    bars = tqdm(wanted, desc="explain", unit="latent", disable=hidden)
    with path.open("a", encoding="utf-8") as file, bars as bar:
        for latent in bar:
            if latent not in done:
                chance = random.Random(f"{seed} {latent}")  # noqa: S311 - no secret
                silent = _silent_examples(pages, known, latent, n_scored, chance)
                found = explain_one(known[latent], silent, ask, n_shown, n_scored, chance)
                done[latent] = {**found, "of": identity}
                file.write(json.dumps(done[latent]) + "\n")
                file.flush()
    return [done[latent] for latent in wanted]


def explain_one(
    page: LatentPage,
    silent: Sequence[Example],
    ask: Ask,
    n_shown: int,
    n_scored: int,
    chance: random.Random,
) -> dict[str, Any]:
    """Return the explanation of one latent and its score.

    Parameters
    ----------
    page : LatentPage
    silent : sequence of Example
        Passages on which the latent is silent.
    ask : callable
    n_shown, n_scored : int
    chance : random.Random
    """
    found: dict[str, Any] = {"latent": page.latent, "explanation": None, "score": None}
    if not page.examples:
        return {**found, "answers": []}
    shown = page.examples[: max(1, min(n_shown, len(page.examples) - n_scored))]
    rest = page.examples[len(shown) :] or shown
    first = ask(explain_prompt(shown))
    found["explanation"] = read_explanation(first)
    own = chance.sample(rest, min(n_scored, len(rest)))
    asked = [(example, 1) for example in own] + [(example, 0) for example in silent]
    chance.shuffle(asked)
    if not silent:
        return {**found, "answers": [first]}
    second = ask(detect_prompt(found["explanation"], [example for example, _ in asked]))
    told = read_list(second, len(asked))
    if told is not None:
        truth = [is_own for _, is_own in asked]
        found["score"] = _balanced_accuracy(told, truth)
    return {**found, "answers": [first, second]}


def explain_prompt(examples: Sequence[Example]) -> list[Message]:
    """Return the messages that ask for an explanation.

    Parameters
    ----------
    examples : sequence of Example
    """
    lines = [f"Passage {i}: {_marked(example)}" for i, example in enumerate(examples, 1)]
    return _messages(EXPLAIN, "\n\n".join(lines))


def detect_prompt(explanation: str, examples: Sequence[Example]) -> list[Message]:
    """Return the messages that ask where a latent is active.

    Parameters
    ----------
    explanation : str
    examples : sequence of Example
    """
    lines = [
        f"Passage {i}: {''.join(example.tokens).strip()}" for i, example in enumerate(examples, 1)
    ]
    return _messages(DETECT, "\n\n".join([f"Explanation: {explanation}", *lines]))


def read_explanation(answer: str) -> str:
    r"""Return what follows the last "Explanation:", or the last line of an answer without one.

    Examples
    --------
    >>> read_explanation("They are all verbs.\n**Explanation:** verbs of motion.")
    'verbs of motion.'
    """
    marked = re.findall(r"explanation\W*?:\W*(\S.*)", answer, flags=re.IGNORECASE)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return (marked[-1] if marked else lines[-1] if lines else "").strip()


def read_list(answer: str, length: int) -> list[int] | None:
    """Return the last list of `length` zeros and ones in an answer; None if there is none.

    It may say true and false instead, and stand without brackets on a line of its own.

    Examples
    --------
    >>> read_list("I think [1, 0, 1].", 3), read_list("1, 0", 2), read_list("none", 3)
    ([1, 0, 1], [1, 0], None)
    """
    plain = answer.lower().replace("false", "0").replace("true", "1")
    lists = re.findall(r"\[([01,\s]*)\]", plain)
    lists = lists or re.findall(r"^[01](?:[,\s]+[01])*$", plain, flags=re.MULTILINE)
    found = [re.findall(r"[01]", part) for part in lists]
    fitting = [[int(digit) for digit in digits] for digits in found if len(digits) == length]
    return fitting[-1] if fitting else None


def read_explanations(path: Path) -> dict[int, dict[str, Any]]:
    """Return the explanations in a file by latent; a last line that was cut off is dropped.

    Parameters
    ----------
    path : Path
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        found = {entry["latent"]: entry for entry in map(json.loads, whole.splitlines())}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(
            f"`out` must hold explanations, a JSON object a line; `{path}` holds something else. "
            "Choose another file."
        ) from None
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return found


def _identity(pages: LatentPages, n_shown: int, n_scored: int, seed: int) -> str:
    """Return a digest of what explanations are of."""
    settings = [pages.encoded.data.fingerprint, pages.encoded.n_rows, n_shown, n_scored, seed]
    digest = hashlib.sha256(repr(settings).encode())
    for name, weight in sorted(pages.encoded.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _silent_examples(
    pages: LatentPages,
    known: dict[int, LatentPage],
    latent: int,
    n: int,
    chance: random.Random,
) -> list[Example]:
    """Return examples of other latents in whose passages a latent is silent."""
    others = [page for page in known.values() if page.examples and page.latent != latent]
    found: list[Example] = []
    for page in chance.sample(others, min(4 * n, len(others))):
        example = page.examples[0]
        start = example.row - example.center
        rows = torch.arange(start, start + len(example.tokens))
        if not bool(pages.encoded.values_at(torch.full_like(rows, latent), rows).any()):
            found.append(example)
        if len(found) == n:
            break
    return found


def _marked(example: Example) -> str:
    """Return a passage with the tokens between marks on which the latent is at half its height."""
    parts = []
    for token, value in zip(example.tokens, example.values, strict=True):
        word = token.strip()
        space = token[: len(token) - len(token.lstrip())]
        strong = value > 0 and value >= 0.5 * example.value and word
        parts.append(f"{space}<<{word}>>" if strong else token)
    return "".join(parts).strip()


def _messages(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _balanced_accuracy(told: Sequence[int], truth: Sequence[int]) -> float:
    shares = []
    for kind in (0, 1):
        of_kind = [said == kind for said, true in zip(told, truth, strict=True) if true == kind]
        shares.append(sum(of_kind) / len(of_kind))
    return sum(shares) / 2
