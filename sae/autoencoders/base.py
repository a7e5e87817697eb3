"""What every sparse autoencoder is: weights, sparse codes, a loss in named terms."""

import inspect
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sae.row_norm import RowNorm, RowStatistics, row_statistics
from sparsecode import SparseCodes, decode
from sparsecode._checks import check_floating, check_int, check_last_dim
from sparsecode.losses import auxk_loss


@dataclass(frozen=True)
class Losses:
    """What `AbstractAutoencoder.loss_terms` returns.

    Parameters
    ----------
    terms : dict of str to Tensor
        Weighted scalars; the trainer sums and logs them. The reconstruction error is a mean over
        rows of the sum over features, in squared units of the activations.
    codes : SparseCodes of shape (N, F)
        The codes of this batch; latents with a value other than 0 count as fired.
    reconstruction : Tensor of shape (N, D) or None
        None where it is not the activations that are reconstructed.
    error : Tensor, scalar, or None, default=None
        The mean over rows of the squared error; None where it is that of `reconstruction`.
    """

    terms: dict[str, Tensor]
    codes: SparseCodes
    reconstruction: Tensor | None
    error: Tensor | None = None


class AbstractAutoencoder(nn.Module, ABC):
    """Base of all architectures; subclasses are final and implement `encode` and `loss_terms`.

    The keyword-only constructor signature of a subclass is its configuration: each
    argument is stored under its own name and `config` reads them back.

    Parameters
    ----------
    n_features : int >= 1
        Width D of the activations.
    n_latents : int >= 1
        Width F of the code.
    """

    unit_norm_decoder: bool = False
    """Whether the rows of ``W_dec`` are kept at unit norm, their gradients projected."""

    row_norm: RowNorm = "none"
    """How each row is normalized by its own statistics before it is encoded, where it is.

    Codes, `decode` and the loss are then those of the normalized rows; `forward` and `reconstruct`
    give rows in their own units."""

    serves_all_budgets: bool = False
    """Whether codes cut to fewer latents are trained for; `sae.evaluate` then shows each."""

    n_targets: int | None = None
    """Width of what is predicted from the input; None where that is the input itself."""

    row_blocks: tuple[int, ...]
    """Widths of the parts of a row of data that come from different places, such as hookpoints."""

    weight_names: ClassVar[tuple[str, ...]] = ("W_enc", "b_enc", "W_dec", "b_dec")
    """Names of its weights; ``b_dec``, of shape (D,), is among them for every architecture."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, n_features: int, n_latents: int) -> None:
        super().__init__()
        self.n_features = check_int("n_features", n_features, low=1)
        self.n_latents = check_int("n_latents", n_latents, low=1)
        self.row_blocks = (self.n_features,)
        self.metadata: dict[str, Any] = {}
        """What belongs to the model: where it comes from, its hookpoint. Files keep it."""

    @abstractmethod
    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the codes of `x`.

        Parameters
        ----------
        x : Tensor of shape (..., D), floating
        k : int or None, default=None
            Number of entries to keep in each row, where the architecture has such a number; None
            keeps as many as it was made for.

        Returns
        -------
        SparseCodes of shape (..., F), dtype of `x`
        """

    @abstractmethod
    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the training loss of a batch as named, weighted terms.

        Parameters
        ----------
        x : Tensor of shape (N, D)
        target : Tensor of shape (N, D)
            What to reconstruct; `x` itself for an autoencoder.
        dead_latents : Tensor of shape (F,), bool, or None, default=None
            Latents that have not fired for long; None leaves auxiliary terms out.
        """

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the reconstruction, shape (..., D), dtype of the codes.

        Of a model that normalizes rows it is that of the normalized ones, with a warning: the codes
        do not know the statistics of the rows, and `reconstruct` does.
        """
        if self.row_norm != "none":
            warnings.warn(
                "`decode` gives rows as the model normalizes them, since codes do not hold the "
                f"statistics of rows (row_norm={self.row_norm!r}). Use reconstruct(x, codes).",
                stacklevel=2,
            )
        return self._decoded(codes)

    def _decoded(self, codes: SparseCodes) -> Tensor:
        weight = self.W_dec.dtype
        dtype = codes.dtype if codes.values.is_floating_point() else weight
        return decode(codes.to(weight), self.W_dec, bias=self.b_dec).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, same leading axes and dtype."""
        return self.reconstruct(x, self.encode(x))

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """Return the reconstruction from the codes of `x`, with what bypasses the codes.

        Parameters
        ----------
        x : Tensor of shape (..., D)
        codes : SparseCodes of shape (..., F)

        Returns
        -------
        Tensor of shape (..., D)
        """
        # Without the warning of `decode`: here the statistics of the rows are known.
        decoded = self.decode(codes) if self.row_norm == "none" else self._decoded(codes)
        direct = self.skip(x)
        return self._restored(decoded if direct is None else decoded + direct, x)

    def skip(self, x: Tensor) -> Tensor | None:
        """Return what reaches the output beside the codes; None without a skip connection."""
        return None

    @property
    def row_width(self) -> int:
        """Columns of the data to train on: the input, and the target where it is another one."""
        return sum(self.row_blocks)

    def input_and_target(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is encoded and what is to be reconstructed from rows of data.

        Parameters
        ----------
        rows : Tensor of shape (..., row_width)

        Returns
        -------
        x : Tensor of shape (..., D)
        target : Tensor
            `x` itself but for models with `n_targets`, whose rows hold the target beside the input.
        """
        if self.n_targets is None:
            return rows, rows
        return rows[..., : self.n_features], rows[..., self.n_features :]

    def initialize(self, sample: Tensor) -> None:
        """Adapt the start to a sample of activations; the trainer calls this before step 0."""

    def set_progress(self, progress: float) -> None:
        """Follow a schedule; called before each step with the share done, in [0, 1]."""

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def parameter_groups(
        self, *, activation_scale: float = 1.0, target_scale: float | None = None
    ) -> list[dict[str, Any]]:
        """Return groups for `sparsecode.optim.RowAdam`.

        Biases and thresholds live on the scale of the activations, dictionary rows on a scale of
        one, so the former get ``lr_scale = activation_scale``: training is then equivariant to
        the scale of the data.

        Parameters
        ----------
        activation_scale : float, default=1.0
            Root mean square of the centered activations.
        target_scale : float or None, default=None
            The same of the target, where it is not the input; None is `activation_scale`.
        """
        if self.row_norm != "none":
            activation_scale = target_scale = 1.0
        target_scale = activation_scale if target_scale is None else target_scale
        scales = {"b_dec": target_scale}
        if target_scale != activation_scale:  # from codes, on the scale of the input, to targets
            scales |= dict.fromkeys(("W_dec", "W_skip"), target_scale / activation_scale)
        named = dict(self.named_parameters())
        groups = []
        for name, parameter in named.items():
            latent_dim = {"W_enc": 1, "W_dec": 0, "left": 0, "right": 0}.get(name)
            unit_norm = name == "W_dec" and self.unit_norm_decoder
            of_data = name.startswith("b_") or name == "threshold"
            scale = scales.get(name, activation_scale if of_data else 1.0)
            groups.append(
                {
                    "params": [parameter],
                    "latent_dim": latent_dim,
                    "unit_norm": unit_norm,
                    "lr_scale": scale,
                }
            )
        return groups

    @classmethod
    def from_pretrained(cls, repo: str | Path, **options: Any) -> Self:
        """Return an autoencoder of this class from the hub or from a folder.

        Parameters
        ----------
        repo : str or path
            As in `sae.load`.
        **options
            As in `sae.load`: hookpoint, revision, given, device, dtype.

        Raises
        ------
        TypeError
            If what is there is of another class.
        """
        from sae.files import load

        model = load(repo, **options)
        if not isinstance(model, cls):
            raise TypeError(
                f"`{repo}` must hold a {cls.__name__}; it holds a {type(model).__name__}. "
                "Use sae.load, which takes any."
            )
        return model

    def push_to_hub(self, repo: str, **options: Any) -> Any:
        """Put the autoencoder into a repository on the hub; see `sae.push`.

        Parameters
        ----------
        repo : str
            ``organization/name``; made when missing.
        **options
            As in `sae.push`: hookpoint, revision, private, dry_run.

        Returns
        -------
        sae.publish.Published
        """
        from sae.publish import push

        return push(self, repo, **options)

    def _rows(self, x: Tensor, of: Tensor | None = None) -> Tensor:
        """Return `x`, checked, in the dtype of the weights, normalized by the statistics `of` it.

        None takes those of `x` itself.
        """
        x = self._checked(x).to(self.b_dec.dtype)
        statistics = self._statistics(x if of is None else of)
        return x if statistics is None else (x - statistics.shift) / statistics.divisor

    def _restored(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return normalized `rows` in the units of `x`, whose statistics they had."""
        statistics = self._statistics(x)
        if statistics is None:
            return rows
        rows_here = rows.to(self.b_dec.dtype)
        return (rows_here * statistics.factor + statistics.shift).to(rows.dtype)

    def _statistics(self, x: Tensor) -> RowStatistics | None:
        if self.row_norm == "none":
            return None
        return row_statistics(self._checked(x).to(self.b_dec.dtype), self.row_norm)

    def _checked(self, x: Tensor) -> Tensor:
        """Return `x`, a floating tensor or array of the right width on the model's device."""
        x = check_floating("x", x)
        check_last_dim("x", x, self.n_features, "n_features")
        if x.device != self.b_dec.device:
            raise ValueError(
                f"`x` must be on the device of the model ({self.b_dec.device}); got {x.device}."
            )
        return x


class ReconstructsProducts(ABC):
    """The ability of a model that reconstructs ``u (x) u`` in place of x; see `Bilinear`.

    Its `decode` gives matrices of shape (..., D, D), which training and `sae.evaluate` never make.
    """

    @abstractmethod
    def product_rows(self, x: Tensor) -> Tensor:
        """Return the rows u, shape (..., D), whose products with themselves are reconstructed."""

    @abstractmethod
    def product_energies(self, x: Tensor, codes: SparseCodes) -> tuple[Tensor, Tensor]:
        """Return ``<u (x) u, Xhat>`` and ``||Xhat||^2`` of each row, Xhat the decoded codes."""


def latent_columns(rows_FD: Tensor) -> nn.Parameter:
    """Return a parameter of shape (D, F) whose columns are contiguous in memory.

    The field's name and shape ``W_enc (d, F)``, with each latent's weights side by side as
    the sparse gradients and the optimizer want them.
    """
    return nn.Parameter(rows_FD.contiguous().t())


def random_rows(n_latents: int, n_features: int, seed: int | None) -> Tensor:
    """Return Gaussian rows of unit norm; `seed` None draws from torch's global generator."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = torch.randn(n_latents, n_features, generator=generator)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-30)


def tied_start(model: AbstractAutoencoder, seed: int | None) -> None:
    """Give `model` random decoder rows of unit norm, their transpose as encoder, zero biases."""
    rows = random_rows(model.n_latents, model.n_features, seed)
    model.W_enc = latent_columns(rows.clone())
    model.b_enc = nn.Parameter(torch.zeros(model.n_latents))
    model.W_dec = nn.Parameter(rows)
    model.b_dec = nn.Parameter(torch.zeros(model.n_features))


@torch.no_grad()
def scale_encoder(
    model: AbstractAutoencoder,
    sample: Tensor,
    codes: SparseCodes,
    *,
    weight: Tensor | None = None,
) -> float:
    """Scale ``W_enc`` so that the first reconstructions have the size of the data.

    Parameters
    ----------
    model : AbstractAutoencoder
        With zero ``b_enc``, so that codes scale with the encoder.
    sample : Tensor of shape (N, D)
    codes : SparseCodes of shape (N, F)
        Of `sample`, with the encoder as it is.
    weight : Tensor or None, default=None
        Scaled in place of ``W_enc``.

    Returns
    -------
    float
        The factor: least squares of the centered rows on their reconstructions.
    """
    centered, first = sample - model.b_dec, model._decoded(codes) - model.b_dec
    energy = first.double().square().sum()
    if not energy > 0:
        return 1.0
    factor = ((first.double() * centered.double()).sum() / energy).clamp(min=1e-3).float()
    (model.W_enc if weight is None else weight).mul_(factor)
    return float(factor)


def auxk_terms(
    model: AbstractAutoencoder,
    x: Tensor,
    residual: Tensor,
    dead_latents: Tensor | None,
    *,
    coefficient: float,
    k_aux: int | None,
) -> dict[str, Tensor]:
    """Return ``{"auxk": coefficient * auxk_loss}``, or nothing where it does not apply.

    Parameters
    ----------
    model : AbstractAutoencoder
    x : Tensor of shape (N, D)
        Encoder input, pre-bias already subtracted.
    residual : Tensor of shape (N, D)
    dead_latents : Tensor of shape (F,), bool, or None
    coefficient : float
    k_aux : int or None
        None means half of the features.
    """
    if dead_latents is None or coefficient == 0:
        return {}
    loss = auxk_loss(
        x,
        residual.detach(),
        model.W_enc,
        model.b_enc,
        model.W_dec,
        dead_latents=dead_latents,
        k_aux=k_aux or max(1, model.n_features // 2),
    )
    return {"auxk": coefficient * loss}


@torch.no_grad()
def follow_threshold(
    threshold: Tensor, n_averaged: Tensor, codes: SparseCodes, decay: float
) -> None:
    """Move a running average towards the smallest positive value of `codes`.

    The average is that of the values seen, with weights ``decay ** age`` that sum to one: it
    has no start at 0 to forget. Codes without a positive value change nothing.

    Parameters
    ----------
    threshold : Tensor, scalar
        Changed in place.
    n_averaged : Tensor, scalar, int64
        How many values it has seen; changed in place.
    codes : SparseCodes
    decay : float in [0, 1)
    """
    positive = codes.values[codes.values > 0]
    if not positive.numel():
        return
    n_averaged += 1
    share = (1.0 - decay) / (1.0 - decay ** int(n_averaged)) if decay > 0 else 1.0
    threshold += share * (positive.min().to(threshold.dtype) - threshold)


@torch.no_grad()
def geometric_median(sample: Tensor, *, max_iter: int = 100, tol: float = 1e-6) -> Tensor:
    """Return the point with the least sum of distances to the rows, by Weiszfeld's iteration.

    Parameters
    ----------
    sample : Tensor of shape (N, D)
    max_iter : int, default=100
    tol : float, default=1e-6
        Stop when the point moves by less than `tol` times the mean distance.

    Returns
    -------
    Tensor of shape (D,), dtype of `sample`

    Examples
    --------
    >>> geometric_median(torch.tensor([[0.0], [1.0], [50.0]])).round()
    tensor([1.])
    """
    rows = sample.double()
    point = rows.mean(0)
    for _ in range(max_iter):
        distances = torch.linalg.vector_norm(rows - point, dim=1)
        scale = distances.mean()
        weights = 1.0 / distances.clamp(min=1e-12 * float(scale) + 1e-300)
        moved = (weights / weights.sum()) @ rows
        step = torch.linalg.vector_norm(moved - point)
        point = moved
        if step <= tol * scale:
            break
    return point.to(sample.dtype)
