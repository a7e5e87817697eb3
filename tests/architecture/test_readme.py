"""What the README shows is there and runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_blocks_run_one_after_another(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 7
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.3


def test_the_tree_names_what_exists() -> None:
    tree = README.split("## The tree")[1].split("\n\n")[1]
    top, named = ROOT, []
    for line in tree.splitlines():
        nested, names = re.match(r" {4}(  )?((?:\S+ )+) ", line).groups()
        top = top if nested else ROOT / names.split()[0]
        named += [(top if nested else ROOT) / name for name in names.split()]
    assert len(named) > 15
    assert not [path for path in named if not path.exists()]


def test_make_knows_the_targets_that_the_documents_name() -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    documents = README + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"^ +make (\w+)", documents, flags=re.MULTILINE))
    named |= set(re.findall(r"`make (\w+)[^`]*`", documents))
    assert {"demo", "test", "install"} <= named <= known


def extras() -> set[str]:
    pyproject = (ROOT / "pyproject.toml").read_text()
    return set(tomllib.loads(pyproject)["project"]["optional-dependencies"])


def test_every_extra_that_a_message_names_exists() -> None:
    sources = [path.read_text() for path in (ROOT / "sparsecode").rglob("*.py")]
    sources += [path.read_text() for path in (ROOT / "sae").rglob("*.py")]
    sources += [path.read_text() for path in (ROOT / "retrieval").rglob("*.py")]
    named = set(re.findall(r"sparsecode\[(\w+)\]", " ".join(sources)))
    assert {"llm", "report"} <= named <= extras()


def test_every_extra_is_explained() -> None:
    listed = set(re.findall(r"^\| (`.*?`) \|", README, flags=re.MULTILINE))
    explained = set(re.findall(r"`(\w+)`", " ".join(listed)))
    assert explained == extras()
