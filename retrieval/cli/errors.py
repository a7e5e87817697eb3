"""What a command does with an error: one sentence and exit code 2, or how to go on after Ctrl-C."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, MemoryError)
USAGE, INTERRUPTED = 2, 130


@contextmanager
def sentences(debug: bool) -> Iterator[None]:
    """Turn the library's errors into one red sentence on stderr, and Ctrl-C into advice.

    Parameters
    ----------
    debug : bool
        Let every error through, with its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["retrieval", *sys.argv[1:]])
        typer.secho("\nInterrupted. Nothing that was written is lost.", fg="yellow", err=True)
        typer.echo(f"Go on with:\n\n  {command}\n", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of a pipe went away: typer ends quietly
    except EXPECTED as error:
        if debug:
            raise
        typer.secho(f"Error: {_sentence(error)}", fg="red", err=True)
        raise typer.Exit(USAGE) from None


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:  # str() would put the number in front
        return f"`{error.filename}`: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
