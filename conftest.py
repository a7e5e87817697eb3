"""What every test and docstring example needs, wherever pytest was started from."""

import importlib.util
import os
import signal

# Kernels run in Triton's interpreter, on tensors of the CPU; it is chosen before they are imported.
os.environ.setdefault("TRITON_INTERPRET", "1")
collect_ignore_glob = (
    []
    if importlib.util.find_spec("triton")
    else ["sparsecode/ops/*/triton.py", "sparsecode/ops/_launch.py"]
)


def pytest_configure() -> None:
    """Let Ctrl-C reach Python: a shell's background jobs start with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
