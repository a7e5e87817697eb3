import pytest
from tokenizers import decoders, pre_tokenizers

from sae.interpret import token_texts
from sae.interpret.token_texts import spelling_of


def test_wordpiece_reads_as_text() -> None:
    pieces = ["[CLS]", "play", "##ing", ",", "the", "king", ".", "##", "(", "x", ")"]
    assert "".join(token_texts(pieces)) == " [CLS] playing, the king. ## ( x)"


def test_byte_level_is_exact() -> None:
    pieces = ["\u0120hello", "world", "\u010a", "\u0120\u00c3\u00a9", "<|endoftext|>"]
    assert token_texts(pieces) == [" hello", "world", "\n", " \u00e9", "<|endoftext|>"]


def test_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    decoder = decoders.ByteLevel()
    texts = token_texts([*alphabet, "\u0120a"])
    assert len(alphabet) == 256
    assert texts[:-1] == [decoder.decode([piece]) for piece in alphabet]


def test_a_part_of_a_character_becomes_a_replacement_character() -> None:
    assert token_texts(["\u0120a", "\u00c3"])[1] == "\ufffd"


def test_sentencepiece_is_exact() -> None:
    pieces = ["\u2581the", "king", "<0x0A>", "<0xZZ>", "</s>"]
    assert token_texts(pieces) == [" the", "king", "\n", "<0xZZ>", "</s>"]


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        (["a", "##b"], "wordpiece"),
        (["a", "\u0120b"], "bytes"),
        (["a", "\u2581b"], "sentencepiece"),
        (["a", "b", "##"], "plain"),
        ([], "plain"),
        (["#", "##", "\u0120a", "\u0120b", "##x"], "bytes"),
    ],
)
def test_spellings(pieces: list[str], kind: str) -> None:
    assert spelling_of(pieces) == kind


def test_a_vocabulary_without_marks_stays_as_it_is() -> None:
    assert token_texts(["a", "b c"]) == ["a", "b c"]
