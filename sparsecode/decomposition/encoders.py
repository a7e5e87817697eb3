"""Networks that predict sparse codes in one pass: a gated tanh, LISTA and ALISTA."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class AbstractEncoder(nn.Module, ABC):
    """Maps rows (N, D) to codes (N, F), without iterating to convergence."""

    @abstractmethod
    def forward(self, x_ND: Tensor) -> Tensor:
        """Return codes."""

    @abstractmethod
    def follow(self, dictionary_FD: Tensor) -> None:
        """Take over what is computed from the dictionary, which has changed."""


class TanhEncoder(AbstractEncoder):
    """One layer with a gain for each code: ``gain * tanh(x W + b)``.

    Its codes are small where they should be zero, not exactly zero.

    Parameters
    ----------
    dictionary_FD : Tensor of shape (F, D)
        Atoms: the weights begin at ``D / L``, L the squared norm of D.
    alpha : float
        Weight of the l1 norm; has no part here.
    n_layers : int
        Has no part here.

    References
    ----------
    Kavukcuoglu, Ranzato & LeCun (2008), "Fast inference in sparse coding algorithms with
    applications to object recognition", eq. (3). arXiv:1010.3467.
    """

    def __init__(self, dictionary_FD: Tensor, alpha: float, n_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((_step(dictionary_FD) * dictionary_FD).detach().clone())
        self.bias = nn.Parameter(dictionary_FD.new_zeros(len(dictionary_FD)))
        self.gain = nn.Parameter(dictionary_FD.new_ones(len(dictionary_FD)))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return codes."""
        return self.gain * torch.tanh(nn.functional.linear(x_ND, self.weight, self.bias))

    def follow(self, dictionary_FD: Tensor) -> None:
        """Nothing is computed from the dictionary."""


class LISTA(AbstractEncoder):
    """Unrolled iterative soft thresholding whose matrices and thresholds are learned.

    ``z_0 = h(x W)``, then `n_layers` times ``z <- h(x W + z S)``, h being a soft threshold of its
    own for each code. Begins as that many steps of ISTA from there.

    Parameters
    ----------
    dictionary_FD : Tensor of shape (F, D)
        Atoms: ``W = D^T / L`` and ``S = I - D D^T / L`` to begin with, L the squared norm of D.
    alpha : float
        Weight of the l1 norm: thresholds begin at ``alpha / L``.
    n_layers : int
        Times that S is applied.

    References
    ----------
    Gregor & LeCun (2010), "Learning fast approximations of sparse coding", algorithm 3.
    """

    def __init__(self, dictionary_FD: Tensor, alpha: float, n_layers: int) -> None:
        super().__init__()
        step = _step(dictionary_FD)
        gram_FF = dictionary_FD @ dictionary_FD.T
        self.n_layers = n_layers
        self.weight = nn.Parameter((step * dictionary_FD).detach().clone())
        self.inhibition = nn.Parameter(torch.eye(len(gram_FF)).to(gram_FF) - step * gram_FF)
        self.threshold = nn.Parameter(torch.full_like(gram_FF[0], alpha * step))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return codes."""
        filtered_NF = nn.functional.linear(x_ND, self.weight)
        z_NF = _soft(filtered_NF, self.threshold)
        for _ in range(self.n_layers):
            z_NF = _soft(torch.addmm(filtered_NF, z_NF, self.inhibition), self.threshold)
        return z_NF

    def follow(self, dictionary_FD: Tensor) -> None:
        """Nothing is computed from the dictionary after the start."""


class ALISTA(AbstractEncoder):
    """Unrolled iterative soft thresholding of which only steps and thresholds are learned.

    ``z <- h(z + gamma_k (x - z D) V^T)``, h a soft threshold ``theta_k``: two numbers a layer.
    Among matrices with ``v_j . d_j = 1``, V is the one of smallest ``||V D^T||_F``, the least
    coherent one: ``v_j = M^-1 d_j / (d_j . M^-1 d_j)`` with ``M = D^T D``.

    Parameters
    ----------
    dictionary_FD : Tensor of shape (F, D)
        Atoms.
    alpha : float
        Weight of the l1 norm.
    n_layers : int
        Layers beyond the first.

    References
    ----------
    Liu, Chen, Wang & Yin (2019), "ALISTA: analytic weights are as good as learned weights in
    LISTA", eqs. (10) and (12). Differs from it in: no support selection.
    """

    dictionary: Tensor
    analytic: Tensor

    def __init__(self, dictionary_FD: Tensor, alpha: float, n_layers: int) -> None:
        super().__init__()
        self.register_buffer("dictionary", dictionary_FD.detach().clone())
        self.register_buffer("analytic", _least_coherent(dictionary_FD.detach()))
        product_FF = self.analytic @ self.dictionary.T
        step = 1 / float(torch.linalg.matrix_norm(product_FF, 2).clamp(min=1e-12))
        layers = dictionary_FD.new_ones(n_layers + 1)
        self.steps = nn.Parameter(step * layers)
        self.thresholds = nn.Parameter(alpha * step * layers)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return codes."""
        z_NF = _soft(self.steps[0] * (x_ND @ self.analytic.T), self.thresholds[0])
        for step, threshold in zip(self.steps[1:], self.thresholds[1:], strict=True):
            left_ND = x_ND - z_NF @ self.dictionary
            z_NF = _soft(z_NF + step * (left_ND @ self.analytic.T), threshold)
        return z_NF

    def follow(self, dictionary_FD: Tensor) -> None:
        """Compute the analytic weights again."""
        self.dictionary.copy_(dictionary_FD)
        self.analytic.copy_(_least_coherent(dictionary_FD))


ENCODERS: dict[str, type[AbstractEncoder]] = {"tanh": TanhEncoder, "lista": LISTA, "alista": ALISTA}


def _soft(z: Tensor, threshold: Tensor) -> Tensor:
    return z - torch.clamp(z, -threshold.clamp(min=0), threshold.clamp(min=0))


def _step(dictionary_FD: Tensor) -> float:
    norm = float(torch.linalg.matrix_norm(dictionary_FD, 2)) ** 2
    return 1 / norm if norm > 0 else 1.0


def _least_coherent(dictionary_FD: Tensor) -> Tensor:
    inverse_DD = torch.linalg.pinv((dictionary_FD.T @ dictionary_FD).double(), hermitian=True)
    raised_FD = dictionary_FD.double() @ inverse_DD
    along_F1 = (raised_FD * dictionary_FD).sum(1, keepdim=True)
    return (raised_FD / along_F1.where(along_F1 > 0, 1.0)).to(dictionary_FD)
