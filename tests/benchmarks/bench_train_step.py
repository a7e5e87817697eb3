"""One training step of a TopK autoencoder: ours, the public libraries, and the matmul alone.

A step is forward, backward, Adam, unit-norm rows and the count of the latents that fired, on one
batch of 2,048 rows (d=768, F=16,384, k=32, float32). Every library runs as its own trainer runs it,
with its own defaults apart from shape, k and the starting weights, which are the same for all.
Ratios are to ``torch.mm(x, W_enc, out=...)``: the product alone, nothing allocated.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import interleave, peak_extra, peak_resident_bytes, resident_bytes
from torch import Tensor

LR = 1e-3
SHAPE = {"n": 2048, "d": 768, "f": 16384, "k": 32}
SMOKE_SHAPE = {"n": 256, "d": 64, "f": 1024, "k": 8}
MATMUL = "encoder matmul"


@dataclass(frozen=True)
class Problem:
    """A batch and starting weights: unit rows `w` for both sides, `b_enc`; `b_dec` is zero."""

    x: Tensor
    w: Tensor
    b_enc: Tensor
    k: int
    dead: Tensor | None


@dataclass(frozen=True)
class Contender:
    """One library's step on a fixed batch."""

    step: Callable[[], object]
    loss: Callable[[], float]
    optimizers: tuple[torch.optim.Optimizer, ...] = ()

    def state_bytes(self) -> int:
        """Return the size of the optimiser's state."""
        states = [s for o in self.optimizers for s in o.state.values()]
        return sum(t.nbytes for s in states for t in s.values() if isinstance(t, Tensor))


def problem(n: int, d: int, f: int, k: int, kind: str) -> Problem:
    """Return a batch of Gaussian rows, or of rows that fire latents as unevenly as trained ones do.

    "uneven": sums of k rows of `w` whose frequencies are log-normal, plus noise.
    "auxk": Gaussian rows, a quarter of the latents dead, so that the auxiliary loss has work to do.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(f, d, generator=generator), dim=1)
    x = torch.randn(n, d, generator=generator)
    b_enc, dead = torch.zeros(f), None
    if kind == "uneven":
        frequency = torch.exp(2 * torch.randn(f, generator=generator))
        picks = torch.multinomial(frequency.expand(n, f), k, generator=generator)
        size = 1 + torch.rand(n, k, 1, generator=generator)
        x = (w[picks] * size).sum(1) + 0.02 * x
    if kind == "auxk":
        dead = torch.arange(f) % 4 == 0
        b_enc[dead] = -100.0
    return Problem(x, w, b_enc, k, dead)


def ours(p: Problem) -> Contender:
    """Return the step that ``sae.Trainer`` takes, with its default optimiser."""
    import sae
    from sparsecode.optim import RowAdam

    model = sae.TopK(n_features=p.x.shape[1], n_latents=len(p.w), k=p.k)
    with torch.no_grad():
        for target, source in (
            (model.W_enc, p.w.T), (model.W_dec, p.w), (model.b_enc, p.b_enc), (model.b_dec, 0.0)
        ):  # fmt: skip
            target.copy_(torch.as_tensor(source).expand_as(target))
    optimizer = RowAdam(model.parameter_groups(), lr=LR)
    since_fired = torch.zeros(len(p.w), dtype=torch.int64)

    def step() -> None:
        losses = model.loss_terms(p.x, p.x, dead_latents=p.dead)
        sum(losses.terms.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(len(p.x))
        since_fired[losses.codes.indices[losses.codes.values > 0]] = 0

    return Contender(step, lambda: _loss(p.x, model(p.x)), (optimizer,))


def sparsify(p: Problem) -> Contender:
    """Return the body of ``sparsify.Trainer.fit`` for one SparseCoder, with Adam, on the CPU."""
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(p.x.shape[1], SparseCoderConfig(num_latents=len(p.w), k=p.k))
    coder.encoder.weight.data.copy_(p.w)
    coder.encoder.bias.data.copy_(p.b_enc)
    coder.W_dec.data.copy_(p.w)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    since_fired = torch.zeros(len(p.w), dtype=torch.long)
    did_fire = torch.zeros(len(p.w), dtype=torch.bool)
    auxk_alpha = 0.0 if p.dead is None else 1 / 32

    def step() -> None:
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (p.x - p.x.mean(0)).pow(2).sum()
        out = coder(x=p.x, y=p.x, dead_mask=p.dead, total_variance=total_variance)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(len(p.x))
        since_fired[did_fire] = 0
        did_fire.zero_()

    return Contender(step, lambda: _loss(p.x, coder(p.x).sae_out), (optimizer,))


def sae_lens(p: Problem) -> Contender:
    """Return ``SAETrainer.step`` of SAELens."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": p.x.shape[1], "d_sae": len(p.w), "k": p.k}
    model = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, device="cpu"))
    model.W_enc.data.copy_(p.w.T)
    model.W_dec.data.copy_(p.w)
    model.b_enc.data.copy_(p.b_enc)
    trainer_config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=len(p.x), lr=LR, lr_end=LR / 10
    )
    trainer = SAETrainer(trainer_config, model, data_provider=iter(()))
    if p.dead is not None:
        trainer.n_forward_passes_since_fired[p.dead] = 1e6
    return Contender(
        lambda: trainer.step(p.x), lambda: _loss(p.x, model(p.x)), (trainer.optimizer,)
    )


def dictionary_learning(p: Problem) -> Contender:
    """Return ``TopKTrainer.update`` of dictionary_learning, after its first step."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=p.x.shape[1], dict_size=len(p.w), k=p.k,
        layer=0, lm_name="none", lr=LR, warmup_steps=0, device="cpu",
    )  # fmt: skip
    trainer.ae.decoder.weight.data.copy_(p.w.T)
    trainer.ae.encoder.weight.data.copy_(p.w)
    trainer.ae.encoder.bias.data.copy_(p.b_enc)
    if p.dead is not None:
        trainer.num_tokens_since_fired[p.dead] = 10**9
    return Contender(
        lambda: trainer.update(1, p.x), lambda: _loss(p.x, trainer.ae(p.x)), (trainer.optimizer,)
    )


LIBRARIES = {  # name -> (import package, contender)
    "sparsecode": ("sae", ours),
    "sparsify": ("sparsify", sparsify),
    "dictionary_learning": ("dictionary_learning", dictionary_learning),
    "SAELens": ("sae_lens", sae_lens),
}


def _loss(x: Tensor, y: Tensor) -> float:
    return float((y.detach() - x).pow(2).sum(1).mean())


def expected_loss(p: Problem) -> float:
    """Return the loss at the starting weights: eager, float64, row blocks."""
    w, total = p.w.double(), 0.0
    for x in p.x.double().split(256):
        values, indices = (x @ w.T + p.b_enc).topk(p.k)
        y = (values.relu().unsqueeze(2) * w[indices]).sum(1)
        total += float((y - x).pow(2).sum())
    return total / len(p.x)


def expected_descent(p: Problem, steps: int) -> list[float]:
    """Return the losses of plain autograd with projection, Adam and unit norm: dense, float64."""
    w_dec, w_enc = p.w.double().requires_grad_(), p.w.double().T.clone().requires_grad_()
    b_enc = p.b_enc.double().requires_grad_()
    b_dec = torch.zeros(p.x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w_dec, w_enc, b_enc, b_dec], lr=LR)
    x, losses = p.x.double(), []
    for _ in range(steps + 1):
        values, indices = ((x - b_dec) @ w_enc + b_enc).relu().topk(p.k)
        code = torch.zeros(len(x), len(p.w), dtype=x.dtype).scatter(1, indices, values)
        loss = (code @ w_dec + b_dec - x).pow(2).sum(1).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
            optimizer.step()
            w_dec /= w_dec.norm(dim=1, keepdim=True)
    return losses


def objection(name: str, contender: Contender, p: Problem) -> str | None:
    """Return why a contender is not the same model or does not learn as it should; None if it does.

    Its loss at the common weights must be the expected one. On a small problem three steps must
    descend as plain autograd does; SAELens, which lets decoder norms drift, must descend.
    """
    expected, start = expected_loss(p), contender.loss()
    if abs(start / expected - 1) > 1e-4:
        return f"loss {start:.6g} at the common weights, expected {expected:.6g}"
    small = problem(**SMOKE_SHAPE, kind="gaussian")
    learner = LIBRARIES[name][1](small)
    first, *_, last = expected_descent(small, 3)
    for _ in range(3):
        learner.step()
    share = (first - learner.loss()) / (first - last)
    low, high = (0.0, 2.0) if name == "SAELens" else (0.97, 1.03)
    return None if low < share < high else f"3 steps descend {share:.3g} of what they should"


def peak(name: str, shape: dict, kind: str) -> int:
    """Return the bytes that a step needs beyond batch, weights and optimiser state.

    Runs in a process of its own. A tiny problem first, so that the code of the libraries is
    loaded and not counted. Gradients and workspaces that outlive the step do count.
    """
    build = LIBRARIES[name][1]
    small = build(problem(**SMOKE_SHAPE, kind=kind))
    small.step()
    contender = build(problem(**shape, kind=kind))
    before = resident_bytes()
    for _ in range(2):
        contender.step()
    return peak_resident_bytes(contender.step) - before - contender.state_bytes()


def _case(shape: dict, kind: str, rounds: int, names: list[str], memory: bool) -> list[dict]:
    p = problem(**shape, kind=kind)
    case = " ".join(f"{key}={value}" for key, value in shape.items()) + f" {kind}"
    product = torch.empty(shape["n"], shape["f"])
    work: dict[str, Callable[[], object]] = {MATMUL: lambda: torch.mm(p.x, p.w.T, out=product)}
    missing, states = [], {}
    for name in names:
        package, build = LIBRARIES[name]
        if importlib.util.find_spec(package) is None:
            missing.append({"case": case, "name": name, "status": f"{package} is not installed"})
            continue
        contender = build(p)
        wrong = objection(name, contender, p)
        if wrong:
            missing.append({"case": case, "name": name, "status": f"WRONG: {wrong}"})
            continue
        work[name] = contender.step
        print(f"  {case}: {name} checked", flush=True)
    timings = interleave(work, baseline=MATMUL, rounds=rounds)
    for name in work:
        states[name] = {"status": "ok"}
        if memory and name != MATMUL:
            extra = peak_extra(Path(__file__), "peak", name, shape, kind)
            share = extra / (4 * shape["n"] * shape["f"])
            states[name] |= {"peak_extra_mb": extra / 1e6, "peak_share_of_NF": share}
    rows = [{"case": case, "name": n, **t.row(), **states[n]} for n, t in timings.items()]
    return rows + missing


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per library and kind of batch."""
    if device != "cpu":
        return [{"name": "all", "status": "the step is compared on the CPU"}]
    shape, rounds = (SMOKE_SHAPE, 3) if smoke else (SHAPE, 8)
    everyone = list(LIBRARIES)
    rows = _case(shape, "gaussian", rounds, everyone, memory=sys.platform == "linux")
    rows += _case(shape, "uneven", max(3, rounds // 2), everyone[:2], memory=False)
    rows += _case(shape, "auxk", 3, everyone, memory=False)
    return rows
