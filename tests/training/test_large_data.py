"""Data that may be larger than memory: mapped files, data sets by index, generators and loaders."""

import hashlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as ByIndex

from sensitivity.study.errors import UserError
from sensitivity.study.trials import Pack, expand
from sensitivity.training.datasets import streams
from sensitivity.training.datasets.own_arrays import as_tensor, parts_of
from sensitivity.training.datasets.streams import stored
from sensitivity.training.identity import digest
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem

HEAD = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
generator = torch.Generator().manual_seed(0)
x = torch.randint(0, 256, (90, 2, 3), generator=generator, dtype=torch.uint8)
y = x.float().mean((1, 2)).argsort().argsort() // 30
def network(shape, outputs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, outputs))
class Indexed(Dataset):
    def __init__(self, rows): self.rows = rows
    def __len__(self): return len(self.rows)
    def __getitem__(self, k): return x[self.rows[k]], int(y[self.rows[k]])
class Stream(IterableDataset):
    def __init__(self, rows): self.rows = rows
    def __iter__(self): return ((x[k], y[k]) for k in self.rows)
train, test = range(70), range(70, 90)
"""
FORMS = {
    "by index": "Indexed(train), Indexed(test)",
    "pairs": "[(x[k], y[k]) for k in train], [(x[k], y[k]) for k in test]",
    "stream": "Stream(train), Stream(test)",
    "generator": "((x[k].numpy(), y[k].numpy()) for k in train), ((x[k].numpy(), y[k].numpy()) for k in test)",
    "loader": "DataLoader(Indexed(train), batch_size=8), DataLoader(Indexed(test), batch_size=64)",
    "loader of a stream": "DataLoader(Stream(train), batch_size=8), DataLoader(Stream(test), batch_size=None)",
    "mapped": "mapped('x', x)[:70], y[:70], mapped('x', x)[70:], y[70:]",
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Write a module with a data function that returns an expression; return its name."""
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(tmp_path)

    def write(returned):
        name = f"large_{hashlib.sha256(returned.encode()).hexdigest()[:8]}"
        mapped = f"def mapped(name, x):\n    np.save('{tmp_path}/x.npy', x.numpy())\n"
        mapped += f"    return np.load('{tmp_path}/x.npy', mmap_mode='r')\n"
        (tmp_path / f"{name}.py").write_text(f"{HEAD}{mapped}def data(): return {returned}\n")
        return name

    return write


def losses(name, make_study, **problem):
    spec = make_study(
        problem={"dataset": f"{name}:data", "model": f"{name}:network", **problem},
        batch_sizes=[16],
        seeds=2,
        budget={"steps": 12},
        optimizers={"a": {"kind": "adamw", "lr": [0.01, 0.03]}},
    )
    results = train_pack(Pack(expand(spec)), load_problem(spec.required_problem))
    return [[(m.train_loss, m.test_loss, m.test_accuracy) for m in result.measurements] for result in results]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("problem", [{}, {"validation_fraction": 0.25}], ids=["whole", "validated"])
def test_every_form_trains_as_arrays_do(data, make_study, form, problem):
    """Bitwise: an example has the same index in each form, so that seeds draw the same batches."""
    arrays = data("x[:70], y[:70], x[70:], y[70:]")
    assert losses(data(FORMS[form]), make_study, **problem) == losses(arrays, make_study, **problem)


def test_equal_streams_are_stored_once(data, tmp_path):
    kept = lambda: sorted(path.name for path in (tmp_path / "data" / "arrays").iterdir())  # noqa: E731
    first = stored(iter([(torch.ones(2), 0), (torch.zeros(2), 1)]), "a")
    assert len(kept()) == 1
    again = stored(iter([(torch.ones(2), 0), (torch.zeros(2), 1)]), "a")
    assert len(kept()) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    stored(iter([(torch.ones(2), 1), (torch.zeros(2), 1)]), "a")
    assert len(kept()) == 2


_IN_WORKER = r"^w: KeyError: 2 \(in DataLoader worker process 0\)\n  at .*test_large_data.py:\d+$"
"""The message of torch holds the worker's whole traceback."""


class Broken(ByIndex):
    def __len__(self):
        return 3

    def __getitem__(self, k):
        return {0: (torch.ones(2), 0), 1: (torch.ones(2), 1)}[k]


class Stopping(Broken):
    def __getitem__(self, k):
        raise StopIteration("no more")


class Sized(IterableDataset):
    def __iter__(self):
        yield torch.ones(2), 0
        yield torch.ones(3), 0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Broken(), "w: KeyError: 2"),
        (Stopping(), r"^w: StopIteration: no more\n  at .*test_large_data.py:\d+$"),
        ([], "it contains no examples"),
        (Sized(), r"w: example 1 is float32 \[3\], and the first one float32 \[2\]; they must be equal"),
        (iter(()), "it contains no examples; was a generator exhausted before?"),
        (iter([{"x": 1}]), r"w: example 0 is a dict; each must be a pair \(input, target\)"),
        (iter([(1, 2, 3)]), "w: example 0 is 3 things"),
        (iter([("a", 0)]), "w: inputs of example 0 is a str that can't be converted to a tensor"),
        (DataLoader(Broken(), batch_size=2), r"w: KeyError: 2\n  at .*test_large_data.py:\d+$"),
        (DataLoader(Broken(), batch_size=2, num_workers=1, multiprocessing_context="forkserver"), _IN_WORKER),
    ],
)
def test_what_is_no_stream_of_examples_is_a_message(tmp_path, monkeypatch, part, said):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path))
    with pytest.raises(UserError, match=said):
        stored(part, "w")
    assert not [path for path in (tmp_path / "arrays").iterdir() if path.is_dir()], "nothing is left behind"


def test_long_stream_reports_its_progress(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path))
    monkeypatch.setattr(streams, "_REPORT_EVERY_S", 0.0)
    stored(iter([(torch.ones(2**20), 0)] * 2), "data.py:train")
    assert "data.py:train: 2 examples (0.0078 GiB) written so far" in caplog.text


def test_a_stream_without_an_end_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path))
    monkeypatch.setattr(streams, "_CHECK_EVERY", 100)
    monkeypatch.setattr(streams, "_LEAST_LEFT", 1 << 62)
    endless = iter(lambda: (torch.ones(2), 0), None)
    with pytest.raises(UserError, match=r"GiB left after .* of examples\n  Is the stream infinite\?"):
        stored(endless, "w")


def test_two_arrays_are_no_streams():
    with pytest.raises(UserError, match=r"returned 2 \(Tensor, Tensor\); it must return train inputs, .*; or two"):
        parts_of((torch.ones(2), torch.ones(2)), "w")


def test_a_digest_by_pieces_is_that_of_the_whole():
    """Content, projection and norm equal those in one piece, also for views with non-contiguous rows."""
    values = torch.arange(5000 * 4, dtype=torch.float64).sin().view(5000, 4)
    found = digest({"": values})
    assert found.sha256 == hashlib.sha256(b" float64 [5000, 4]\0" + values.numpy().tobytes()).hexdigest()
    assert digest({"": values.mT.contiguous().mT}).is_same(found)


def test_tokens_of_16_bits_stay_in_their_file(tmp_path):
    tokens = np.arange(60_001, dtype=np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    stream = np.memmap(tmp_path / "train.bin", np.uint16, "r")
    windows = np.lib.stride_tricks.sliding_window_view(stream, 101)[::100]
    inputs = as_tensor(windows[:, :-1], "w")
    assert inputs.dtype == torch.uint16
    assert inputs.data_ptr() == stream.ctypes.data
    assert inputs[599].long().tolist() == list(range(59_900, 60_000))


_LOADED = """
    import resource, sys
    from pathlib import Path
    from sensitivity.study.load import parse_study
    from sensitivity.study.trials import Pack, expand
    from sensitivity.training.checks import check_study
    from sensitivity.training.identity import identity
    from sensitivity.training.loop import train_pack
    from sensitivity.training.problems import load_problem

    def run(**problem):
        spec = parse_study({
            "name": "t", "batch_sizes": [32], "seeds": 1, "budget": {"steps": 5}, "problem": problem,
            "optimizers": {"a": {"kind": "sgd", "lr": 0.1}}, "evaluation": {"train_examples": 32},
        }, source="t")
        problem = load_problem(spec.required_problem)
        check_study(spec, problem, source="t")
        identity(problem)
        return problem.dataset, train_pack(Pack(expand(spec)), problem)

    run()  # libraries take what they need once
    sys.path.insert(0, sys.argv[1])
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    limit = (int(lines["VmData"].split()[0]) << 10) + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    data, results = run(dataset="wide:data", model="wide:network")
    print(data.train_inputs.dtype, data.train_inputs.nbytes, results[0].status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of data, without that of mapped files")
@pytest.mark.parametrize(("kind", "size"), [("uint8", 1 << 26), ("float64", 1 << 29)])
def test_a_mapped_file_is_never_copied(tmp_path, kind, size):
    """Checks, digests, training and evaluation with a memory limit that any full copy would exceed."""
    rows = size // 1024 // np.dtype(kind).itemsize
    with (tmp_path / "wide.bin").open("wb") as file:
        file.truncate(size)  # sparse, so it takes no disk space
    (tmp_path / "wide.py").write_text(
        textwrap.dedent(f"""
        import numpy as np, torch
        def data():
            x = np.memmap("{tmp_path}/wide.bin", "{kind}", "r", shape=({rows}, 1024))
            y = np.arange(len(x)) % 3
            return x[64:], y[64:], x[:64], y[:64]
        def network(shape, outputs):
            return torch.nn.Linear(1024, outputs)
        """)
    )
    bound = 3 << 26
    assert 4 * rows * 1024 > bound
    command = [sys.executable, "-c", textwrap.dedent(_LOADED), str(tmp_path), str(bound)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [f"torch.{kind}", str((rows - 64) * 1024 * np.dtype(kind).itemsize), "completed"]
