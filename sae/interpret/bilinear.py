"""What the latents of a bilinear autoencoder are: quadratic forms, their groups, their kin."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae.autoencoders import Bilinear
from sparsecode._checks import check_choice, check_floating, check_int, check_shape


@dataclass(frozen=True)
class QuadraticForm:
    """A symmetric form ``q(u) = sum_i values_i (vectors_i . u)^2`` on rows of unit norm.

    Parameters
    ----------
    values : Tensor of shape (R,)
        Eigenvalues, the largest in size first.
    vectors : Tensor of shape (R, D)
        Orthonormal eigenvectors, one a row.

    Examples
    --------
    >>> form = QuadraticForm(torch.tensor([2.0, -1.0]), torch.eye(2))
    >>> form(torch.tensor([[1.0, 1.0]]))
    tensor([1.])
    """

    values: Tensor
    vectors: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        """Return the value on rows (..., D)."""
        return self.coordinates(u).square() @ self.values

    def coordinates(self, u: Tensor, n: int | None = None) -> Tensor:
        """Return rows in the first `n` eigenvectors, shape (..., n): where a manifold is seen."""
        return u @ self.vectors[:n].t()

    def matrix(self) -> Tensor:
        """Return the form as a symmetric matrix, shape (D, D)."""
        return (self.vectors.t() * self.values) @ self.vectors


@torch.no_grad()
def latent_form(model: Bilinear, latent: int) -> QuadraticForm:
    """Return the form of one latent, which has one positive and one negative eigenvalue.

    ``(l.u)(r.u) = q+ (v+.u)^2 - q- (v-.u)^2`` with ``q+- = (|l| |r| +- l.r) / 2`` and ``v+-``
    along ``l / |l| +- r / |r|``; parallel l and r leave one of them.

    Parameters
    ----------
    model : Bilinear
    latent : int

    Returns
    -------
    QuadraticForm
        Of rank two at most.

    Examples
    --------
    >>> model = Bilinear(n_features=4, n_latents=8, seed=0)
    >>> form = latent_form(model, 3)
    >>> bool((form.values.amax() > 0) & (form.values.amin() < 0))
    True
    """
    latent = check_int("latent", latent, low=0, high=_checked(model).n_latents - 1)
    left, right = model.left[latent].double(), model.right[latent].double()
    size = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
    inner = left @ right
    unit = torch.nn.functional.normalize(torch.stack([left, right]), dim=1)
    vectors = torch.stack([unit[0] + unit[1], unit[0] - unit[1]])
    values = torch.stack([size + inner, inner - size]) / 2
    return _sorted(values, torch.nn.functional.normalize(vectors, dim=1), model.left.dtype)


@torch.no_grad()
def group_form(model: Bilinear, weights: Tensor) -> QuadraticForm:
    """Return the form ``sum_j weights_j f_j`` of a group of latents.

    Parameters
    ----------
    model : Bilinear
    weights : Tensor of shape (F,)
        Signed; see `group_weights`. Signs matter: without them the forms of a group cancel where
        they should add up.

    Returns
    -------
    QuadraticForm
        All D eigenvalues, the largest in size first.
    """
    check_shape("weights", weights, (_checked(model).n_latents,), ("n_latents",))
    active = weights.nonzero().flatten()
    left, right = model.left[active].double(), model.right[active].double()
    matrix = (left.t() * weights[active].double()) @ right
    values, columns = torch.linalg.eigh((matrix + matrix.t()) / 2)
    return _sorted(values, columns.t(), model.left.dtype)


@torch.no_grad()
def group_weights(model: Bilinear, latent: int, *, n_members: int | None = 10) -> Tensor:
    """Return how the mixture joins other latents with one: its row of the Gram matrix, signed.

    With the columns of the mixture M at unit norm, the row of ``M^T M``, cut to its `n_members`
    entries of largest size. A model without a mixture has groups of one.

    Parameters
    ----------
    model : Bilinear
    latent : int
    n_members : int or None, default=10
        None keeps all.

    Returns
    -------
    Tensor of shape (F,)
        1 at the latent itself.

    References
    ----------
    Dooms & Gauderis (2025), arXiv:2510.16820. Differs from their code in: signs are kept.
    """
    n_latents = _checked(model).n_latents
    latent = check_int("latent", latent, low=0, high=n_latents - 1)
    row = _gram_rows(model, torch.tensor([latent]))[0]
    if n_members is None:
        return row
    n_members = check_int("n_members", n_members, low=1)
    members = row.abs().topk(min(n_members, n_latents)).indices
    return torch.zeros_like(row).index_copy(0, members, row[members])


@torch.no_grad()
def effective_dimension(model: Bilinear) -> Tensor:
    """Return how many latents the group of each latent amounts to.

    ``(sum_j v_j^4)^2 / sum_j v_j^8`` for the row v of the Gram matrix of `group_weights`: n for n
    entries of the same size; high powers leave small entries out.

    Parameters
    ----------
    model : Bilinear

    Returns
    -------
    Tensor of shape (F,)
        At least 1; exactly that without a mixture.
    """
    parts = torch.arange(_checked(model).n_latents).split(1024)
    rows = (_gram_rows(model, part).double().pow(4) for part in parts)
    return torch.cat([v.sum(1).square() / v.square().sum(1) for v in rows]).to(model.left.dtype)


@torch.no_grad()
def dictionary_similarity(
    first: Bilinear, second: Bilinear, *, kind: Literal["frobenius", "matched"] = "frobenius"
) -> float:
    """Compare the dictionaries of two models by the inner products of their atoms.

    With ``K_ab[i, j] = <A_i, B_j>``, A and B the symmetric forms of the latents: "frobenius" is
    ``2 ||K_ab|| / (||K_aa|| + ||K_bb||)``, which rotations among latents leave alone. "matched" is
    the share of ``||K_ab||`` that lies in the best matching of latents one to one: near 1 if
    the two are the same up to order and sign, and low if only their spans are.

    Parameters
    ----------
    first, second : Bilinear
        Of the same `n_features`.
    kind : {"frobenius", "matched"}, default="frobenius"

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Dooms & Gauderis (2025), "Finding Manifolds With Bilinear Autoencoders". arXiv:2510.16820.

    Examples
    --------
    >>> model = Bilinear(n_features=4, n_latents=8, seed=0)
    >>> round(dictionary_similarity(model, model), 6)
    1.0
    """
    check_choice("kind", kind, ("frobenius", "matched"))
    if _checked(first).n_features != _checked(second).n_features:
        raise ValueError(
            f"`second` must have n_features = {first.n_features}, as `first`; "
            f"got {second.n_features}."
        )
    cross = _kernel(first, second)
    if kind == "frobenius":
        norms = [float(torch.linalg.matrix_norm(_kernel(m, m))) for m in (first, second)]
        return 2 * float(torch.linalg.matrix_norm(cross)) / sum(norms)
    rows, columns = linear_sum_assignment(cross.abs().cpu().numpy(), maximize=True)
    matched = torch.linalg.vector_norm(cross[rows, columns])
    return float(matched / torch.linalg.matrix_norm(cross))


@torch.no_grad()
def probe_interactions(model: Bilinear, probe: Tensor, other: Tensor | None = None) -> Tensor:
    """Return how strongly each latent joins the directions of linear probes, from weights alone.

    The symmetric form of the latent at the probes at unit norm, ``((l.p)(r.q) + (l.q)(r.p)) / 2``:
    with one probe, the value that the latent has on a row along it; with two, whether the latent
    reads both at once. Divided by the norm of the form, so that latents compare.

    Parameters
    ----------
    model : Bilinear
    probe : Tensor of shape (D,)
        Weights of a linear probe.
    other : Tensor of shape (D,) or None, default=None
        Another probe; None means the same.

    Returns
    -------
    Tensor of shape (F,)
        Cosines, in [-1, 1].
    """
    found = []
    for name, given in (("probe", probe), ("other", probe if other is None else other)):
        size = (_checked(model).n_features,)
        vector = check_shape(name, check_floating(name, given), size, ("n_features",))
        unit = torch.nn.functional.normalize(vector.to(model.left), dim=-1)
        found.append((model.left @ unit, model.right @ unit))
    (left_p, right_p), (left_q, right_q) = found
    squares = model.left.square().sum(1) * model.right.square().sum(1)
    norms = ((squares + (model.left * model.right).sum(1).square()) / 2).sqrt()
    return (left_p * right_q + left_q * right_p) / 2 / norms.clamp(min=1e-30)


@torch.no_grad()
def manifold_figure(
    model: Bilinear,
    form: QuadraticForm,
    x: Tensor,
    *,
    n_rows: int = 4096,
    labels: Tensor | None = None,
    ax: Any = None,
) -> Any:
    """Draw the rows on which a form is largest, in its three leading eigenvectors.

    Parameters
    ----------
    model : Bilinear
    form : QuadraticForm
        Of `latent_form` or `group_form`.
    x : Tensor of shape (N, D)
    n_rows : int, default=4096
        Rows to draw: those with the largest sizes ``sum_i (values_i (vectors_i . u)^2)^2``.
    labels : Tensor of shape (N,) or None, default=None
        Colors of the rows; None colors by the value of the form.
    ax : matplotlib Axes or None, default=None
        Of three dimensions, or of two, which shows two eigenvectors; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    n_rows = check_int("n_rows", n_rows, low=1)
    u = _checked(model).product_rows(x).reshape(-1, model.n_features)
    if labels is not None:
        check_shape("labels", labels, (len(u),), ("n_rows",))
    size = (form.coordinates(u).square() * form.values).square().sum(1)
    shown = size.topk(min(n_rows, len(u))).indices
    if ax is None:
        ax = _new_axes()
    n_axes = 3 if ax.name == "3d" else 2
    points = form.coordinates(u[shown], n_axes).cpu().numpy()
    colors = (form(u) if labels is None else labels)[shown].cpu().numpy()
    spread = {"vmin": -abs(colors).max(), "vmax": abs(colors).max()} if labels is None else {}
    ax.scatter(*points.T, c=colors, cmap="coolwarm" if labels is None else "tab10", s=6, **spread)
    names = [f"{value:+.2f}" for value in form.values[:n_axes].tolist()]
    ax.set(**{f"{a}label": f"eigenvalue {n}" for a, n in zip("xyz", names, strict=False)})
    return ax


def _new_axes() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib; it is not installed. "
            "Run pip install 'sparsecode[robustness]'."
        ) from error
    return Figure(figsize=(5, 5), layout="constrained").add_subplot(projection="3d")


def _gram_rows(model: Bilinear, latents: Tensor) -> Tensor:
    latents = latents.to(model.left.device)
    if model.mixture is None:
        return torch.nn.functional.one_hot(latents, model.n_latents).to(model.left.dtype)
    columns = torch.nn.functional.normalize(model.mixture, dim=0)
    return columns[:, latents].t() @ columns


def _kernel(first: Bilinear, second: Bilinear) -> Tensor:
    """Return the inner products of the symmetric forms of the latents, (F, G)."""
    left, right = first.left, first.right
    straight = (left @ second.left.t()) * (right @ second.right.t())
    crossed = (left @ second.right.t()) * (right @ second.left.t())
    return (straight + crossed) / 2


def _sorted(values: Tensor, vectors: Tensor, dtype: torch.dtype) -> QuadraticForm:
    order = values.abs().argsort(descending=True, stable=True)
    return QuadraticForm(values[order].to(dtype), vectors[order].to(dtype))


def _checked(model: Bilinear) -> Bilinear:
    if not isinstance(model, Bilinear):
        raise TypeError(f"`model` must be a sae.Bilinear; got {type(model).__name__}.")
    return model
