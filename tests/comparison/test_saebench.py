"""SAEBench runs on our models as they are, and measures what we measure."""

import json
from types import ModuleType

import pytest
import torch
from torch import Tensor

import sae
from sae.evaluation import SAEBenchModel

HOOK = "blocks.1.hook_resid_post"


class Tokens:
    """What SAEBench's core evaluation asks of the store of activations: batches of tokens."""

    context_size, store_batch_size_prompts = 16, 4

    def __init__(self, tokens: Tensor) -> None:
        self.tokens, self.place = tokens, 0

    def reset_input_dataset(self) -> None:
        self.place = 0

    def get_batch_tokens(self, n: int) -> Tensor:
        self.place += n
        return self.tokens[self.place - n : self.place]


@pytest.fixture
def core() -> ModuleType:
    """SAEBench's core evaluation."""
    reason = "compares with SAEBench: pip install --no-deps sae-bench, and tabulate"
    return pytest.importorskip("sae_bench.evals.core.main", reason=reason, exc_type=ImportError)


@pytest.fixture
def lm() -> torch.nn.Module:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=3, d_model=24, n_ctx=16, d_head=12, n_heads=2, d_vocab=50, act_fn="gelu", seed=0,
        default_prepend_bos=False, device="cpu", initializer_range=0.4,
    )  # fmt: skip
    return HookedTransformer(config).eval()


@pytest.mark.parametrize("row_norm", ["none", "layer_norm"])
def test_the_core_evaluation_agrees_with_ours(core: ModuleType, lm, row_norm: str) -> None:
    tokens = torch.randint(1, 50, (8, 16))
    with torch.no_grad():
        rows = lm.run_with_cache(tokens)[1][HOOK].reshape(-1, 24)
    model = sae.TopK(n_features=24, n_latents=64, k=6, row_norm=row_norm, seed=0)
    config = sae.TrainConfig(batch_size=64, n_steps=60, heldout_fraction=0.0, progress=False)
    sae.Trainer(model, rows, config).fit()
    made = SAEBenchModel(model, "tiny", 1)
    _, bench, _ = core.general_utils.load_and_format_sae("ours", made, "cpu")
    assert bench is made
    assert bench.check_decoder_norms()
    assert json.loads(json.dumps(bench.cfg.to_dict()))["hook_name"] == HOOK
    wanted = core.CoreEvalConfig(
        model_name="tiny", batch_size_prompts=4, n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2, compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True, compute_kl=True, compute_ce_loss=True,
        compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
        exclude_special_tokens_from_reconstruction=False,
    )  # fmt: skip
    found, of_features = core.run_evals(bench, Tokens(tokens), lm, wanted)
    ours = sae.evaluate(model, rows, split="all")
    assert found["sparsity"]["l0"] == pytest.approx(ours["l0"], rel=1e-4)
    assert found["reconstruction_quality"]["cossim"] == pytest.approx(ours["cosine"], rel=1e-3)
    loss = sae.loss_recovered(lm, tokens, HOOK, model, kind="causal")
    theirs = found["model_performance_preservation"]
    assert theirs["ce_loss_without_sae"] == pytest.approx(loss["ce_original"], rel=1e-3)
    assert theirs["ce_loss_with_sae"] == pytest.approx(loss["ce_reconstruction"], rel=1e-3)
    assert theirs["ce_loss_with_ablation"] == pytest.approx(loss["ce_zero"], rel=1e-3)
    assert theirs["ce_loss_score"] == pytest.approx(loss["loss_recovered"], abs=2e-3)
    frequencies = torch.tensor(of_features["feature_density"])
    expected = torch.tensor(ours["firing_frequency"])
    torch.testing.assert_close(frequencies, expected.to(frequencies), rtol=1e-3, atol=1e-4)
