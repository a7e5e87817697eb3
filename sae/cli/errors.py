"""What a command does with an error: one sentence and exit code 2, or how to go on after Ctrl-C."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, ArithmeticError)
USAGE, INTERRUPTED = 2, 130

# What a message says of Python, and how it is said on the command line.
IN_PYTHON = {
    " Go on with fit(resume=True).": "",
    " Go on with sweep(resume=True).": "",
    "fit(resume=True)": "--resume",
    "fit(overwrite=True)": "--overwrite",
    "overwrite=True": "--overwrite",
    "resume=False": "--no-resume",
    "`out_dir`": "`--out`",
    "heldout_fraction=0": "--heldout-fraction 0",
    "`sae.cache.write`": "`sae cache`",
}
ARGUMENTS = {
    "data": "DIR",
    "folder": "RUN",
    "model": "MODEL",
    "texts": "TEXT",
    "out": "--out",
    "hookpoint": "--hookpoint",
    "hookpoints": "--hookpoints",
    "architectures": "--arch",
    "options": "--arch-option",
    "seeds": "--seeds",
    "lrs": "--lr",
    "together": "--together",
    "resume": "--resume",
    "k": "-k",
    "n_latents": "--latents",
    "n_steps": "--steps",
    "n_examples": "--examples",
    "format": "--format",
    "revision": "--revision",
}


@contextmanager
def sentences(debug: bool, *, after_interrupt: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn the library's errors into one red sentence on stderr, and Ctrl-C into advice.

    Parameters
    ----------
    debug : bool
        Let every error through, with its traceback.
    after_interrupt : callable or None, default=None
        Returns the command that goes on after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(err=True)
        typer.secho(_sentence(stop) if str(stop) else "Interrupted.", fg="yellow", err=True)
        if after_interrupt is not None:
            typer.echo(f"Go on with:\n\n  {after_interrupt()}\n", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of a pipe went away: typer ends quietly
    except (*EXPECTED, MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, EXPECTED) or _is_out_of_memory(error)):
            raise
        typer.secho(f"Error: {_sentence(error)}", fg="red", err=True)
        raise typer.Exit(USAGE) from None


def this_command(add: str = "", *, drop: str = "") -> str:
    """Return the command line that is running, with one flag added and one dropped."""
    words = [word for word in sys.argv[1:] if word not in (add, drop)]
    return shlex.join(["sae", *words, *([add] if add else [])])


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "memory" in str(error).partition("\n")[0]


def _sentence(error: BaseException) -> str:
    """Return the message of an error, with the names of Python arguments turned into options."""
    text = str(error) or type(error).__name__
    if _is_out_of_memory(error) and not isinstance(error, EXPECTED):
        fact = text.partition("\n")[0]
        return f"The memory must be enough; it is not ({fact}). Use a smaller batch or model."
    if isinstance(error, OSError) and error.strerror:  # str() would put the number in front
        text = error.strerror
        text = f"`{error.filename}`: {text}" if error.filename else text
    for python, option in IN_PYTHON.items():
        text = text.replace(python, option)
    named = re.match(r"`(\w+)` must", text)
    if named and named[1] in ARGUMENTS:
        text = f"`{ARGUMENTS[named[1]]}`{text[named.end(1) + 1 :]}"
    return text
