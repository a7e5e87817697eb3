"""A hint to the system changes nothing but the time."""

from pathlib import Path

import numpy as np
import pytest

from sae.cache.mapped import will_need


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 3), slice(1, 9000), slice(8999, 9000)])
def test_rows_are_as_before(tmp_path: Path, rows: slice) -> None:
    values = np.arange(9000 * 5, dtype=np.float32).reshape(9000, 5)
    np.save(tmp_path / "rows.npy", values)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    will_need(mapped[rows])
    np.testing.assert_array_equal(mapped, values)


def test_memory_that_is_no_file_is_left_alone() -> None:
    values = np.arange(10.0)
    will_need(values[3:])
    np.testing.assert_array_equal(values, np.arange(10.0))
