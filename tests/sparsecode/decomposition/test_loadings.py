from typing import Any

import pytest
import torch

from sparsecode.decomposition.loadings import LoadingsProblem, unit_components
from sparsecode.penalties import L1


def problem(**changes: Any) -> LoadingsProblem:
    settings = {
        "solver": "elastic_net",
        "alpha": None,
        "n_nonzero": None,
        "l2_alpha": 0.0,
        "penalty": None,
        "max_iter": 100,
        "tol": 1e-6,
    }
    return LoadingsProblem(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"solver": "lars"},
            "`solver` must be one of 'elastic_net', 'proximal_gradient', 'tpower'",
        ),
        ({"alpha": -1.0}, r"`alpha` must be a finite number in \[0, inf\)"),
        ({"l2_alpha": -1.0}, r"`l2_alpha` must be a finite number in \[0, inf\)"),
        ({"max_iter": 0}, r"`max_iter` must be an int in \[1, inf\); got 0"),
        ({"tol": -1e-3}, "`tol` must be a finite number"),
        (
            {"alpha": 1.0, "n_nonzero": 3},
            r"Only one of .* may be set; got \['alpha', 'n_nonzero'\]",
        ),
        ({"penalty": L1(1.0)}, r'Use solver="proximal_gradient"\.'),
        ({"l2_alpha": 1.0, "solver": "proximal_gradient"}, 'Use solver="elastic_net"'),
        ({"solver": "tpower"}, '`n_nonzero` must be set for solver="tpower"'),
        ({"solver": "tpower", "alpha": 1.0}, '`n_nonzero` must be set for solver="tpower"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem(**changes)


def test_a_penalty_must_be_one() -> None:
    with pytest.raises(TypeError, match=r"`penalty` must be an AbstractPenalty or None; got 1\.0"):
        problem(penalty=1.0, solver="proximal_gradient")


def test_the_default_weight_is_one() -> None:
    rows = torch.diag(torch.tensor([3.0, 2.0], dtype=torch.float64))
    assert problem().solve(rows, rows).loadings.tolist() == [[2, 0], [0, 1]]
    assert problem(solver="proximal_gradient").solve(rows, rows).loadings.diagonal().tolist() == (
        pytest.approx([2, 1])
    )


def test_no_data_gives_no_loadings() -> None:
    solution = problem().solve(torch.zeros(0, 4), torch.zeros(2, 4))
    assert solution.loadings.tolist() == [[0] * 4] * 2


def test_components_get_unit_norm() -> None:
    loadings = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    components, n_unused = unit_components(torch.eye(2), loadings, 1)
    torch.testing.assert_close(components, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    assert n_unused == 0


def test_unused_components_take_the_features_that_are_explained_least() -> None:
    rows = torch.diag(torch.tensor([5.0, 1.0, 3.0, 2.0]))
    loadings = torch.zeros(3, 4)
    loadings[1, 0] = 4.0
    components, n_unused = unit_components(rows, loadings, 1)
    assert components.argmax(1).tolist() == [2, 0, 3]
    assert n_unused == 2


def test_unused_components_have_the_exact_number_of_loadings() -> None:
    components, n_unused = unit_components(torch.eye(4), torch.zeros(2, 4), 3)
    assert (components != 0).sum(1).tolist() == [3, 3]
    torch.testing.assert_close(components.norm(dim=1), torch.ones(2))
    assert n_unused == 2
