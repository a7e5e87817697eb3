"""How good a dictionary is: against the true one, against itself, against another run's."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparsecode._checks import as_tensor, check_floating, check_int, check_last_dim


def recovery_error(learned: Tensor, truth: Tensor) -> float:
    """Return the mean cosine distance of true atoms to their nearest learned atoms.

    Neither the order nor the signs of atoms count, and one learned atom may serve many true ones.

    Parameters
    ----------
    learned : Tensor or ndarray of shape (F, D)
        One atom per row, of any norm.
    truth : Tensor or ndarray of shape (P, D)
        The atoms to be found.

    Returns
    -------
    float
        Between 0, all found, and 1.

    References
    ----------
    Chidambaram, Wu, Cheng & Ge (2023), "Hiding data helps: on the benefits of masking for sparse
    coding". arXiv:2302.12715.

    Examples
    --------
    >>> recovery_error(torch.tensor([[0.0, -2.0], [1.0, 0.0]]), torch.eye(2))
    0.0
    """
    return float(1 - _cosines(truth, learned).abs().amax(1).mean())


def coherence(dictionary: Tensor) -> float:
    """Return the largest absolute cosine between two different atoms.

    Parameters
    ----------
    dictionary : Tensor or ndarray of shape (F, D)
        One atom per row, of any norm; at least two.

    Returns
    -------
    float
        Between 0, orthogonal, and 1, two atoms are parallel.

    Examples
    --------
    >>> coherence(torch.eye(3))
    0.0
    """
    return float(largest_cosines(dictionary).max())


def largest_cosines(dictionary: Tensor, *, chunk_size: int = 2048) -> Tensor:
    """Return each atom's largest absolute cosine with another atom.

    Parameters
    ----------
    dictionary : Tensor or ndarray of shape (F, D)
        One atom per row, of any norm; at least two.
    chunk_size : int, default=2048
        Atoms compared at a time; (chunk_size, F) is the largest matrix that is held.

    Returns
    -------
    Tensor of shape (F,), float64

    Examples
    --------
    >>> largest_cosines(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, -3.0]]))
    tensor([0., 1., 1.], dtype=torch.float64)
    """
    atoms = check_floating("dictionary", dictionary)
    if len(atoms) < 2:
        raise ValueError(f"`dictionary` must have at least two atoms; got {len(atoms)}.")
    found = []
    for start in range(0, len(atoms), check_int("chunk_size", chunk_size, low=1)):
        cosines = _cosines(atoms[start : start + chunk_size], atoms).abs()
        own = torch.arange(len(cosines), device=cosines.device)
        cosines[own, own + start] = 0
        found.append(cosines.amax(1))
    return torch.cat(found)


def stability(first: Tensor, second: Tensor) -> float:
    """Return the mean absolute cosine of two dictionaries' atoms, matched one to one.

    Parameters
    ----------
    first : Tensor or ndarray of shape (F, D)
        One atom per row, of any norm.
    second : Tensor or ndarray of shape (G, D)
        The dictionary of another run. Of the larger one, atoms without a partner do not count.

    Returns
    -------
    float
        Between 0 and 1, the same atoms up to order and sign.

    Examples
    --------
    >>> stability(torch.eye(2), torch.tensor([[0.0, -2.0], [1.0, 0.0]]))
    1.0
    """
    cosines = _cosines(first, second).abs().cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return float(cosines[rows, columns].mean())


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    a_FD, b_GD = _atoms("first", first), _atoms("second", second)
    check_last_dim("second", b_GD, a_FD.shape[-1], "n_features")
    a_FD, b_GD = (torch.nn.functional.normalize(atoms, dim=1) for atoms in (a_FD, b_GD))
    return (a_FD @ b_GD.T).clamp(-1, 1)


def _atoms(name: str, given: Tensor) -> Tensor:
    """Return atoms in float64; integers are welcome."""
    atoms = as_tensor(given)
    if isinstance(atoms, Tensor) and not atoms.is_floating_point() and not atoms.is_complex():
        return atoms.double()
    return check_floating(name, atoms).double()
