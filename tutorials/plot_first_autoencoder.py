"""
A first sparse autoencoder
==========================

A sparse autoencoder explains each row of data as a sum of a few *atoms* out of many. On real
activations nobody knows the right atoms. Here we make data from atoms that we know, train on the
data alone, and look whether the atoms come back.
"""

# %% [markdown]
# Data with a known dictionary
# ----------------------------
# Each row is the sum of 3 out of 96 unit vectors in 32 dimensions, with positive weights and a
# little noise. There are three times as many atoms as dimensions, so no linear method can
# separate them.

# %%
import matplotlib.pyplot as plt
import torch

import sae
from sparsecode.datasets import make_sparse_data

X, atoms, truth = make_sparse_data(20_000, 32, 96, k=3, noise=0.01, seed=0)
train, heldout = X[:18_000], X[18_000:]
print(X.shape, atoms.shape, truth)

# %% [markdown]
# Training
# --------
# The autoencoder gets the number of active latents and more latents than there are atoms: some
# will find nothing to do. Everything else is a default.

# %%
torch.manual_seed(0)
model = sae.TopK(n_features=32, n_latents=128, k=3)
before = (atoms @ model.W_dec.detach().T).amax(1)
sae.Trainer(model, train, sae.TrainConfig(batch_size=512, n_steps=1000)).fit()

# %% [markdown]
# On rows that it has not seen, it leaves this share of the variance unexplained:

# %%
metrics = sae.evaluate(model, heldout)
print(f"held-out FVU {metrics['fvu']:.4f} with {metrics['l0']:.1f} active latents a row")
assert metrics["fvu"] < 0.15
assert metrics["l0"] <= 3

# %% [markdown]
# Did it find the atoms?
# ----------------------
# The rows of ``W_dec`` have unit norm, so their products with the atoms are cosines. For each
# atom we take its best match, before and after training.

# %%
W_dec = model.W_dec.detach()
torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(128))
after = (atoms @ W_dec.T).amax(1)
found = (after > 0.95).double().mean().item()
print(f"{found:.0%} of the atoms have a latent with cosine above 0.95")
assert before.max() < 0.95
assert found > 0.9

fig, axis = plt.subplots()
bins = torch.linspace(0, 1, 41).numpy()
axis.hist(before.numpy(), bins, label="before training", alpha=0.6)
axis.hist(after.numpy(), bins, label="after training", alpha=0.6)
axis.set(xlabel="cosine of an atom with its nearest latent", ylabel="number of atoms")
axis.legend()

# %% [markdown]
# And the codes?
# --------------
# ``encode`` gives ``SparseCodes``: three values and three indices a row, never a matrix as wide
# as the dictionary. If latents are atoms, then most latents that fire in a row should match the
# atoms that it was made from.

# %%
codes = model.encode(heldout)
print(codes)
nearest_atom = (W_dec @ atoms.T).argmax(1)
guessed = nearest_atom[codes.indices]
true = truth[18_000:].indices
right = (guessed[:, :, None] == true[:, None, :]).any(2).double().mean().item()
print(f"{right:.0%} of the active latents stand for an atom of the row")
assert right > 0.8

# %% [markdown]
# Fewer latents at inference
# --------------------------
# ``k`` can be smaller in use than in training. The largest code values come first, so that
# truncating the codes is the same as encoding with a smaller ``k``.

# %%
first = model.encode(heldout, k=1)
assert torch.equal(first.to_dense(), codes.truncate(1).to_dense())
for k in (1, 2, 3):
    residual = heldout - model.decode(model.encode(heldout, k=k))
    print(f"k={k}: mean squared residual {residual.square().sum(1).mean():.3f}")
