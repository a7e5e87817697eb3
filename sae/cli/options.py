"""Options that mirror code: names, types, defaults and help come from where they are defined."""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import typer

Command = Callable[..., Any]


@dataclass(frozen=True)
class Mirrored:
    """One option of a command.

    Parameters
    ----------
    name : str
        Of the argument or field that it sets.
    kind : type
        What typer makes of the text.
    default : object
    help : str
    panel : str
        Heading under which ``--help`` shows it.
    flags : tuple of str
        Spellings; the name with hyphens if empty.
    """

    name: str
    kind: Any
    default: Any
    help: str
    panel: str
    flags: tuple[str, ...] = ()

    def parameter(self) -> inspect.Parameter:
        """Return it as a keyword-only parameter for typer."""
        flags = self.flags
        if not flags and self.kind is bool and not self.default:
            flags = (f"--{self.name.replace('_', '-')}",)  # what is off needs no --no-...
        option = typer.Option(
            *flags,
            help=markup(self.help),
            rich_help_panel=self.panel,
            show_default=self.default is not None and self.default != (),
        )
        default = (
            list(self.default)
            if isinstance(self.default, tuple) and not self.default
            else self.default
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[self.kind, option],
        )


def of_fields(
    config: type,
    panels: Mapping[str, str],
    *,
    flags: Mapping[str, tuple[str, ...]] | None = None,
    kinds: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
) -> list[Mirrored]:
    """Return an option for each field of a dataclass, with the docstring under the field as help.

    Parameters
    ----------
    config : type
        A dataclass.
    panels : mapping
        Heading for each field; a field without one is an error, so that none is forgotten.
    flags : mapping or None, default=None
        Spellings that differ from the name.
    kinds : mapping or None, default=None
        Types that differ from the annotation.
    helps : mapping or None, default=None
        Help that differs from the docstring.
    skip : iterable of str, default=()
        Fields that the command sets in another way.
    """
    docs = {**field_docs(config), **(helps or {})}
    skipped = set(skip)
    return [
        Mirrored(
            name=field.name,
            kind=(kinds or {}).get(field.name, field.type),
            default=None if field.default is MISSING else field.default,
            help=docs[field.name],
            panel=panels[field.name],
            flags=(flags or {}).get(field.name, ()),
        )
        for field in fields(config)
        if field.name not in skipped
    ]


def of_function(
    function: Command,
    panels: Mapping[str, str],
    *,
    kinds: Mapping[str, Any] | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
) -> list[Mirrored]:
    """Return an option for each keyword-only argument, with its numpydoc description as help.

    Parameters
    ----------
    function : callable
    panels : mapping
        Heading for each argument; one without is an error.
    kinds, flags, defaults, helps : mapping or None, default=None
        What differs from the signature and the docstring.
    """
    docs = {**parameter_docs(function), **(helps or {})}
    return [
        Mirrored(
            name=name,
            kind=(kinds or {}).get(name, parameter.annotation),
            default=(defaults or {}).get(name, parameter.default),
            help=docs[name],
            panel=panels[name],
            flags=(flags or {}).get(name, ()),
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def with_options(
    options: Iterable[Mirrored], panel_order: Sequence[str]
) -> Callable[[Command], Command]:
    """Give a command that takes ``**options`` these in its signature, where typer reads them.

    Parameters
    ----------
    options : iterable of Mirrored
    panel_order : sequence of str
        Order of the headings in ``--help``; options without a heading come first.
    """
    places = {panel: place for place, panel in enumerate(panel_order)}

    def place(parameter: inspect.Parameter) -> int:
        panel = parameter.annotation.__metadata__[0].rich_help_panel
        return -1 if panel is None else places[panel]

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command).parameters.values())
        positional = [p for p in own if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        keyword = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        keyword += [option.parameter() for option in options]
        parameters = [*positional, *sorted(keyword, key=lambda p: (place(p), p.name == "debug"))]

        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **kwargs)

        del run.__wrapped__  # inspect would look through to the command without the options
        setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__ = markup(inspect.getdoc(command) or "")
        return run

    return decorate


def markup(text: str) -> str:
    """Return help for rich: literal brackets, names in backticks colored, None in words."""
    escaped = re.sub(r"\[(?=[a-z/#@])", r"\\[", text)
    worded = re.sub(r"(^|[.] )None\b", r"\1No value", escaped)
    worded = re.sub(r"\bNone\b", "no value", worded)
    return re.sub(r"`([^`]+)`", r"[cyan]\1[/cyan]", worded)


def field_docs(config: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, as one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            docs[field.target.id] = _one_line(str(below.value.value))  # type: ignore[attr-defined]
    return docs


def parameter_docs(function: Command) -> dict[str, str]:
    """Return the description of each parameter in a numpydoc docstring, as one line."""
    lines = (inspect.getdoc(function) or "").splitlines()
    docs: dict[str, list[str]] = {}
    names: list[str] = []
    inside = False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if set(below.strip()) == {"-"}:
            inside = line.strip() == "Parameters"
        elif inside and line and not line.startswith((" ", "-")):
            names = [name.strip() for name in line.split(" : ")[0].split(",")]
            docs |= {name: [] for name in names}
        elif inside and line.startswith(" "):
            for name in names:
                docs[name].append(line)
    return {name: _one_line(" ".join(text)) for name, text in docs.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")
