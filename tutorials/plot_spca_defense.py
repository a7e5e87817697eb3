"""
Sparse components against adversarial examples
==============================================

A classifier on principal components sees each image through a few directions. If every direction
depends on many pixels, a tiny change of all pixels moves it far. Sparse principal components depend
on few pixels each. Here we measure what that gives, on handwritten digits of 8 x 8 pixels: with
*certificates*, which no attack can break, and with attacks, which try.
"""

# %% [markdown]
# Dense and sparse components
# ---------------------------
# ``SparsePCA`` takes a weight ``alpha`` of the l1 norm, as scikit-learn's does, or the exact number
# of non-zero loadings of each component.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import (
    SparsePCAClassifier,
    accuracy_figure,
    adversarial_sparsity,
    robustness_report,
    worst_case_step,
)

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, y_train, X_test, y_test = X[:1200], y[:1200], X[1200:], y[1200:]

dense = PCA(20).fit(X_train)
sparse = SparsePCA(20, alpha=1.0).fit(X_train)
share = (sparse.components_ != 0).mean()
print(f"{share:.0%} of the loadings are not zero")
assert share < 0.15

figure, axes = plt.subplots(2, 6, figsize=(8, 3), layout="constrained")
for row, (name, front_end) in enumerate({"PCA": dense, "SparsePCA": sparse}.items()):
    for ax, component in zip(axes[row], front_end.components_, strict=False):
        ax.imshow(component.reshape(8, 8), cmap="RdBu", vmin=-0.6, vmax=0.6)
        ax.set(xticks=[], yticks=[])
    axes[row, 0].set_ylabel(name)

# %% [markdown]
# Certificates
# ------------
# With a linear head, the scores are linear in the pixels, whatever affine steps come before. So the
# distance from each image to the nearest change of its label has a closed form, in every norm.
# ``SparsePCAClassifier`` is sparse components, scaled, with such a head.

# %%
model = SparsePCAClassifier(20, alpha=1.0).fit(X_train, y_train)
certificate = model.certify(X_test, y_test, norm="linf")
print(f"clean accuracy {model.score(X_test, y_test):.1%}; certificate: {certificate.kind}")
print(f"median radius {np.median(certificate.radius):.3f} of the range from black to white")
for eps in (0.01, 0.02, 0.05):
    print(f"no change of up to {eps} a pixel breaks {certificate.accuracy(eps):.1%} of the images")

# %% [markdown]
# "Exact" means that it is the truth and not a bound. A step of 0.999 times the radius in the worst
# direction changes no prediction; one of 1.001 times changes every one.

# %%
step = worst_case_step(model, X_test, y_test, norm="linf")
right = model.predict(X_test) == y_test
inside = model.predict(X_test + 0.999 * step)[right]
outside = model.predict(X_test + 1.001 * step)[right]
assert (inside == y_test[right]).all()
assert (outside != y_test[right]).all()

# %% [markdown]
# What does sparsity do, and what does scaling?
# ---------------------------------------------
# Scaling the scores to unit variance makes components of low variance count as much as others. That
# is a change of its own, so each front end is measured with and without it, under the same attack
# (PGD of the Adversarial Robustness Toolbox). The curve of an attack is an upper bound of the true
# robust accuracy; the certified one *is* the true one here, since the head is linear.

# %%
eps = [0.01, 0.02, 0.04, 0.06, 0.08, 0.1]
reports = {}
for scaled in (True, False):
    for name, front_end in {
        "PCA": PCA(20, whiten=scaled),
        "SparsePCA": SparsePCA(20, alpha=1.0, whiten=scaled),
    }.items():
        pipeline = make_pipeline(front_end, LogisticRegression(max_iter=10_000))
        pipeline.fit(X_train, y_train)
        label = f"{name}, {'scaled' if scaled else 'not scaled'}"
        reports[label] = robustness_report(pipeline, X_test, y_test, eps, attacks=["pgd"])
        print(label, reports[label], sep="\n")
        assert reports[label].n_contradictions == 0
        assert (reports[label]["pgd"] - reports[label]["certified"]).max() < 0.03

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for ax, kind in zip(axes, ("scaled", "not scaled"), strict=True):
    chosen = {name: r for name, r in reports.items() if name.endswith(f", {kind}")}
    accuracy_figure(chosen, ax=ax)
    ax.set_title(kind)

# %% [markdown]
# Read both panels before you draw a conclusion. Sparsity gains most where the scores are scaled,
# because scaling makes dense components of low variance loud. Without scaling the two front ends
# are nearly equal, and withstand large steps better than either does with it. On these small
# images, then, most of the gain is the undoing of what scaling did.

# %%
certified = {name: report["certified"] for name, report in reports.items()}
gains = {
    kind: certified[f"SparsePCA, {kind}"] - certified[f"PCA, {kind}"]
    for kind in ("scaled", "not scaled")
}
for kind, gain in gains.items():
    print(f"certified accuracy gained by sparsity, {kind}: {np.round(100 * gain, 1)} points")
assert gains["scaled"][-1] > 0.05
assert abs(gains["not scaled"]).max() < 0.04
for name in ("PCA", "SparsePCA"):
    assert certified[f"{name}, not scaled"][-1] > certified["SparsePCA, scaled"][-1]

# %% [markdown]
# All attacks, and how many directions they have
# ----------------------------------------------
# ``robustness_report`` runs FGSM, PGD, MIM and Square; its "worst" line counts an image as broken
# if any of them succeeded. No attack ever succeeds inside a certified radius.

# %%
report = model.robustness_report(X_test[:200], y_test[:200], [0.02, 0.06], box=(0, 1))
print(report)
assert report.n_contradictions == 0
assert (report["worst"] >= report["certified"]).all()

# %% [markdown]
# The worst case says nothing about how rare it is. *Adversarial sparsity* draws random directions
# and asks how far an attacker must turn from each, as a share of half a turn, to find an attack.

# %%
found = adversarial_sparsity(model, X_test, y_test, eps=1.0, norm="l2", n_directions=16)
print(f"an attack of length 1 exists in {found.share():.1%} of all directions")
print(f"and within {found.mean:.0%} of half a turn of an average direction")
assert found.share() < 0.5
