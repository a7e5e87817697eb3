import pytest
from torch import Tensor

from sparsecode.training import AbstractTask


@pytest.mark.parametrize("missing", ["start", "parameter_groups", "losses", "evaluate"])
def test_an_incomplete_task_is_refused_by_the_name_of_what_it_lacks(missing):
    def method(self, *args: Tensor) -> None: ...

    names = {"start", "parameter_groups", "set_progress", "losses", "scheduled", "evaluate"}
    complete = type("Complete", (AbstractTask,), dict.fromkeys(names, method))
    assert isinstance(complete(), AbstractTask)
    lazy = type("Lazy", (AbstractTask,), dict.fromkeys(names - {missing}, method))
    with pytest.raises(TypeError, match=missing):
        lazy()
