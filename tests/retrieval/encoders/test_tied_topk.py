import pytest
import torch
from torch import Tensor

from retrieval.encoders.tied_topk import TiedTopK


@pytest.fixture
def module() -> TiedTopK:
    made = TiedTopK(5, 24, seed=0).double()
    with torch.no_grad():
        made.b_pre.normal_()
        made.b_latent.normal_(std=0.3)
    return made


def plain_terms(
    module: TiedTopK, x: Tensor, k: int, dead: Tensor, k_aux: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms as the released code writes them, with dense codes."""
    a = (x - module.b_pre) @ module.W.t() + module.b_latent

    def decoded(activations: Tensor, kept: int) -> Tensor:
        top = activations.topk(kept, dim=1)
        z = torch.zeros_like(activations).scatter(1, top.indices, top.values).relu()
        return z @ module.W + module.b_pre

    def error(first: Tensor, second: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(first, second)

    recon = decoded(a, k)
    target = (x - recon).detach() + module.b_pre.detach()
    aux = error(decoded(a * dead, k_aux), target)
    mean = target.mean(0).expand_as(target)
    return error(x, recon), error(x, decoded(a, 4 * k)), aux / error(mean, target)


def test_terms_and_gradients_are_those_of_the_released_code(module: TiedTopK) -> None:
    x = torch.randn(8, 5, dtype=torch.float64)
    dead = torch.arange(24) % 3 == 0
    ours = module.reconstruction_terms(x, 3, dead_latents=dead, k_aux=4)
    expected = plain_terms(module, x, 3, dead, 4)
    found = (ours.k / 5, ours.wider / 5, ours.aux)
    for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(mine, theirs)
        named = dict(module.named_parameters())
        if i == 2:  # ours lets no gradient of L_aux into the bias that it explains nothing by
            named.pop("b_pre")
        parameters = list(named.values())
        pairs = zip(
            torch.autograd.grad(mine, parameters, retain_graph=True),
            torch.autograd.grad(theirs, parameters, retain_graph=True),
            strict=True,
        )
        for gradient, wanted in pairs:
            torch.testing.assert_close(gradient, wanted)


def test_codes_are_those_of_k(module: TiedTopK) -> None:
    x = torch.randn(8, 5, dtype=torch.float64)
    terms = module.reconstruction_terms(x, 3)
    assert terms.codes == module.encode(x, 3)
    assert terms.aux.item() == 0.0
    recon = module.decode(terms.codes)
    assert terms.k.item() == pytest.approx((x - recon).square().sum(1).mean().item())


def test_four_times_k_is_at_most_all(module: TiedTopK) -> None:
    x = torch.randn(8, 5, dtype=torch.float64)
    terms = module.reconstruction_terms(x, 24)
    assert terms.k.item() == terms.wider.item()
    with pytest.raises(ValueError, match=r"`k` must be an int in \[1, n_latents\]; got 25"):
        module.reconstruction_terms(x, 25)
