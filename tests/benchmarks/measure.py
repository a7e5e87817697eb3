"""Time contenders against each other in one process, and measure memory from outside the allocator.

Everything a benchmark file needs: `interleave` for times and ratios, `peak_extra` for memory,
`machine` for the facts that head every result. METHODS are described in README.md.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender, and its ratios to the baseline of the same rounds."""

    times: tuple[float, ...]
    ratios: tuple[float, ...]

    def row(self) -> dict:
        """Return the columns that this timing fills in a result table."""
        low, middle, high = _quantiles(self.times)
        row = {"ms": middle, "p10": low, "p90": high}
        if self.ratios:
            low, middle, high = _quantiles(self.ratios)
            row |= {"ratio": middle, "ratio_p10": low, "ratio_p90": high}
        return row | {"rounds": len(self.times)}


def _quantiles(sample: tuple[float, ...]) -> tuple[float, float, float]:
    if len(sample) < 2:
        return sample[0], sample[0], sample[0]
    cuts = statistics.quantiles(sample, n=10, method="inclusive")
    return cuts[0], statistics.median(sample), cuts[-1]


def stopwatch(device: str) -> Callable[[Callable[[], object]], float]:
    """Return a function that runs its argument once and returns the milliseconds it took."""

    def on_cpu(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    def on_cuda(work: Callable[[], object]) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop)

    return on_cuda if device == "cuda" else on_cpu


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    device: str = "cpu",
    rounds: int = 10,
    seconds: float = 60.0,
    warmup: int = 2,
) -> dict[str, Timing]:
    """Time all contenders in interleaved rounds.

    A round runs every contender once, each directly after a run of the baseline; a ratio divides
    the two neighbours, so a machine that slows down for a while slows both sides of it. Rounds
    stop at `rounds`, or after `seconds` once three are done.
    """
    clock = stopwatch(device)
    for work in contenders.values():
        for _ in range(warmup):
            clock(work)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    ratios: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, work in contenders.items():
            if name == baseline:
                continue
            reference = clock(contenders[baseline])
            elapsed = clock(work)
            times[baseline].append(reference)
            times[name].append(elapsed)
            ratios[name].append(elapsed / reference)
    return {name: Timing(tuple(times[name]), tuple(ratios[name])) for name in contenders}


def peak_extra(bench: Path, function: str, *args: object) -> int:
    """Return the bytes that ``function(*args)`` of a benchmark file reports, in a fresh process.

    Glibc is told to give every freed block back at once, so that resident memory is live memory.
    """
    command = [sys.executable, str(HERE / "peak.py"), str(bench), function, json.dumps(args)]
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        command, env={**os.environ, **glibc}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"measuring {function}{args} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def resident_bytes() -> int:
    """Return the resident memory of this process, as the kernel counts it."""
    return _status("VmRSS")


def peak_resident_bytes(work: Callable[[], object]) -> int:
    """Run `work` and return the highest resident memory the kernel saw meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _status("VmHWM")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def machine(device: str) -> dict:
    """Return what a reader must know of the machine, its speed measured now."""
    facts = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "clocks": _gpu_clocks()}
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.ones(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    matmul = _median_ms(lambda: torch.mm(a, b, out=product), device)
    copy = _median_ms(lambda: target.copy_(source), device)
    return facts | {
        f"matmul_{size}_gflops": round(2 * size**3 / matmul / 1e6, 1),
        "copy_gb_per_s": round(2 * source.nbytes / copy / 1e6, 1),
    }


def _median_ms(work: Callable[[], object], device: str, repeats: int = 9) -> float:
    clock = stopwatch(device)
    return statistics.median([clock(work) for _ in range(repeats + 2)][2:])


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu_clocks() -> str:
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def _commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
