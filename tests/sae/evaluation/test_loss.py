"""Loss recovered: against sums by hand, whatever the padding, and on a trained model."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import sae
from sae.cache.hooks import edited


@pytest.fixture
def model() -> sae.TopK:
    return sae.TopK(n_features=16, n_latents=48, k=4, seed=0)


def cross_entropy(lm: nn.Module, tokens: Tensor) -> float:
    with torch.no_grad():
        return float(lm(tokens, labels=tokens).loss)


def test_all_numbers_are_those_of_the_model_run_by_hand(gpt2_lm, model, tokens) -> None:
    found = sae.loss_recovered(gpt2_lm, tokens, "h.1", model)
    assert found["kind"] == "causal"
    assert found["n_tokens"] == 30
    assert found["l0"] <= 4
    with torch.no_grad():
        original = gpt2_lm(tokens).logits[:, :-1].log_softmax(-1)
        activations = gpt2_lm(tokens, output_hidden_states=True).hidden_states[2]
    assert found["ce_original"] == pytest.approx(cross_entropy(gpt2_lm, tokens), rel=1e-5)
    with sae.splice(gpt2_lm, "h.1", model), torch.no_grad():
        assert found["ce_reconstruction"] == pytest.approx(cross_entropy(gpt2_lm, tokens), rel=1e-5)
        changed = gpt2_lm(tokens).logits[:, :-1].log_softmax(-1)
    kl = (original.exp() * (original - changed)).sum(-1).mean()
    assert found["kl"] == pytest.approx(float(kl), rel=1e-4)
    means = {"zero": torch.zeros(16), "mean": activations.reshape(-1, 16).mean(0)}
    for name, row in means.items():
        with edited(gpt2_lm, "h.1", lambda _, y, row=row: row.expand_as(y)):
            assert found[f"ce_{name}"] == pytest.approx(cross_entropy(gpt2_lm, tokens), rel=1e-4)
    share = (found["ce_zero"] - found["ce_reconstruction"]) / (
        found["ce_zero"] - found["ce_original"]
    )
    assert found["loss_recovered"] == pytest.approx(share)


class Identity(sae.AbstractAutoencoder):
    """Reconstructs exactly: latents are the features and their negatives."""

    def __init__(self, *, n_features: int = 16) -> None:
        super().__init__(n_features, 2 * n_features)
        eye = torch.eye(n_features)
        self.W_enc, self.W_dec = (
            nn.Parameter(torch.cat([eye, -eye], 1)),
            nn.Parameter(torch.cat([eye, -eye])),
        )
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(16))

    def encode(self, x, *, k=None):
        from sparsecode import topk

        return topk((x @ self.W_enc).relu(), 2 * self.n_features)

    def loss_terms(self, x, target, *, dead_latents=None):
        raise NotImplementedError


def test_a_perfect_reconstruction_recovers_everything(gpt2_lm, tokens) -> None:
    found = sae.loss_recovered(gpt2_lm, tokens, "h.1", Identity())
    assert found["loss_recovered"] == pytest.approx(1.0, abs=1e-5)
    assert found["kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(gpt2_lm, model, tokens, side) -> None:
    rows = [tokens[0], tokens[1, :5], tokens[2, :8]]
    expected = sae.loss_recovered(gpt2_lm, rows, "h.1", model, batch_size=1)
    ids, mask = torch.zeros(3, 11, dtype=torch.int64), torch.zeros(3, 11, dtype=torch.int64)
    for row, real in enumerate(rows):
        place = slice(0, len(real)) if side == "right" else slice(11 - len(real), 11)
        ids[row, place], mask[row, place] = real, 1
    padded = {"input_ids": ids, "attention_mask": mask}
    found = sae.loss_recovered(gpt2_lm, padded, "h.1", model)
    assert found["n_tokens"] == 10 + 4 + 7
    assert expected.pop("kind") == found.pop("kind")
    assert found == pytest.approx(expected, rel=1e-4)


def test_special_tokens_keep_their_activations(gpt2_lm, model, tokens) -> None:
    framed = torch.cat([torch.zeros(3, 1, dtype=torch.int64), tokens], 1)
    with sae.splice(gpt2_lm, "h.1", model) as spliced:
        spliced.keep = framed != 0
        expected = cross_entropy(gpt2_lm, framed)
    found = sae.loss_recovered(gpt2_lm, framed, "h.1", model)
    assert found["ce_reconstruction"] == pytest.approx(expected, rel=1e-5)
    everywhere = sae.loss_recovered(gpt2_lm, framed, "h.1", model, skip_special_tokens=False)
    with sae.splice(gpt2_lm, "h.1", model):
        expected = cross_entropy(gpt2_lm, framed)
    assert everywhere["ce_reconstruction"] == pytest.approx(expected, rel=1e-5)


def test_a_mean_of_ones_own(gpt2_lm, model, tokens) -> None:
    row = torch.full((16,), 0.5, dtype=torch.float64)
    found = sae.loss_recovered(gpt2_lm, tokens, "h.1", model, mean=row)
    with edited(gpt2_lm, "h.1", lambda _, y: row.float().expand_as(y)):
        assert found["ce_mean"] == pytest.approx(cross_entropy(gpt2_lm, tokens), rel=1e-5)


def test_masked_models_and_encoders_are_compared_by_cosine(bert_lm, model, tokens) -> None:
    found = sae.loss_recovered(bert_lm, tokens, "encoder.layer.0", model)
    assert found["kind"] == "masked"
    assert found["n_tokens"] == 33
    assert found["kl"] > 0
    assert -1 <= found["cosine_reconstruction"] < 1
    assert "ce_original" not in found
    body = sae.loss_recovered(bert_lm.bert, tokens, "encoder.layer.0", model)
    assert body["kind"] == "encoder"
    assert "kl" not in body
    with torch.no_grad():
        before = bert_lm.bert(tokens).last_hidden_state
        with sae.splice(bert_lm.bert, "encoder.layer.0", model):
            after = bert_lm.bert(tokens).last_hidden_state
    cosine = nn.functional.cosine_similarity(before, after, dim=-1).mean()
    assert body["cosine_reconstruction"] == pytest.approx(float(cosine), rel=1e-5)
    perfect = sae.loss_recovered(bert_lm, tokens, "encoder.layer.0", Identity())
    assert perfect["cosine_recovered"] == pytest.approx(1.0, abs=1e-5)


def hidden_by_hand(ids: list[int], share: float, seed: int = 0) -> list[int]:
    """The positions of the documented choice: a generator seeded by `seed` and the context."""
    generator = np.random.default_rng([seed, *ids])
    return sorted(generator.choice(len(ids), max(1, round(share * len(ids))), replace=False))


def masked_loss(lm: nn.Module, rows: list[list[int]], share: float) -> float:
    """The cross-entropy that transformers computes itself, by its labels of -100."""
    total = count = 0.0
    for ids in rows:
        labels = torch.full((1, len(ids)), -100)
        hidden = torch.tensor([ids])
        for place in hidden_by_hand(ids, share):
            labels[0, place], hidden[0, place] = ids[place], MASK
        with torch.no_grad():
            n_hidden = int((labels >= 0).sum())
            total += n_hidden * float(lm(hidden, labels=labels).loss)
            count += n_hidden
    return total / count


MASK = 5


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_a_masked_model_predicts_what_was_hidden(bert_lm, model, share) -> None:
    rows = [list(range(6, 17)), [20, 21, 22, 23, 24], list(range(30, 38))]
    found = sae.loss_recovered(
        bert_lm, rows, "encoder.layer.0", model, mask_token_id=MASK, mask_share=share
    )
    n_masked = sum(len(hidden_by_hand(ids, share)) for ids in rows)
    assert (found["kind"], found["n_tokens"], found["n_masked"]) == ("masked", 24, n_masked)
    assert found["ce_original"] == pytest.approx(masked_loss(bert_lm, rows, share), rel=1e-5)
    with sae.splice(bert_lm, "encoder.layer.0", model):
        expected = masked_loss(bert_lm, rows, share)
    assert found["ce_reconstruction"] == pytest.approx(expected, rel=1e-5)
    with edited(bert_lm, "encoder.layer.0", lambda _, y: torch.zeros_like(y)):
        assert found["ce_zero"] == pytest.approx(masked_loss(bert_lm, rows, share), rel=1e-5)
    assert found["cosine_reconstruction"] < 1
    assert found["kl"] > 0

    again = sae.loss_recovered(
        bert_lm, rows[::-1], "encoder.layer.0", model, mask_token_id=MASK, mask_share=share,
        batch_size=1,
    )  # fmt: skip
    assert again.pop("kind") == found.pop("kind")
    assert again == pytest.approx(found, rel=1e-4)  # a share divides two small differences


def test_special_tokens_are_not_hidden_and_nothing_is_without_a_mask(bert_lm, model) -> None:
    framed = [[2, 20, 3], [2, 3]]
    found = sae.loss_recovered(bert_lm, framed, "encoder.layer.0", model, mask_token_id=MASK)
    assert found["n_masked"] == 1  # 20, though a share of 0.15 of one token is none
    for options in ({}, {"mask_token_id": MASK, "mask_share": 0.0}):
        without = sae.loss_recovered(bert_lm, framed, "encoder.layer.0", model, **options)
        assert "ce_original" not in without
        assert "n_masked" not in without


def test_a_perfect_reconstruction_recovers_masked_tokens(bert_lm, tokens) -> None:
    found = sae.loss_recovered(
        bert_lm, tokens, "encoder.layer.0", Identity(), mask_token_id=MASK, mask_share=0.5
    )
    assert found["loss_recovered"] == pytest.approx(1.0, abs=1e-4)
    assert found["cosine_recovered"] == pytest.approx(1.0, abs=1e-5)


def test_another_seed_hides_others(bert_lm, model, tokens) -> None:
    def loss(seed: int) -> float:
        options = {"mask_token_id": MASK, "seed": seed}
        return sae.loss_recovered(bert_lm, tokens, "encoder.layer.0", model, **options)[
            "ce_original"
        ]

    assert loss(0) == loss(0) != loss(1)


def test_a_tokenizer_says_which_token_hides(bert_folder, tmp_path) -> None:
    """The folder's tokenizer has no mask token; with one, nothing else needs to be said."""
    from transformers import BertForMaskedLM, PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast.from_pretrained(bert_folder)
    words.mask_token = "[UNK]"
    config = transformers.AutoConfig.from_pretrained(bert_folder)
    lm = BertForMaskedLM(config).eval()
    lm.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = sae.TopK(n_features=config.hidden_size, n_latents=48, k=4, seed=0)
    texts = ["the king ' s cat sat on a mat .", "the kingdom , the cat , the mat ."]
    found = sae.loss_recovered(tmp_path, texts, "encoder.layer.0", model)
    assert found["kind"] == "masked"
    assert found["n_masked"] == 4  # of 10 and of 10 pieces
    assert found["ce_original"] > 0
    named = sae.loss_recovered(
        lm, texts, "encoder.layer.0", model, tokenizer=words, mask_token_id=1
    )
    assert named == found


def test_logits_beside_a_head_of_sentences(bert_lm, model, tokens) -> None:
    from transformers import BertForPreTraining

    lm = BertForPreTraining(bert_lm.config).eval()
    lm.bert.load_state_dict(bert_lm.bert.state_dict(), strict=False)
    lm.cls.predictions.load_state_dict(bert_lm.cls.predictions.state_dict())
    options = {"mask_token_id": MASK}
    expected = sae.loss_recovered(bert_lm, tokens, "encoder.layer.0", model, **options)
    found = sae.loss_recovered(lm, tokens, "encoder.layer.0", model, **options)
    assert found.pop("kind") == expected.pop("kind")
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_ablation_that_costs_nothing_has_no_share(gpt2_lm, model, tokens) -> None:
    zero = sae.TopK(n_features=16, n_latents=8, k=1, seed=0)
    found = sae.loss_recovered(gpt2_lm, torch.zeros(2, 5, dtype=torch.int64), "h.1", zero)
    assert found["loss_recovered"] is None  # all tokens are special: nothing is changed
    assert found["l0"] == 0.0


def test_a_transcoder_is_measured_at_its_output(gpt2_lm, tokens) -> None:
    model = sae.Transcoder(n_features=16, n_latents=8, k=2, seed=0)  # it predicts zeros
    found = sae.loss_recovered(gpt2_lm, tokens, "h.1.ln_2+h.1.mlp", model)
    assert found["ce_reconstruction"] == pytest.approx(found["ce_zero"])
    assert found["loss_recovered"] == pytest.approx(0.0, abs=1e-6)


def test_the_model_is_left_as_it_came(gpt2_lm, model, tokens) -> None:
    hooks = list(gpt2_lm.transformer.h[1]._forward_hooks)
    gpt2_lm.train()
    try:
        sae.loss_recovered(gpt2_lm, tokens, "h.1", model)
        assert gpt2_lm.training
        assert list(gpt2_lm.transformer.h[1]._forward_hooks) == hooks
    finally:
        gpt2_lm.eval()


def test_wrong_arguments_are_refused(gpt2_lm, model, tokens) -> None:
    with pytest.raises(ValueError, match="`kind` must be one of 'auto', 'causal'"):
        sae.loss_recovered(gpt2_lm, tokens, "h.1", model, kind="other")
    with pytest.raises(ValueError, match="`tokens` must hold a context of at least 2 tokens"):
        sae.loss_recovered(gpt2_lm, tokens[:, :1], "h.1", model)
    with pytest.raises(ValueError, match="`tokens` must hold 'input_ids' where it is a mapping"):
        sae.loss_recovered(gpt2_lm, {"ids": tokens}, "h.1", model)
    with pytest.raises(TypeError, match="`lm` must be a name, a folder or a torch module; got int"):
        sae.loss_recovered(3, tokens, "h.1", model)
    with pytest.raises(ValueError, match="`lm` must be a transformers model on the Hugging Face"):
        sae.loss_recovered("/nowhere/at/all", tokens, "h.1", model)
    with pytest.raises(ValueError, match="`mask_token_id` must be None for a model of the kind"):
        sae.loss_recovered(gpt2_lm, tokens, "h.1", model, mask_token_id=3)
    with pytest.raises(ValueError, match=r"`mask_share` must be a finite number in \[0, 1\]"):
        sae.loss_recovered(gpt2_lm, tokens, "h.1", model, mask_share=1.5)


def test_a_mask_token_outside_the_vocabulary_is_refused(bert_lm, model, tokens) -> None:
    with pytest.raises(ValueError, match=r"`mask_token_id` must be an int in \[0, 39\]; got 40"):
        sae.loss_recovered(bert_lm, tokens, "encoder.layer.0", model, mask_token_id=40)


def test_a_model_with_two_stacks_is_refused_and_its_encoder_is_not(tokens) -> None:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    lm = transformers.T5ForConditionalGeneration(config).eval()
    model = sae.TopK(n_features=16, n_latents=48, k=4, seed=0)
    with pytest.raises(TypeError, match="T5ForConditionalGeneration has an encoder and a decoder"):
        sae.loss_recovered(lm, tokens, "encoder.block.0", model)
    body = transformers.T5EncoderModel(config).eval()
    found = sae.loss_recovered(body, tokens, "encoder.block.0", model)
    assert found["kind"] == "encoder"
    assert found["cosine_reconstruction"] < 1


def test_a_model_without_an_output_is_refused(model) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Embedding(40, 16)

        def forward(self, input_ids: Tensor) -> str:
            self.inner(input_ids)
            return "nothing"

    with pytest.raises(TypeError, match="`lm` must return logits or a last hidden state"):
        sae.loss_recovered(Odd(), torch.ones(2, 4, dtype=torch.int64), "inner", model)


def test_more_latents_and_more_of_them_recover_more(sparsecode_data: Path, tmp_path: Path) -> None:
    folder = sparsecode_data.parent / "models" / "tiny-gpt2"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: a small trained causal language model")
    lines = (sparsecode_data / "wikitext_train.txt").read_text().split("\n")
    texts = [line for line in lines if len(line) > 600][:200]
    cache = sae.cache.write(
        folder, texts[:12], ["h.2"], tmp_path, context_length=128, progress=False
    )
    shares: dict[int, list[float]] = {}
    for width in (64, 256):
        for k in (2, 8, 32):
            model = sae.TopK(n_features=256, n_latents=width, k=k, seed=0)
            config = sae.TrainConfig(batch_size=256, n_steps=30, lr=2e-3, progress=False)
            sae.Trainer(model, cache, config).fit()
            found = sae.loss_recovered(folder, texts[-4:], "h.2", model, context_length=128)
            assert math.isfinite(found["kl"])
            assert found["ce_original"] < found["ce_reconstruction"] < found["ce_zero"]
            shares.setdefault(width, []).append(found["loss_recovered"])
    for values in shares.values():
        assert values == sorted(values), shares
        assert 0.5 < values[0] < values[-1] < 1, shares
    assert shares[256][-1] > shares[64][-1]
