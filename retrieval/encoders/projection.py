"""SparseProjection: a linear map and an activation that leaves few entries, on unit length."""

from typing import Literal

import torch
from torch import Tensor, nn

from sparsecode._checks import check_choice, check_float, check_int

Activation = Literal["relu", "soft_threshold", "step"]
ACTIVATIONS = ("relu", "soft_threshold", "step")


class SparseProjection(nn.Module):
    """Project embeddings, make entries zero, and scale rows to length 1, in this order.

    Parameters
    ----------
    n_features : int
        Width D of the embeddings.
    n_components : int
        Width F of the sparse rows.
    activation : {"relu", "soft_threshold", "step"}, default="relu"
        "soft_threshold" is signed, ``relu(x - t) - relu(-x - t)``. "step" is 1 where x is positive,
        with the gradient of the identity for x in [-1, 1] (straight-through).
    threshold : float, default=0.5
        The t of the soft threshold.
    backbone : nn.Module or None, default=None
        What gives embeddings of D features, trained along; None takes embeddings.

    References
    ----------
    Paria et al. (2020), "Minimizing FLOPs to Learn Efficient Sparse Representations".
    arXiv:2004.05665. Differs from it in: embeddings are centered and scaled by the whole.

    Examples
    --------
    >>> module = SparseProjection(4, 16)
    >>> module(torch.ones(2, 4)).shape
    torch.Size([2, 16])
    """

    shift: Tensor
    scale: Tensor
    threshold: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        activation: Activation = "relu",
        threshold: float = 0.5,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        n_features = check_int("n_features", n_features, low=1)
        self.n_components = check_int("n_components", n_components, low=1)
        check_choice("activation", activation, ACTIVATIONS)
        self.activation: Activation = activation
        threshold = check_float("threshold", threshold, low=0.0)
        self.backbone = nn.Identity() if backbone is None else backbone
        self.linear = nn.Linear(n_features, n_components)
        self.register_buffer("shift", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Return sparse rows of length 1, or of zeros, shape (N, F)."""
        return nn.functional.normalize(self._sparse(self._projected(x)), dim=1)

    @torch.no_grad()
    def adapt(self, sample: Tensor) -> None:
        """Measure the center and the scale of embeddings.

        Parameters
        ----------
        sample : Tensor of shape (N, ...)
            What `forward` takes.
        """
        embeddings = self.backbone(sample)
        self.shift.copy_(embeddings.mean(0))
        scale = (embeddings - self.shift).square().mean().sqrt()
        self.scale.copy_(scale if scale > 0 else torch.ones_like(scale))

    @torch.no_grad()
    def calibrate(self, sample: Tensor, n_active: float) -> None:
        """Move the threshold, or all biases alike, so that rows have as many entries on average.

        Parameters
        ----------
        sample : Tensor of shape (N, ...)
            What `forward` takes.
        n_active : float
        """
        z = self._projected(sample)
        sizes = (z.abs() if self.activation == "soft_threshold" else z).flatten()
        kept = min(max(1, round(n_active * len(z))), sizes.numel() - 1)
        level = sizes.topk(kept + 1).values[-1]
        if self.activation == "soft_threshold":
            self.threshold.copy_(level)
        else:
            self.linear.bias.sub_(level)

    def _projected(self, x: Tensor) -> Tensor:
        return self.linear((self.backbone(x) - self.shift) / self.scale)

    def _sparse(self, z: Tensor) -> Tensor:
        if self.activation == "relu":
            return z.relu()
        if self.activation == "soft_threshold":
            return (z - self.threshold).relu() - (-z - self.threshold).relu()
        return _Step.apply(z)


class _Step(torch.autograd.Function):
    """1 where positive; backward as the identity where the input is in [-1, 1]."""

    @staticmethod
    def forward(ctx, z):
        """Return the steps."""
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        """Let the gradient through where the input is small."""
        (z,) = ctx.saved_tensors
        return grad * (z.abs() <= 1)
