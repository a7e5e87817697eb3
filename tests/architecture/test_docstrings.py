"""Docstrings of public names are complete: what numpydoc.validate can see."""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
from functools import cache
from types import ModuleType

import pytest
from numpydoc.validate import validate

import retrieval
import sae
import sparsecode

# Codes of numpydoc.validate that must not occur. Left out: layout of the quotes (GL01, GL02; ruff's
# business), and sections that not every docstring needs (See Also, Examples, extended summary).
ALWAYS = {
    "GL06",  # unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "SS01",  # no summary
    "SS02",  # summary does not start with a capital letter
    "SS03",  # summary does not end with a period
    "SS04",  # summary starts with spaces
    "SS06",  # summary spans several lines
    "PR02",  # unknown parameters documented
    "PR03",  # parameters in the wrong order
    "PR04",  # parameter without a type
}

# What a method or a function of a public module may leave to its signature and one sentence, except
# that a Parameters section names all of them; what the packages export always has these sections.
COMPLETE = {
    "PR01",  # parameters not documented
    "RT01",  # no Returns section
    "YD01",  # no Yields section
}

# Modules that users import from directly.
PUBLIC_MODULES = (
    "sparsecode.datasets",
    "sparsecode.io",
    "sparsecode.testing",
    "sae.estimator",
    "sae.testing",
    "retrieval.testing",
    "retrieval.hybrid",
    "retrieval.export",
    "retrieval.opensearch",
    "retrieval.encoded",
    "retrieval.evaluation.beir",
    "retrieval.evaluation.trec",
)


def packages(root: ModuleType) -> list[ModuleType]:
    found = pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
    return [root, *(importlib.import_module(info.name) for info in found if info.ispkg)]


def documents_its_fields(value: object) -> bool:
    """Whether the class has no parameters, or says what they are under each field."""
    return dataclasses.is_dataclass(value) or getattr(value, "_is_protocol", False)


def is_documented_kind(value: object) -> bool:
    return inspect.isfunction(value) or inspect.isclass(value)


@cache
def exported() -> dict[str, object]:
    """Return the functions and classes that the packages export, by their dotted names."""
    return {
        f"{value.__module__}.{value.__qualname__}": value
        for root in (sparsecode, sae, retrieval)
        for package in packages(root)
        for name in dir(package)
        if not name.startswith("_") and is_documented_kind(value := getattr(package, name))
    }


def public_names() -> list[str]:
    """Return the dotted names of all functions, classes and own methods that users can reach."""
    known = dict(exported())
    for module in PUBLIC_MODULES:
        if importlib.util.find_spec(module) is not None:
            for name, value in vars(importlib.import_module(module)).items():
                own = getattr(value, "__module__", None) == module
                if is_documented_kind(value) and own and not name.startswith("_"):
                    known[f"{module}.{name}"] = value
    names = list(known)
    for path, value in known.items():
        if inspect.isclass(value):
            names += [
                f"{path}.{name}"
                for name, member in vars(value).items()
                if inspect.isfunction(member) and not name.startswith("_")
            ]
    return sorted(names)


@pytest.mark.parametrize("name", public_names())
def test_docstring_is_complete(name: str) -> None:
    found = validate(name)
    checks = ALWAYS | COMPLETE if name in exported() else ALWAYS
    if documents_its_fields(exported().get(name)):
        checks = checks - {"PR01"}
    if "Parameters\n" in found["docstring"]:
        checks = checks | {"PR01"}
    errors = [f"{code}: {text}" for code, text in found["errors"] if code in checks]
    assert not errors


def test_the_main_names_are_seen() -> None:
    assert {"sparsecode.codes.SparseCodes", "sparsecode.ops.selection.api.topk"} <= set(
        public_names()
    )
