"""
Manifolds as latents: bilinear autoencoders
===========================================

A latent of an ordinary sparse autoencoder is a direction: a number tells how far a row goes along
it. Some things are not directions. The day of the week is a circle, and a circle lies in a plane. A
*bilinear* latent is a product of two linear maps, ``(l . x)(r . x)``, and can stand for a plane.
"""

# %% [markdown]
# Circles in planes
# -----------------
# Each row lies on a circle in one of five planes of a space of 20 dimensions, with a little noise.
# No single direction says in which plane a row lies: any direction in it is 0 for some of the
# points on the circle.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import sae
from sae.interpret import (
    dictionary_similarity,
    group_form,
    group_weights,
    latent_form,
    manifold_figure,
    probe_interactions,
)

generator = torch.Generator().manual_seed(0)
planes = torch.linalg.qr(torch.randn(20, 10, generator=generator)).Q.T.reshape(5, 2, 20)
angle = 2 * torch.pi * torch.rand(4000, generator=generator)
which = torch.randint(0, 5, (4000,), generator=generator)
points = torch.stack([angle.cos(), angle.sin()], dim=1)
x = torch.einsum("np,npd->nd", points, planes[which])
x = x + 0.02 * torch.randn(x.shape, generator=generator)

# %% [markdown]
# Training
# --------
# The model scales each row to unit norm and reconstructs the matrix ``u (x) u`` of products of its
# entries, without ever making that matrix. In the variant "mixed", a mixture of a few rows forms
# groups of latents. A penalty on the density of the latents asks each of them to be silent on most
# rows.

# %%
settings = {"n_features": 20, "n_latents": 60, "variant": "mixed", "n_mixed": 15}
config = sae.TrainConfig(batch_size=256, n_steps=800, lr=1e-2, decay_share=0.9)
models = {}
for coefficient in (0.0, 1.0):
    model = sae.Bilinear(**settings, density_coefficient=coefficient, seed=0)
    result = sae.Trainer(model, x, config).fit()
    models[coefficient] = model
    fvu, density = result.evaluation["fvu"], model.density(x).item()
    print(f"penalty {coefficient}: held-out FVU of the products {fvu:.3f}, density {density:.2f}")
    assert fvu < 0.05
sparse = models[1.0]

# %% [markdown]
# What a latent stands for
# ------------------------
# A bilinear latent is a quadratic form with one positive and one negative eigenvalue. Their
# eigenvectors span the plane that it reads. With the penalty, that is one of the five planes;
# without it, a single latent means nothing.


# %%
def agreement(form):
    """Return the least cosine between the two leading eigenvectors and the nearest plane."""
    products = torch.einsum("pid,jd->pij", planes, form.vectors[:2])
    return torch.linalg.svdvals(products).amin(1).max().item()


found = {
    coefficient: sum(agreement(latent_form(model, latent)) > 0.95 for latent in range(60))
    for coefficient, model in models.items()
}
print("latents that span a plane:", found)
assert found[1.0] > 50
assert found[0.0] < 5

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, latent in zip(axes, (0, 1, 2), strict=True):
    manifold_figure(sparse, latent_form(sparse, latent), x, ax=ax)
    ax.set(title=f"latent {latent}", aspect="equal")

# %% [markdown]
# The points of one plane lie on a circle, those of all others in the middle. Along the circle a
# latent is large at two opposite ends and small between them, so no single one of them says that
# a row lies in the plane: several latents of the same plane, turned against each other, do.

# %% [markdown]
# Groups of latents
# -----------------
# Which latents belong together says the mixture. ``group_weights`` reads it off, signs included,
# and ``group_form`` adds the forms of a group up. This finds planes without any penalty, too; the
# signs are needed.

# %%
for name, change in {"signed": lambda w: w, "unsigned": torch.abs}.items():
    forms = [group_form(models[0.0], change(group_weights(models[0.0], j))) for j in range(60)]
    in_planes = [f for f in forms if f.values[:2].square().sum() > 0.8 * f.values.square().sum()]
    print(name, sum(agreement(form) > 0.95 for form in in_planes), "of 60 groups span a plane")
    if name == "signed":
        n_signed = sum(agreement(form) > 0.95 for form in in_planes)
n_unsigned = sum(agreement(form) > 0.95 for form in in_planes)
assert n_signed > n_unsigned

# %% [markdown]
# Two runs
# --------
# Both models know the same planes. As far as spans go their dictionaries are nearly the same;
# matched latent by latent they are not, since each plane can be covered in many ways.

# %%
same_span = dictionary_similarity(models[0.0], sparse)
same_latents = dictionary_similarity(models[0.0], sparse, kind="matched")
print(f"similarity of the spans {same_span:.2f}, of matched latents {same_latents:.2f}")
assert same_span > 0.8 > same_latents

# %% [markdown]
# Latents in the order of their importance
# ----------------------------------------
# The variant "ordered" is trained for every number of first latents at once. On handwritten
# digits, its first 32 latents do better than 64 of an unordered model, at a small price for all of
# them together.

# %%
images, digit = load_digits(return_X_y=True)
images = torch.from_numpy(images - images.mean(0)).float()
train, test = images[:1400], images[1400:]
config = sae.TrainConfig(batch_size=256, n_steps=400, lr=1e-2, decay_share=0.9)
curves, sizes = {}, [1, 2, 4, 8, 16, 32, 64, 100, 128]
for variant in ("vanilla", "ordered"):
    model = sae.Bilinear(n_features=64, n_latents=128, variant=variant, seed=0)
    sae.Trainer(model, train, config).fit()
    curves[variant] = [model.reconstruction_loss(test, k=k).item() for k in sizes]
    print(variant, [f"{error:.2f}" for error in curves[variant]])
assert all(o < v for o, v in zip(curves["ordered"][:-1], curves["vanilla"][:-1], strict=True))
assert curves["ordered"][sizes.index(32)] < curves["vanilla"][sizes.index(64)]
assert curves["ordered"][-1] < 1.2 * curves["vanilla"][-1]

figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
for variant, errors in curves.items():
    ax.plot(sizes, errors, marker=".", label=variant)
ax.set(xscale="log", xlabel="first latents", ylabel="error on test images", ylim=(0, 1))
ax.legend()

# %% [markdown]
# Weights against weights
# -----------------------
# A linear probe that tells a digit from the others is a direction. How a latent treats that
# direction follows from weights alone, before any image is seen. The latents that read it most
# strongly are larger on images of that digit than on the others.

# %%
probe = LogisticRegression(C=0.01, max_iter=1000).fit(train, digit[:1400] == 0)
interactions = probe_interactions(model, torch.from_numpy(probe.coef_[0]))
strongest = int(interactions.abs().argmax())
values = model.encode(test).to_dense()[:, strongest].detach() * interactions[strongest].sign()
on_zeros = values[torch.from_numpy(digit[1400:] == 0)].mean().item()
on_others = values[torch.from_numpy(digit[1400:] != 0)].mean().item()
print(f"latent {strongest}: {on_zeros:.3f} on zeros, {on_others:.3f} on other digits")
assert on_zeros > on_others

figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
form = latent_form(model, strongest)
for ax, picture, name in zip(
    axes,
    (torch.from_numpy(probe.coef_[0]), *form.vectors),
    ("probe", *(f"eigenvalue {value:+.2f}" for value in form.values)),
    strict=True,
):
    size = picture.abs().max().item()
    ax.imshow(picture.reshape(8, 8).numpy(), cmap="RdBu", vmin=-size, vmax=size)
    ax.set(title=name, xticks=[], yticks=[])
