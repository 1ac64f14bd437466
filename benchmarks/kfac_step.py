"""Time a K-FAC step as a multiple of the SGD step of the same model and batch, beside peers and floors.

    python benchmarks/kfac_step.py [--workloads perceptron resnet20] [--rounds N] [--threads T] [--device cuda]

Steps are interleaved: every step of a contender is divided by the SGD step timed just before it (kfac-jax's by SGD in
JAX), and the medians of these ratios are put together for (a) factors every step and inverses every 10, (b) every 10
and every 100. Floors: the FLOPs of forward, backward and K-FAC over those of forward and backward, with our form of
convolution factors and with im2col. Memory: the peak of a process that takes steps of kind "both", less that of one
that takes SGD steps. `--record` writes the tables to results/kfac_step.md.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from kfac_contenders import CONTENDERS, Step, Workload, sgd
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sensitivity.kfac import KFACConfig, layers_of, step_flops

SETTINGS = {"a": (1, 10), "b": (10, 100)}
KINDS = ("plain", "factors", "both")


def timed(step: Step, device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(work: Workload, rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, str], float]:
    """Median ratio to SGD by contender and kind of step, why others are missing, and the median SGD step in seconds."""
    steps: dict[tuple[str, str], tuple[Step, Step]] = {}
    absent: dict[str, str] = {}
    for name, (build, unit) in CONTENDERS.items():
        try:
            built = {kind: (build(work, kind), unit(work, kind)) for kind in KINDS}
            for step, base in built.values():
                for _ in range(2):
                    step()
                    base()
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:90]
        else:
            steps.update({(name, kind): pair for kind, pair in built.items()})
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    plain, units = sgd(work, "plain"), []
    for _ in range(rounds):
        units.append(timed(plain, work.device))
        for key, (step, base) in steps.items():
            unit = timed(base, work.device)
            ratios[key].append(timed(step, work.device) / unit)
    found: dict[str, dict[str, float]] = {}
    for (name, kind), values in ratios.items():
        found.setdefault(name, {})[kind] = statistics.median(values)
    return found, absent, statistics.median(units)


def composed(kinds: dict[str, float], factors: int, inverses: int) -> float:
    """Mean ratio of a run with these intervals."""
    both = 1 / inverses
    return both * kinds["both"] + (1 / factors - both) * kinds["factors"] + (1 - 1 / factors) * kinds["plain"]


def floors(work: Workload) -> dict[str, dict[str, float]]:
    """Ratios by FLOPs alone."""
    model, (x, y) = work.model(), work.data()
    positions: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, a, out, name=name: positions.update({name: out[0, 0].numel()}))
    counter = FlopCounterMode(display=False)
    with counter:
        functional.cross_entropy(model(x), y).backward()
    base, layers = counter.get_total_flops(), layers_of(model)
    found: dict[str, dict[str, float]] = {"floor by FLOPs, our forms": {}, "floor by FLOPs, im2col": {}}
    for setting, (factors, inverses) in SETTINGS.items():
        config = KFACConfig(factor_interval=factors, inverse_interval=inverses)
        cost = step_flops(layers, config, examples=work.batch, positions=positions)
        found["floor by FLOPs, our forms"][setting] = (base + cost.total) / base
        patches = sum(
            x.groups * 2 * work.batch * positions.get(x.name, 1) * (x.input_dim**2 + x.output_dim**2) for x in layers
        )
        im2col = base + patches / factors + cost.inverses + cost.precondition
        found["floor by FLOPs, im2col"][setting] = im2col / base
    return found


def peak_memory(work: Workload, name: str, threads: int) -> float | None:
    """Peak resident (or device) memory in MB of a fresh process that takes three steps."""
    command = [sys.executable, __file__, "--child", name, "--workloads", work.name]
    command += ["--threads", str(threads), "--device", work.device.type, "--batch", str(work.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def child(work: Workload, name: str) -> None:
    """Take three steps and print this process's peak memory in MB."""
    step = sgd(work, "both") if name == "sgd" else CONTENDERS[name][0](work, "both")
    for _ in range(3):
        step()
    if work.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        # Not getrusage: its peak includes that of the process this one was forked from.
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        print(int(status.split()[0]) / 1024)


def table(work: Workload, rounds: int, threads: int) -> list[str]:
    """Markdown lines of one workload's table."""
    found, absent, unit = measure(work, rounds)
    base = peak_memory(work, "sgd", threads)
    lines = [
        f"## {work.name}, batch {work.batch}: SGD step {unit * 1e3:.2f} ms (median of {rounds})",
        "",
        "| | a | b | plain | factors | both | peak memory over SGD's, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in floors(work).items():
        lines.append(f"| {name} | {values['a']:.2f} | {values['b']:.2f} | | | | |")
    for name, kinds in found.items():
        a, b = (composed(kinds, *SETTINGS[s]) for s in "ab")
        peak = peak_memory(work, name, threads)
        memory = "" if peak is None or base is None or "jax" in name else f"{peak - base:.0f}"
        row = " | ".join(f"{kinds[kind]:.2f}" for kind in KINDS)
        lines.append(f"| {name} | **{a:.2f}** | **{b:.2f}** | {row} | {memory} |")
    lines += ["", *(f"Absent: {name} ({why})." for name, why in absent.items()), ""]
    return lines


def machine(threads: int, device: torch.device) -> list[str]:
    """Describe where this ran."""
    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{model}, {threads} math thread(s)"
    return [
        "# K-FAC step over SGD step",
        "",
        f"{where}; Python {platform.python_version()}, torch {torch.__version__}. `python benchmarks/kfac_step.py`.",
        "Ratios to SGD with momentum, medians of interleaved ratios; a: factors every step, inverses every 10;",
        "b: every 10, every 100.",
        "",
    ]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Run the benchmark, or one child of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["perceptron", "resnet20"])
    parser.add_argument("--rounds", type=int, help="interleaved rounds (perceptron 150, ResNet-20 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true", help="write results/kfac_step.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.child:
        child(Workload(options.workloads[0], options.batch, device), options.child)
        return
    lines = machine(options.threads, device)
    for name in options.workloads:
        rounds = options.rounds or (150 if name == "perceptron" else 5)
        lines += table(Workload(name, options.batch, device), rounds, options.threads)
    text = "\n".join(lines)
    print(text)
    if options.record:
        suffix = "_cuda" if device.type == "cuda" else ""
        (Path(__file__).parent / "results" / f"kfac_step{suffix}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
