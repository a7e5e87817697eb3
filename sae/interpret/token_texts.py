"""Token texts: how each token of a vocabulary reads, from the way its tokenizer spells it."""

from collections.abc import Sequence

WORD_START = {"\u0120": "bytes", "\u2581": "sentencepiece"}
CLOSING = frozenset(".,;:!?')]}%\"")


def spelling_of(vocabulary: Sequence[str]) -> str:
    """Return how pieces mark words: "wordpiece", "bytes", "sentencepiece" or "plain".

    WordPiece (BERT) writes ``##`` in front of what continues a word, byte-level BPE (GPT-2) writes
    U+0120 for a space and one character for each byte, SentencePiece (T5, Llama) writes U+2581
    for a space.

    Examples
    --------
    >>> spelling_of(["play", "##ing"])
    'wordpiece'
    """
    counts = {"bytes": 0, "sentencepiece": 0, "wordpiece": 0}
    for piece in vocabulary:
        if piece[:1] in WORD_START:
            counts[WORD_START[piece[:1]]] += 1
        elif piece.startswith("##") and len(piece) > 2:
            counts["wordpiece"] += 1
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else "plain"


def token_texts(vocabulary: Sequence[str]) -> list[str]:
    """Return the text of each piece, with the space in front of it where it starts a word.

    Joining the texts of a passage gives readable text. Byte-level and SentencePiece texts are
    exact; for WordPiece, which does not keep spaces, one is put before all but continuations and
    closing punctuation.

    Parameters
    ----------
    vocabulary : sequence of str
        Pieces as the tokenizer spells them; see `Cache.vocabulary`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> "".join(token_texts(["play", "##ing", ",", "well"])).strip()
    'playing, well'
    """
    kind = spelling_of(vocabulary)
    if kind == "wordpiece":
        return [_from_wordpiece(piece) for piece in vocabulary]
    if kind == "sentencepiece":
        return [_from_sentencepiece(piece) for piece in vocabulary]
    if kind == "bytes":
        byte_of = _byte_alphabet()
        return [_from_bytes(piece, byte_of) for piece in vocabulary]
    return list(vocabulary)


def _from_wordpiece(piece: str) -> str:
    if piece.startswith("##") and len(piece) > 2:
        return piece[2:]
    return piece if piece in CLOSING else f" {piece}"


def _from_sentencepiece(piece: str) -> str:
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    if is_byte:
        try:
            return bytes([int(piece[3:5], 16)]).decode(errors="replace")
        except ValueError:
            pass
    return piece.replace("\u2581", " ")


def _from_bytes(piece: str, byte_of: dict[str, int]) -> str:
    if any(character not in byte_of for character in piece):
        return piece  # added tokens are spelled as they are
    return bytes(byte_of[character] for character in piece).decode(errors="replace")


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of the alphabet of GPT-2; most stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(256 + number): byte for number, byte in enumerate(others)}
    return alphabet
