"""Upper bounds on how fast the scores of a network can change, from the norms of its layers."""

import torch
from torch import Tensor

from sparsecode.robustness.layers import Layers, largest_slope


def margin_slopes(layers: Layers, order: float) -> Tensor:
    """Bound the dual norm of the gradient of ``s_y - s_c``, for all pairs of labels.

    The smaller of two bounds, with ``u = W_L[y] - W_L[c]`` and the slopes a of the activations:
    ``||u||* prod a_l ||W_l||`` with operator norms, and ``|| |u| |W_{L-1}| ... |W_1| ||* prod a_l``
    with entrywise absolute values, which is never larger in l_inf. Sparse components have short
    columns and rows, and so small norms.

    Parameters
    ----------
    layers : Layers
    order : {1.0, 2.0, inf}
        Of the dual norm: 1 for steps in l_inf, 2 for l_2, inf for l_1.

    Returns
    -------
    Tensor of shape (n_classes, n_classes)

    References
    ----------
    Szegedy et al. (2014), "Intriguing properties of neural networks", section 4.3. arXiv:1312.6199.

    Examples
    --------
    >>> from torch import nn
    >>> from sparsecode.robustness.layers import layers_of
    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> _ = network[0].weight.data.copy_(torch.eye(2)), network[2].weight.data.copy_(torch.eye(2))
    >>> margin_slopes(layers_of(network, (2,)), 2.0).round(decimals=3).tolist()
    [[0.0, 1.414], [1.414, 0.0]]
    """
    *hidden, last = layers.weights
    differences = last[:, None] - last
    slope = 1.0
    for activation in layers.activations:
        slope *= largest_slope(activation)
    by_operators = differences.norm(order, dim=-1)
    for weight in hidden:
        by_operators = by_operators * operator_norm(weight, order)
    reach = differences.abs()
    for weight in reversed(hidden):
        reach = reach @ weight.abs()
    return slope * torch.minimum(by_operators, reach.norm(order, dim=-1))


def operator_norm(weight: Tensor, order: float) -> float:
    """Return ``max ||weight x|| / ||x||`` in the norm whose dual has the given order.

    Parameters
    ----------
    weight : Tensor of shape (outputs, inputs)
    order : {1.0, 2.0, inf}
        1 is the largest row sum of absolute values (l_inf), 2 the largest singular value (l_2), inf
        the largest column sum (l_1).

    Returns
    -------
    float

    Examples
    --------
    >>> weight = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    >>> [round(operator_norm(weight, order), 3) for order in (1.0, 2.0, float("inf"))]
    [7.0, 5.0, 4.0]
    """
    if order == 2:
        return float(torch.linalg.matrix_norm(weight, 2))
    return float(weight.abs().sum(1 if order == 1 else 0).max())
