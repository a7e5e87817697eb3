"""
What dictionaries learn from images
===================================

Sparse coding writes each row of data as a sum of few atoms, and dictionary learning finds atoms
that make this possible. The atoms are worth a look: patches of natural images give edges and bars,
digits give strokes and loops. And the penalty matters: one that does not shrink what it keeps needs
far fewer atoms for the same error than the l1 norm.
"""

# %% [markdown]
# Patches of natural images
# -------------------------
# Two photographs, whitened so that coarse structure does not drown the fine, and cut into patches
# of 12 x 12 pixels.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from sparsecode.decomposition import DictionaryLearning, RobustSparseNMF, SparseCoder
from sparsecode.metrics import coherence
from sparsecode.penalties import CEL0, L1
from sparsecode.solvers import ISTA

rng = np.random.default_rng(0)


def whitened(image: np.ndarray) -> np.ndarray:
    """Return an image without the falling spectrum that natural images have."""
    rho = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    spectrum = np.fft.fft2(image) * rho * np.exp(-((rho / 0.2) ** 4))
    result = np.fft.ifft2(spectrum).real
    return result / result.std()


def some_patches(image: np.ndarray, n: int) -> np.ndarray:
    """Return patches of 12 x 12 pixels at random places."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (12, 12)).reshape(-1, 144)
    return windows[rng.choice(len(windows), n, replace=False)]


images = [whitened(image.mean(2)) for image in load_sample_images().images]
patches = np.concatenate([some_patches(image, 4000) for image in images]).astype(np.float32)
train, test = patches[::2], patches[1::2][:1000]

# %% [markdown]
# ``CEL0`` prices each atom in use, whatever its size, in a continuous form that a proximal method
# handles well. It is not convex, so ``ISTA`` does the coding.

# %%
solver = ISTA(max_iter=500, tol=0.05)
edges = DictionaryLearning(100, penalty=CEL0(1.0), solver=solver, max_epochs=5, tol=0.0).fit(train)


def draw(atoms: np.ndarray, side: int, title: str, cmap: str = "RdBu") -> None:
    """Draw the first atoms, each on a scale of its own."""
    size = abs(atoms).max(1, keepdims=True)
    figure, axes = plt.subplots(5, 12, figsize=(9, 4), layout="constrained")
    for ax, atom in zip(axes.flat, atoms / size.clip(1e-9), strict=False):
        low = 0 if cmap == "gray_r" else -1
        ax.imshow(atom.reshape(side, side), cmap=cmap, vmin=low, vmax=1)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.suptitle(title)


used = np.argsort(-(edges.transform(test) != 0).sum(0))
draw(edges.components_[used], 12, "Atoms of image patches, the most used first")

# %% [markdown]
# The most used are smooth shades; then come edges and bars, each at one place and with one
# orientation. The energy of atoms sits in a smaller part of the patch than that of the patches
# themselves. And no two atoms are the same.


# %%
def concentration(rows: np.ndarray) -> float:
    """Return the share of energy in the strongest fifth of the pixels."""
    energy = np.sort(rows**2, 1)[:, ::-1]
    return float((energy[:, :29].sum(1) / energy.sum(1)).mean())


print(f"energy in a fifth of the pixels: atoms {concentration(edges.components_):.0%}")
print(f"                               patches {concentration(train):.0%}")
assert concentration(edges.components_) > concentration(train) + 0.05
assert coherence(edges.components_) < 0.99

# %% [markdown]
# How many atoms a patch needs
# ----------------------------
# The same atoms, coded with the l1 norm: it shrinks all coefficients, and makes up for it with more
# of them.

# %%
for penalty in (CEL0(1.0), L1(0.7), L1(1.0)):
    coder = SparseCoder(edges.components_, penalty=penalty, solver=ISTA(max_iter=2000, tol=0.02))
    codes = coder.fit_transform(test)
    left = np.square(test - coder.inverse_transform(codes)).sum() / np.square(test).sum()
    n_active = (codes != 0).sum(1).mean()
    print(f"{type(penalty).__name__:>5}: {n_active:4.1f} atoms a patch, error {left:.3f}")
    if isinstance(penalty, CEL0):
        best_error, best_active = left, n_active
    elif left > best_error:
        assert n_active > 1.5 * best_active, "more atoms, and still a larger error"

# %% [markdown]
# Digits
# ------
# Ink only adds up, so here atoms and codes are non-negative: ``RobustSparseNMF``. Its atoms are
# strokes and loops, a few of them nearly whole digits. Missing pixels (NaN, drawn in white) are no
# obstacle: ``inverse_transform`` fills them in.

# %%
digits = load_digits().data / 16
parts = RobustSparseNMF(60, alpha=0.05, max_iter=500, tol=1e-3).fit(digits)
draw(parts.components_, 8, "Parts of digits", cmap="gray_r")
share = (parts.components_ < 0.05).mean()
print(f"{share:.0%} of the pixels of a part are empty")
assert share > 0.5

holes = digits[:200].copy()
hidden = rng.random(holes.shape) < 0.3
holes[hidden] = np.nan
filled = parts.inverse_transform(parts.transform(holes))
left = np.square(filled - digits[:200])[hidden].mean() / digits[:200].var()
print(f"{left:.0%} of the variance of hidden pixels is left unexplained")
assert left < 0.5

figure, axes = plt.subplots(3, 8, figsize=(8, 3.2), layout="constrained")
for row, rows in zip(axes, (digits, holes, np.where(hidden, filled, holes)), strict=True):
    for ax, image in zip(row, rows, strict=False):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_axis_off()
figure.suptitle("Digits, with hidden pixels, and filled in")
plt.show()
