"""What every test and docstring example needs, wherever pytest was started from."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach Python: a shell's background jobs start with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
