from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from sparsecode.robustness import adversarial_sparsity, certified_radius
from sparsecode.robustness import adversarial_sparsity as measure


def data(n: int = 30, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=n)
    return rng.normal(size=(3, d))[y] + rng.normal(size=(n, d)), y


def as_network(model: LogisticRegression) -> nn.Module:
    """The same scores through a ReLU that is never off: linear, but not known to be."""
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    network = nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        network[0].weight.copy_(weight)
        network[0].bias.copy_(bias + 1e3)
        network[2].weight.copy_(torch.eye(3))
        network[2].bias.fill_(-1e3)
    return network


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_search_finds_what_the_closed_form_says(norm: str) -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    eps = 1.5 * float(np.median(certified_radius(model, X, y, norm)))
    exact = measure(model, X, y, eps, norm, n_directions=6)
    found = measure(as_network(model), X, y, eps, norm, n_directions=6)
    both = np.isfinite(exact.freedom) & np.isfinite(found.freedom)
    assert both.mean() > 0.3
    assert (np.isfinite(exact.freedom) == np.isfinite(found.freedom)).mean() > 0.9
    assert (found.freedom[both] >= exact.freedom[both] - 1e-9).all()
    assert np.mean(found.freedom[both] - exact.freedom[both]) < 0.03


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_exists_exactly_where_the_radius_allows_it(norm: str) -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    radius = certified_radius(model, X, y, norm)
    for eps in np.quantile(radius[radius > 0], [0.2, 0.8]):
        found = measure(model, X, y, eps * (1 + 1e-9), norm, n_directions=5)
        assert (np.isfinite(found.freedom) == (radius <= eps)[:, None]).all()


def test_the_share_of_a_plane_is_the_share_of_an_angle() -> None:
    head = nn.Linear(2, 2).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        head.bias.zero_()
    # From distance 1, steps of length 2 cross within 60 degrees of the normal: a third of all
    # directions; a cone of 45 degrees reaches them from 105 degrees.
    found = adversarial_sparsity(head, [[1.0, 0.3]] * 50, [0] * 50, 2.0, n_directions=200)
    assert found.share() == pytest.approx(1 / 3, abs=0.02)
    assert found.share(0.25) == pytest.approx((60 + 45) / 180, abs=0.02)
    assert found.share(1.0) == 1


def test_free_coordinates_are_counted() -> None:
    head = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
    # A step of 1 in each coordinate: the sum falls by 4 at the best corner, and 3 is needed, so
    # all wrong signs must be freed but none may be left over.
    found = adversarial_sparsity(head, [[0.75] * 4] * 200, [0] * 200, 1.0, "linf", n_directions=5)
    assert set(np.unique(found.freedom)) <= {0, 0.25, 0.5, 0.75, 1}
    # Only the all-negative corner, one in 16, needs no freedom.
    assert found.share() == pytest.approx(1 / 16, abs=0.03)


def test_wrong_predictions_need_no_freedom_and_hopeless_steps_find_none() -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    wrong = measure(model, X, (model.predict(X) + 1) % 3, 1.0, n_directions=2)
    assert not wrong.freedom.any()
    assert wrong.mean == 0
    hopeless = measure(model, X, model.predict(X), 1e-9, n_directions=2)
    assert np.isinf(hopeless.freedom).all()
    assert (hopeless.mean, hopeless.share(1.0)) == (1, 0)


def test_larger_steps_need_less_freedom() -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    means = [measure(model, X, y, eps, n_directions=8).mean for eps in (0.2, 1.0, 4.0)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


def test_a_seed_repeats_the_directions() -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    first, again, other = (measure(model, X, y, 1.0, seed=s).freedom for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "`norm` must be one of 'l2', 'linf'; got 'l1'"),
        ({"eps": 0.0}, "`eps` must be a finite number in"),
        ({"n_directions": 0}, "`n_directions` must be an int in"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match=message):
        adversarial_sparsity(model, X, y, **{"eps": 1.0} | settings)
