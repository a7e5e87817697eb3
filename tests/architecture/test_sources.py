"""House rules that a linter cannot say, checked on the syntax tree of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = sorted(
    path
    for package in ("sparsecode", "sae", "retrieval")
    for path in (ROOT / package).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
MAX_LINES = 500

each_library_file = pytest.mark.parametrize(
    "path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT))
)
each_file = pytest.mark.parametrize(
    "path", [*LIBRARY, *TESTS, *TUTORIALS], ids=lambda path: str(path.relative_to(ROOT))
)


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Return each call with the dotted name that it is written with."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def is_reexport(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and all(
        alias.asname == alias.name for alias in node.names
    )


def is_plain_value(node: ast.expr) -> bool:
    return all(
        isinstance(part, (ast.Dict, ast.Constant, ast.Name, ast.Load)) for part in ast.walk(node)
    )


def is_table(node: ast.stmt) -> bool:
    """Whether the statement is a hand-written dictionary of names, such as AUTOENCODERS."""
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    return isinstance(value, ast.Dict) and is_plain_value(value)


def is_lazy_reexport(node: ast.stmt) -> bool:
    """Whether the statement names something that type checkers see and users load on demand."""
    if isinstance(node, ast.ImportFrom):
        return ast.unparse(node) == "from typing import TYPE_CHECKING"
    if not isinstance(node, ast.If) or ast.unparse(node.test) != "TYPE_CHECKING":
        return False
    functions = {part.name for part in node.orelse if isinstance(part, ast.FunctionDef)}
    only_functions = len(functions) == len(node.orelse)
    return (
        all(is_reexport(part) for part in node.body)
        and only_functions
        and functions == {"__getattr__", "__dir__"}
    )


def is_loaded_when_asked_for(node: ast.stmt) -> bool:
    """Whether the statement lists heavy names for type checkers and loads them in __getattr__."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        allowed = ("__getattr__", "__dir__")
        return all(map(is_reexport, node.body)) and all(
            isinstance(part, ast.FunctionDef) and part.name in allowed for part in node.orelse
        )
    return ast.unparse(node) == "from typing import TYPE_CHECKING"


def belongs_in_init(node: ast.stmt) -> bool:
    return is_reexport(node) or is_table(node) or is_loaded_when_asked_for(node)


@pytest.mark.parametrize(
    "path",
    [path for path in LIBRARY if path.name == "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_init_files_hold_a_docstring_and_reexports(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a package says what it is for"
    others = [ast.unparse(node) for node in tree.body[1:] if not belongs_in_init(node)]
    assert not others


@each_file
def test_files_are_ascii_and_short(path: Path) -> None:
    text = path.read_text()
    assert text.isascii()
    assert text.count("\n") <= MAX_LINES, f"over {MAX_LINES} lines: split the file"


@each_file
def test_annotations_are_not_postponed(path: Path) -> None:
    # Triton reads its functions' source, and run-time shape checks need real annotations.
    assert "__future__" not in imported(ast.parse(path.read_text()))


@each_file
def test_nothing_from_disk_is_executed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not imported(tree) & {"marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in {"eval", "exec", "__import__", "pickle.load", "yaml.load"}, name
        if not name.endswith(".save"):  # a test may write the file that must be refused
            assert keywords.get("allow_pickle", "False") == "False", name
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", "torch.load needs weights_only=True"


@each_library_file
def test_the_library_does_not_pickle_and_reads_no_environment(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert "pickle" not in imported(tree)
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not read & {"os.environ", "os.getenv"}


@each_library_file
def test_warnings_and_logging_are_left_to_the_user(path: Path) -> None:
    names = {name for name, _ in calls(ast.parse(path.read_text()))}
    assert not names & {"warnings.simplefilter", "warnings.filterwarnings", "logging.basicConfig"}


def test_the_checks_above_see_the_library() -> None:
    assert len(LIBRARY) > 20
    assert any(path.name == "codes.py" for path in LIBRARY)
