"""Run the benchmarks of this folder: machine facts first, correctness before time, table last.

    python tests/benchmarks/run.py [NAME...] [--device cpu|cuda] [--smoke|--full] [--json FILE]

A benchmark is a file ``bench_<name>.py`` with ``run(*, device, smoke) -> list[dict]``: one dict per
line of the table, its keys the columns. What a number means is said in README.md beside this file.
"""

import argparse
import importlib.util
import json
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent


def load(path: Path) -> ModuleType:
    """Import a benchmark file by its path, this folder and the repository importable."""
    for folder in (HERE, HERE.parents[1]):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def benchmarks() -> dict[str, Path]:
    """Return name -> file of every benchmark in this folder."""
    return {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}


def table(rows: list[dict]) -> str:
    """Return the rows as aligned text; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def run(names: list[str], *, device: str, smoke: bool) -> tuple[dict, dict[str, list[dict]], bool]:
    """Run the named benchmarks; return the machine facts, the rows of each, and whether all ran."""
    load(HERE / "measure.py")
    from measure import machine

    facts = machine(device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    results, complete = {}, True
    for name in names:
        print(f"\n{name} ...", flush=True)
        start = time.perf_counter()
        try:
            results[name] = load(benchmarks()[name]).run(device=device, smoke=smoke)
        except Exception:  # one broken benchmark must not cost the others' results
            traceback.print_exc()
            complete = False
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return facts, results, complete


def save(facts: dict, results: dict[str, list[dict]], device: str, file: Path | None) -> None:
    """Write the results to `file`, or one file per benchmark under ``results/<device>/``."""
    if file is not None:
        _write(file, {"machine": facts, "results": results})
        return
    for name, rows in results.items():
        _write(HERE / "results" / device / f"{name}.json", {"machine": facts, "results": rows})


def _write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, default=str) + "\n")
    print(f"wrote {file}")


def main(argv: list[str] | None = None) -> int:
    """Read the command line, run, print the tables; return 0 if every benchmark ran."""
    known = benchmarks()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="small shapes: does everything run?")
    size.add_argument("--full", action="store_true", help="the shapes of the targets (default)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to one file")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(known)}; got {', '.join(unknown)}")
    facts, results, complete = run(args.names or list(known), device=args.device, smoke=args.smoke)
    if args.json or not args.smoke:
        save(facts, results, args.device, args.json)
    for name, rows in results.items():
        print(f"\n{name}\n{table(rows)}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
