"""The tree is the argument: tests mirror sources, and tables of names mirror files."""

from pathlib import Path

import pytest

from sae.autoencoders import AUTOENCODERS

ROOT = Path(__file__).parents[2]
PACKAGES = ("sparsecode", "sae", "retrieval")

# Modules without a test file of their own name, with the place where they are tested.
TESTED_ELSEWHERE = {
    "retrieval/evaluation/plots.py": "tests/retrieval/evaluation/test_cost.py",
    "retrieval/evaluation/trec.py": "tests/retrieval/evaluation/test_beir.py",
    "retrieval/index/base.py": "tests/retrieval/index/test_exact.py",
    "retrieval/index/opening.py": "tests/retrieval/index/test_exact.py",
    "retrieval/index/results.py": "tests/retrieval/test_hybrid.py",
    "retrieval/index/segments.py": "tests/retrieval/index/test_exact.py",
    "retrieval/testing.py": "tests/retrieval/index/test_exact.py",
    "retrieval/encoders/flops_task.py": "tests/retrieval/encoders/test_flops.py",
    "retrieval/encoders/lexical_task.py": "tests/retrieval/encoders/test_inference_free.py",
    "retrieval/encoders/projection.py": "tests/retrieval/encoders/test_flops.py",
    "retrieval/encoders/splade.py": "tests/retrieval/encoders/test_inference_free.py",
    "sae/testing.py": "tests/sae/autoencoders/test_contract.py",
    "sparsecode/ops/_row_gradient.py": "tests/sparsecode/ops/test_decode.py",
}


def modules() -> list[Path]:
    """Return the library's files that have content, relative to the root."""
    return sorted(
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    )


def places_of_tests(module: Path) -> list[Path]:
    """Return where the tests of a module may stand: under its own name, or its folder's."""
    places = [module, *(parent for parent in module.parents if len(parent.parts) > 1)]
    return [ROOT / "tests" / place.parent / f"test_{place.stem.lstrip('_')}.py" for place in places]


@pytest.mark.parametrize("module", modules(), ids=str)
def test_every_module_has_its_tests(module: Path) -> None:
    elsewhere = TESTED_ELSEWHERE.get(str(module))
    own = [path for path in places_of_tests(module) if path.exists()]
    if elsewhere:
        assert (ROOT / elsewhere).exists(), f"{elsewhere} is gone"
        assert not own, f"{module} has tests of its own now: drop it from TESTED_ELSEWHERE"
    else:
        assert own, f"no tests at {places_of_tests(module)[0].relative_to(ROOT)}"


def test_the_list_of_exceptions_names_existing_modules() -> None:
    assert {Path(name) for name in TESTED_ELSEWHERE} <= set(modules())


def test_no_init_file_under_tests() -> None:
    # tests/sae/__init__.py would shadow the library.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_folder_for_odds_and_ends() -> None:
    folders = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*")}
    assert not folders & {
        "utils",
        "util",
        "common",
        "core",
        "helpers",
        "misc",
        "utils.py",
        "helpers.py",
    }


def test_autoencoders_equal_the_files() -> None:
    files = {path.stem for path in (ROOT / "sae" / "autoencoders").glob("*.py")}
    assert set(AUTOENCODERS) == files - {"__init__", "base"}
    for name, architecture in AUTOENCODERS.items():
        assert architecture.__module__ == f"sae.autoencoders.{name}"
