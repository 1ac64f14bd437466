"""Time of a K-FAC step as a multiple of the SGD step on the same model and batch, with peers and floors.

    python benchmarks/kfac_step.py [--workloads ...] [--rounds N] [--minutes M] [--threads T] [--device D] [--record]

In a round every contender takes each kind of step once, with SGD (for kfac-jax: SGD in JAX) just before it: both for
the same number of steps in a row, after one untimed step where steps are short, so that as in training the caches
contain the state of one optimizer instead of eight. With one thread on a host, times are CPU time of the process, which
other work on the machine disturbs least. After `--minutes` a workload starts no further round. The ratios of a round
are combined for (a) factors every step and inverses every 10, (b) every 10 and every 100; the tables give medians over
rounds with their quartiles. Floors: the FLOPs of forward, backward and K-FAC over those of forward and backward, with
our forms (convolution factors without im2col, low-rank products for small batches) and with the usual ones. Memory: the
peak of a process that takes steps of kind "both", minus that of one that takes SGD steps.
`--record` writes the tables to results/kfac_step.md after every round, so that a run that is stopped keeps its finished
rounds; tables of other workloads are kept.
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from kfac_contenders import CONTENDERS, Step, unit
from kfac_workloads import LENGTH, Workload
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.kfac import KFACConfig, layers_of, step_flops

SETTINGS = {"a": (1, 10), "b": (10, 100)}
KINDS = ("plain", "factors", "both")
ROUNDS = {"perceptron": 60, "wide": 10, "resnet20": 5, "transformer": 5}
STEPS = {"perceptron": 10, "wide": 2, "resnet20": 1, "transformer": 1}
UNITS = {"transformer": "AdamW"}
"""Baseline optimizer by workload, if it is not SGD with momentum."""


@dataclass(eq=False)
class Measured:
    """Ratios to SGD by contender and kind of step, one per round; reasons for missing ones; seconds of SGD steps."""

    ratios: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    units: list[float] = field(default_factory=list)


def timed(step: Step, device: torch.device, steps: int) -> float:
    """Return the seconds of one step, the mean of several in a row after an untimed one that warms the caches."""
    if steps > 1:
        step()
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / steps


def measure(work: Workload, rounds: int) -> Iterator[Measured]:
    """Measure round by round, yielding all measurements so far after each."""
    pairs: dict[tuple[str, str], tuple[Step, Step]] = {}
    known, steps = Measured(), STEPS[work.name]
    for name, (build, base_of) in CONTENDERS.items():
        try:
            built = {kind: (build(work, kind), base_of(work, kind)) for kind in KINDS}
            for step, base in built.values():
                for _ in range(2):
                    step()
                    base()
        except Exception as error:
            known.absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:90]
        else:
            pairs.update({(name, kind): pair for kind, pair in built.items()})
            known.ratios[name] = {kind: [] for kind in KINDS}
    plain = unit(work, "plain")
    for _ in range(rounds):
        known.units.append(timed(plain, work.device, steps))
        for (name, kind), (step, base) in pairs.items():
            seconds = timed(base, work.device, steps)
            known.ratios[name][kind].append(timed(step, work.device, steps) / seconds)
        yield known


def composed(kinds: dict[str, float], factors: int, inverses: int) -> float:
    """Return the mean ratio of a run with these intervals."""
    both = 1 / inverses
    return both * kinds["both"] + (1 / factors - both) * kinds["factors"] + (1 - 1 / factors) * kinds["plain"]


def spread(kinds: dict[str, list[float]], factors: int, inverses: int) -> str:
    """Return the median and quartiles over rounds of the mean ratio of a run with these intervals."""
    rounds = [dict(zip(kinds, values, strict=True)) for values in zip(*kinds.values(), strict=True)]
    ratios = [composed(each, factors, inverses) for each in rounds]
    if len(ratios) == 1:
        return f"**{ratios[0]:.2f}**"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"**{middle:.2f}** ({low:.2f}–{high:.2f})"


def floors(work: Workload) -> dict[str, dict[str, float]]:
    """Return ratios by FLOPs alone."""
    model, (x, y) = work.model(), work.data()
    positions: dict[str, int] = {}
    for name, module in model.named_modules():
        if work.name == "transformer" and isinstance(module, torch.nn.Linear):
            positions[name] = LENGTH
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, a, out, name=name: positions.update({name: out[0, 0].numel()}))
    counter = FlopCounterMode(display=False)
    with counter:
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    base, layers = counter.get_total_flops(), layers_of(model)
    found: dict[str, dict[str, float]] = {"floor by FLOPs, our forms": {}, "floor by FLOPs, usual forms": {}}
    for setting, (factors, inverses) in SETTINGS.items():
        config = KFACConfig(factor_interval=factors, inverse_interval=inverses)
        cost = step_flops(layers, config, examples=work.examples, positions=positions, calls=True)
        usual = step_flops(layers, config, examples=work.examples, positions=positions)
        found["floor by FLOPs, our forms"][setting] = (base + cost.total) / base
        patches = sum(
            x.groups * 2 * work.examples * positions.get(x.name, 1) * (x.input_dim**2 + x.output_dim**2)
            for x in layers
            if x.kind != "embedding"
        )
        whole = base + patches / factors + usual.inverses + usual.precondition
        found["floor by FLOPs, usual forms"][setting] = whole / base
    return found


def peak_memory(work: Workload, name: str, threads: int) -> float | None:
    """Return the peak resident (or device) memory in MB of a fresh process that takes three steps."""
    command = [sys.executable, __file__, "--child", name, "--workloads", work.name]
    command += ["--threads", str(threads), "--device", work.device.type, "--batch", str(work.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def child(work: Workload, name: str) -> None:
    """Take three steps and print this process's peak memory in MB."""
    step = unit(work, "both") if name == "unit" else CONTENDERS[name][0](work, "both")
    for _ in range(3):
        step()
    if work.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        # Not getrusage: its peak includes that of the process from which this one was forked.
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        print(int(status.split()[0]) / 1024)


def memories(work: Workload, threads: int) -> dict[str, str]:
    """Return the peak memory of every contender minus the baseline's; empty for JAX, which manages its own memory."""
    base, found = peak_memory(work, "unit", threads), dict[str, str]()
    for name in CONTENDERS:
        peak = None if "jax" in name else peak_memory(work, name, threads)
        found[name] = "" if peak is None or base is None else f"{peak - base:.0f}"
    return found


def table(work: Workload, known: Measured, memory: dict[str, str], loads: list[float]) -> list[str]:
    """Return the Markdown lines of one workload's table."""
    rounds, steps, of = len(known.units), STEPS[work.name], UNITS.get(work.name, "SGD")
    lines = [
        f"## {work.name}, batch {work.examples}: {of} step {statistics.median(known.units) * 1e3:.2f} ms",
        "",
        machine(torch.get_num_threads(), work.device),
        f"{rounds} rounds of {steps} step(s) each, on {os.cpu_count()} cores under a load of {min(loads):.1f} to "
        f"{max(loads):.1f} (this benchmark's own 1 included).",
        "",
        f"| | a | b | plain | factors | both | peak memory over {of}'s, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in floors(work).items():
        lines.append(f"| {name} | {values['a']:.2f} | {values['b']:.2f} | | | | |")
    for name, kinds in known.ratios.items():
        a, b = (spread(kinds, *SETTINGS[s]) for s in "ab")
        row = " | ".join(f"{statistics.median(kinds[kind]):.2f}" for kind in KINDS)
        lines.append(f"| {name} | {a} | {b} | {row} | {memory[name]} |")
    return [*lines, "", *(f"Absent: {name} ({why})." for name, why in known.absent.items()), ""]


def recorded(path: Path, heading: list[str], name: str, lines: list[str]) -> str:
    """Return the file with one workload's table replaced, in the order of the workloads."""
    known = path.read_text().split("\n## ")[1:] if path.exists() else []
    tables = {table.split(",")[0]: table.rstrip() for table in known}
    tables[name] = "\n".join(lines).removeprefix("## ").rstrip()
    return "\n".join([*heading, *(f"## {tables[each]}\n" for each in ROUNDS if each in tables)]).rstrip() + "\n"


def machine(threads: int, device: torch.device) -> str:
    """Describe the machine."""
    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{model}, {threads} math thread(s)"
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__}."


HEADING = [
    "# K-FAC step over SGD step",
    "",
    "`python benchmarks/kfac_step.py --record`. Ratios to SGD with momentum (a transformer's: AdamW): medians over",
    "rounds, of a and b with quartiles. a: factors every step, inverses every 10; b: every 10, every 100. Kinds of",
    "step: plain, with new factors, with new factors and inverses.",
    "",
]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Run the benchmark, or one child process of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({ROUNDS})")
    parser.add_argument("--minutes", type=float, default=math.inf, help="per workload; the last round is finished")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true", help="write results/kfac_step.md after every round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # For JAX, which is imported later: its own products, and those of the LAPACK that it calls.
    eigen = str(options.threads > 1).lower()
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={options.threads}"
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    device = torch.device(options.device)
    if options.child:
        child(Workload(options.workloads[0], options.batch, device), options.child)
        return
    suffix = "_cuda" if device.type == "cuda" else ""
    record = Path(__file__).parent / "results" / f"kfac_step{suffix}.md"
    for name in options.workloads:
        work, loads, lines = Workload(name, options.batch, device), [os.getloadavg()[0]], list[str]()
        memory = memories(work, options.threads)
        began = time.monotonic()
        for known in measure(work, options.rounds or ROUNDS[name]):
            loads.append(os.getloadavg()[0])
            lines = table(work, known, memory, loads)
            if options.record:
                record.write_text(recorded(record, HEADING, name, lines))
            if time.monotonic() - began > 60 * options.minutes:
                break
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
