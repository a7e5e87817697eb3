"""
Add an architecture
===================

An autoencoder of a new kind is one file with one class, and one line that names it. The trainer,
the evaluation, the files and the scikit-learn estimator then know it. Here we add one that the
library does not have, check it, and see what it is good for.

Our latents may be *negative*. A ``TopK`` autoencoder has a ReLU: it needs two latents for a
direction that occurs with either sign, such as "past" and "future". Ours keeps the k largest
*magnitudes* and their signs, so that one latent can serve both.
"""

# %% [markdown]
# The file
# --------
# In a library of your own this cell is a file, say ``abs_topk.py``; in this one it would be
# ``sae/autoencoders/abs_topk.py``. The keyword arguments of the constructor are the configuration:
# each is kept under its own name, and so finds its way into files. ``encode`` and ``loss_terms``
# must be written; ``decode``, ``forward``, ``config`` and the rest are there. ``initialize`` is
# optional: it looks at some rows before the first step.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import sae
import sparsecode
from sae.autoencoders.base import geometric_median, scale_encoder, tied_start
from sparsecode.datasets import make_sparse_data


class AbsTopK(sae.AbstractAutoencoder):
    """Keep the k pre-activations of largest magnitude, with their signs.

    Parameters
    ----------
    n_features : int
    n_latents : int
    k : int, default=32
        Latents kept in each row.
    seed : int or None, default=None
        Of the random dictionary.
    """

    unit_norm_decoder = True

    def __init__(self, *, n_features: int, n_latents: int, k: int = 32, seed: int | None = None):
        super().__init__(n_features, n_latents)
        self.k, self.seed = k, seed
        tied_start(self, seed)  # W_enc, b_enc, W_dec and b_dec

    def encode(self, x: Tensor, *, k: int | None = None) -> sparsecode.SparseCodes:
        """Return the k latents of largest magnitude of each row, the largest first."""
        x = self._checked(x)
        z = (x.to(self.W_enc.dtype) - self.b_dec) @ self.W_enc + self.b_enc
        chosen = sparsecode.topk(z.detach().abs(), self.k if k is None else k)
        return chosen.with_values(z.gather(-1, chosen.indices)).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> sae.Losses:
        """Return the squared error ``"mse"``."""
        codes = self.encode(x.to(self.W_enc.dtype))
        mse, recon = sparsecode.decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        return sae.Losses({"mse": mse}, codes.detach(), recon.detach())

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the geometric median and scale the encoder to the size of the data."""
        self.b_dec.copy_(geometric_median(sample))
        scale_encoder(self, sample, self.encode(sample))


# %% [markdown]
# The line
# --------
# The name is for files, the command line and the estimator. In the library this line stands in
# ``sae/autoencoders/__init__.py``, where the import of the class stands too.

# %%
sae.AUTOENCODERS["abs_topk"] = AbsTopK

# %% [markdown]
# The contract
# ------------
# ``check_autoencoder`` runs what every architecture must hold: shapes and dtypes, gradients of
# every loss term, sparse against dense decoding, rows that do not depend on their batch, ``k`` at
# inference, copies, and files that keep every bit. It raises at the first breach. This is the test
# of your class; add your own for what is special about it.

# %%
from sae.testing import check_autoencoder  # noqa: E402  shown where it is needed

check_autoencoder(lambda: AbsTopK(n_features=6, n_latents=20, k=3, seed=0))

model = AbsTopK(n_features=2, n_latents=2, k=1, seed=0)
with torch.no_grad():
    model.W_enc.copy_(torch.eye(2))
codes = model.encode(torch.tensor([[1.0, -3.0]]))
print(codes.indices.tolist(), codes.values.tolist())
assert codes.to_dense().tolist() == [[0.0, -3.0]]

# %% [markdown]
# A breach is told first in one sentence. Say that somebody centers the rows by the mean of their
# batch:

# %%


class Careless(AbsTopK):
    """An encoder that looks at the other rows of its batch."""

    def encode(self, x: Tensor, *, k: int | None = None) -> sparsecode.SparseCodes:
        """Center by the batch, which is the mistake."""
        rows = x.reshape(-1, x.shape[-1])
        return super().encode(x - rows.mean(0) if len(rows) else x, k=k)


sentence = ""
try:
    check_autoencoder(lambda: Careless(n_features=6, n_latents=20, k=3, seed=0))
except AssertionError as breach:
    sentence = str(breach).splitlines()[0]
print(sentence)
assert "the same code in every batch" in sentence

# %% [markdown]
# Training
# --------
# Each row is the sum of 3 out of 48 directions in 24 dimensions, with weights of either sign. Both
# models get 64 latents: enough for one a direction, not for two.

# %%
X, atoms, _ = make_sparse_data(20_000, 24, 48, k=3, noise=0.01, signed=True, seed=0)
train, heldout = X[:18_000], X[18_000:]
config = sae.TrainConfig(batch_size=512, n_steps=800, progress=False)

results = {}
for name in ("topk", "abs_topk"):
    model = sae.AUTOENCODERS[name](n_features=24, n_latents=64, k=3, seed=0)
    sae.Trainer(model, train, config).fit()
    metrics = sae.evaluate(model, heldout)
    cosines = (atoms @ model.W_dec.detach().T).abs().amax(1)
    results[name] = {"fvu": metrics["fvu"], "cosines": cosines}
    found = (cosines > 0.95).double().mean().item()
    print(f"{name}: held-out FVU {metrics['fvu']:.3f}, L0 {metrics['l0']:.1f}, found {found:.0%}")

assert results["abs_topk"]["fvu"] < 0.7 * results["topk"]["fvu"]
assert (results["abs_topk"]["cosines"] > 0.95).double().mean() > 0.8

fig, axis = plt.subplots()
bins = np.linspace(0, 1, 41)
for name, result in results.items():
    axis.hist(result["cosines"].numpy(), bins, label=name, alpha=0.6)
axis.set(xlabel="|cosine| of a direction with its nearest latent", ylabel="number of directions")
axis.legend()

# %% [markdown]
# Everything else
# ---------------
# The name is enough for the estimator, with scikit-learn's conventions around it.

# %%
estimator = sae.SparseAutoencoder(
    64, k=3, architecture="abs_topk", max_steps=100, batch_size=512, random_state=0
)
Z = estimator.fit(train.numpy()).transform(heldout.numpy())
print(Z.shape, (Z != 0).sum(1).mean())
assert (Z != 0).sum(1).max() <= 3
assert (Z < 0).any()

# %% [markdown]
# Files keep the name and the arguments, and ``sae.load`` makes the class again.

# %%
from tempfile import TemporaryDirectory  # noqa: E402

with TemporaryDirectory() as folder:
    loaded = sae.load(sae.save(model, folder))
assert type(loaded) is AbsTopK
assert loaded.encode(heldout) == model.encode(heldout)
