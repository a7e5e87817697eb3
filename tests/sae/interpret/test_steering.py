"""Steering changes what it says and nothing else, and moves the output as the logit lens says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import sae
import sparsecode
from sae.cache.hooks import edited
from sae.interpret import ablate, logit_lens, steer


def seen_at(lm: Any, tokens: Tensor) -> Tensor:
    """What the second layer puts out."""
    caught: list[Tensor] = []
    hook = lm.transformer.h[1].register_forward_hook(lambda _, __, out: caught.append(out))
    try:
        with torch.no_grad():
            lm(tokens)
    finally:
        hook.remove()
    (out,) = caught
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("mode", ["add", "clamp", "scale", "zero"])
def test_only_the_chosen_latents_change(gpt2_lm, model, tokens, mode) -> None:
    before = seen_at(gpt2_lm, tokens)
    values = model.encode(before).to_dense()[..., [7, 30]]
    assert bool((values > 0).any())
    scales = torch.tensor([2.0, -1.5])
    wanted = {
        "add": values + scales,
        "clamp": scales.expand_as(values),
        "scale": values * scales,
        "zero": torch.zeros_like(values),
    }[mode]
    expected = before + (wanted - values) @ model.W_dec[[7, 30]]
    with steer(gpt2_lm, "h.1", model, [7, 30], [2.0, -1.5], mode=mode) as steered:
        found = seen_at(gpt2_lm, tokens)
    torch.testing.assert_close(found, expected)
    assert (steered.codes is None) == (mode == "add")
    torch.testing.assert_close(seen_at(gpt2_lm, tokens), before, rtol=0, atol=0)


@pytest.mark.parametrize("row_norm", ["none", "layer_norm", "unit_norm"])
@pytest.mark.parametrize("mode", ["add", "clamp", "scale", "zero"])
def test_the_change_is_that_of_the_reconstruction(gpt2_lm, tokens, row_norm, mode) -> None:
    """The same as to decode other codes and to add the error, whatever normalizes the rows."""
    model = sae.TopK(n_features=16, n_latents=48, k=4, seed=0, row_norm=row_norm)
    before = seen_at(gpt2_lm, tokens)
    latent = int(model.encode(before).indices[0, 2, 0])
    change = {
        "add": lambda dense: dense[..., latent].add_(2.0),
        "clamp": lambda dense: dense[..., latent].fill_(2.0),
        "scale": lambda dense: dense[..., latent].mul_(2.0),
        "zero": lambda dense: dense[..., latent].zero_(),
    }[mode]

    def changed(codes: sparsecode.SparseCodes) -> sparsecode.SparseCodes:
        dense = codes.to_dense()
        change(dense)
        ids = torch.arange(48).expand(dense.shape).contiguous()
        return sparsecode.SparseCodes(dense, ids, 48)

    with sae.splice(gpt2_lm, "h.1", model, error=True, change=changed):
        expected = seen_at(gpt2_lm, tokens)
    with steer(gpt2_lm, "h.1", model, latent, 2.0, mode=mode):
        found = seen_at(gpt2_lm, tokens)
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, expected)


def test_a_scale_of_one_changes_nothing_and_of_zero_ablates(gpt2_lm, model, tokens) -> None:
    before = seen_at(gpt2_lm, tokens)
    with steer(gpt2_lm, "h.1", model, 7, 1.0, mode="scale"):
        torch.testing.assert_close(seen_at(gpt2_lm, tokens), before)
    with steer(gpt2_lm, "h.1", model, 7, 0.0, mode="scale"):
        scaled = seen_at(gpt2_lm, tokens)
    with ablate(gpt2_lm, "h.1", model, 7):
        torch.testing.assert_close(seen_at(gpt2_lm, tokens), scaled)


def test_positions_and_generation(gpt2_lm, model, tokens) -> None:
    before = seen_at(gpt2_lm, tokens)
    keep = torch.zeros(3, 9, dtype=torch.bool)
    keep[:, -1] = True
    with steer(gpt2_lm, "h.1", model, 3, 5.0) as steered:
        steered.keep = keep
        found = seen_at(gpt2_lm, tokens)
    torch.testing.assert_close(found[:, :-1], before[:, :-1], rtol=0, atol=0)
    torch.testing.assert_close(found[:, -1], before[:, -1] + 5 * model.W_dec[3])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = gpt2_lm.generate(tokens, **options)
    with steer(gpt2_lm, "h.1", model, 3, 30.0):
        cached = gpt2_lm.generate(tokens, **options)
        again = gpt2_lm.generate(tokens, use_cache=False, **options)
    assert cached.tolist() == again.tolist() != plain.tolist()


@pytest.mark.parametrize("use_cache", [True, False])
def test_positions_of_a_prompt_hold_while_it_goes_on(gpt2_lm, model, tokens, use_cache) -> None:
    """All tokens that follow are steered: the same as to take the prompt's change away by hand."""
    keep = torch.zeros(3, 9, dtype=torch.bool)
    keep[:, 4:] = True
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "use_cache": use_cache}
    with steer(gpt2_lm, "h.1", model, 3, 30.0) as steered:
        steered.keep = keep
        found = gpt2_lm.generate(tokens, **options)
        again = gpt2_lm.generate(tokens, **options)  # the prompt once more
    assert found.tolist() == again.tolist()
    ids = tokens
    for _ in range(4):
        every = torch.cat([keep, keep.new_ones(3, ids.shape[1] - 9)], 1)

        def moved(_: Tensor, y: Tensor, every: Tensor = every) -> Tensor:
            return y + 30.0 * model.W_dec[3] * every[..., None]

        with edited(gpt2_lm, "h.1", moved), torch.no_grad():
            ids = torch.cat([ids, gpt2_lm(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert found.tolist() == ids.tolist()
    with steer(gpt2_lm, "h.1", model, 3, 30.0) as steered:
        steered.keep = keep
        gpt2_lm(tokens)
        with pytest.raises(ValueError, match=r"`keep` must have shape .* \(3, 7\); got \(3, 9\)"):
            gpt2_lm(tokens[:, :7])


def test_latents_and_scales_as_tensors(gpt2_lm, model, tokens) -> None:
    with steer(gpt2_lm, "h.1", model, 3, 2.0):
        expected = seen_at(gpt2_lm, tokens)
    for latent, scale in ((torch.tensor(3), torch.tensor(2.0)), (torch.tensor([3]), [2.0])):
        with steer(gpt2_lm, "h.1", model, latent, scale):
            torch.testing.assert_close(seen_at(gpt2_lm, tokens), expected, rtol=0, atol=0)


def test_a_threshold_model_with_ragged_codes_is_steered(gpt2_lm, tokens) -> None:
    model = sae.ReLU(n_features=16, n_latents=24, seed=0)
    before = seen_at(gpt2_lm, tokens)
    value = model.encode(before).to_dense()[..., 5:6]
    with steer(gpt2_lm, "h.1", model, 5, mode="zero"):
        found = seen_at(gpt2_lm, tokens)
    torch.testing.assert_close(found, before - value * model.W_dec[5])


def test_the_distribution_moves_as_the_logit_lens_says(gpt2_lm, model, tokens) -> None:
    lens = logit_lens(gpt2_lm, model, n=5)
    with torch.no_grad():
        before = gpt2_lm(tokens).logits[:, -1].log_softmax(-1)
        for latent in range(48):
            with sae.steer(gpt2_lm, "h.2", model, latent, 10.0):
                moved = gpt2_lm(tokens).logits[:, -1].log_softmax(-1) - before
            up = moved[:, lens.top_tokens[latent]].mean()
            down = moved[:, lens.bottom_tokens[latent]].mean()
            assert up > down + 1, latent


def test_a_trained_model_moves_as_the_logit_lens_says(
    sparsecode_data: Path, tmp_path: Path
) -> None:
    folder = sparsecode_data.parent / "models" / "tiny-gpt2"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: a small trained causal language model")
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lines = (sparsecode_data / "wikitext_train.txt").read_text().split("\n")
    texts = [line for line in lines if len(line) > 600][:16]
    cache = sae.cache.write(folder, texts, ["h.2"], tmp_path, context_length=64, progress=False)
    model = sae.TopK(n_features=256, n_latents=128, k=8, seed=0)
    config = sae.TrainConfig(batch_size=256, n_steps=40, lr=2e-3, progress=False)
    sae.Trainer(model, cache, config).fit()
    lens = logit_lens(lm, model, n=10)
    tokens = cache.token_ids(0, 60)[None]
    with torch.no_grad():
        before = lm(tokens).logits.log_softmax(-1)
        right = 0
        for latent in range(24):
            with sae.steer(lm, "h.2", model, latent, 20.0):
                moved = (lm(tokens).logits.log_softmax(-1) - before).mean((0, 1))
            up, down = moved[lens.top_tokens[latent]], moved[lens.bottom_tokens[latent]]
            right += int(up.mean() > down.mean())
    assert right >= 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((48,), "`latent` must be an int in [0, n_latents - 1]; got 48 with n_latents - 1=47"),
        (([],), "`latent` must be one or more different latents; got []"),
        (([3, 3],), "`latent` must be one or more different latents; got [3, 3]"),
        (([3, 4], [1.0]), "`scale` must be one number, or one for each of 2 latents; got [1.0]"),
        ((3, float("nan")), "`scale` must be a finite number"),
    ],
)
def test_wrong_latents_and_scales_are_refused(gpt2_lm, model, arguments, message) -> None:
    with (
        pytest.raises(ValueError, match=re.escape(message)),
        steer(gpt2_lm, "h.1", model, *arguments),
    ):
        pass


def test_wrong_modes_are_refused(gpt2_lm, model) -> None:
    with (
        pytest.raises(ValueError, match="`mode` must be one of 'add', 'clamp', 'scale', 'zero'"),
        steer(gpt2_lm, "h.1", model, 3, mode="double"),
    ):
        pass
