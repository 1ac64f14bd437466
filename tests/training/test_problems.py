"""Problems: split and scale of the digits, user data and models, and rejected input."""

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function
from sensitivity.training.checks import check_study
from sensitivity.training.order import PackOrder, batches, gather
from sensitivity.training.problems import load_problem


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a user module and make it importable; return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"users_own_{abs(hash((text, str(tmp_path)))):x}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("users_own_")]:
        del sys.modules[name]


DATA = """
import numpy as np
def data():
    x = np.arange(24.0).reshape(12, 2); y = np.arange(12) % 3
    return x[:9], y[:9], x[9:], y[9:]
"""


def test_digits_are_split_by_class_and_standardised_on_the_training_split():
    data = load_problem(ProblemSpec(), dtype=torch.float64).dataset
    assert (data.train_size, len(data.test_inputs)) == (1437, 360)
    assert data.train_inputs.mean().item() == pytest.approx(0, abs=1e-12)
    assert data.train_inputs.std(correction=0).item() == pytest.approx(1)
    shares = torch.bincount(data.test_targets) / torch.bincount(torch.as_tensor(load_digits().target))
    assert shares.min() > 0.18
    assert shares.max() < 0.22
    # No image is lost or in both splits.
    both = torch.cat((data.train_inputs, data.test_inputs)).flatten(1)
    assert len({tuple(row) for row in both.numpy().round(9)}) == len({tuple(row) for row in load_digits().data})


def test_diabetes_is_split_and_standardised_on_the_training_split():
    data = load_problem(ProblemSpec(dataset="diabetes", loss="squared_error"), dtype=torch.float64).dataset
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    raw = np.column_stack([inputs, targets])
    train = torch.cat((data.train_inputs, data.train_targets), dim=1).numpy()
    both = np.concatenate([train, torch.cat((data.test_inputs, data.test_targets), dim=1).numpy()])
    assert both.shape == raw.shape
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(train.std(0), 1)
    # Each column is that of the data set, shifted and scaled; no patient is lost or in both splits.
    for found, column in zip(both.T, raw.T, strict=True):
        assert np.corrcoef(np.sort(found), np.sort(column))[0, 1] == pytest.approx(1, abs=1e-9)
    assert len(np.unique(both.round(9), axis=0)) == len(np.unique(raw, axis=0))


def test_another_split_seed_is_another_split():
    one, two = (load_problem(ProblemSpec(split_seed=k)).dataset.test_targets for k in (0, 1))
    assert not torch.equal(one, two)


def test_a_users_data_set_and_model_train(module, make_study):
    name = module(DATA + "import torch\ndef model(shape, outputs):\n    return torch.nn.Linear(shape[0], outputs)\n")
    spec = make_study(problem={"dataset": f"{name}:data", "model": f"{name}:model"}, batch_sizes=[3])
    problem = load_problem(spec.problem)
    check_study(spec, problem, source="x.toml")
    assert problem.build_model().out_features == 3
    assert problem.dataset.train_inputs.dtype == torch.float32


def test_squared_error_counts_half_the_distance_and_has_no_accuracy(module, make_study, pack_of):
    from sensitivity.training.loop import train_pack

    name = module(
        "import torch\n"
        "def data():\n    x = torch.eye(4); y = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]])\n"
        "    return x, y, x, y\n"
        "def model(shape, outputs):\n    m = torch.nn.Linear(4, outputs); torch.nn.init.zeros_(m.weight)\n"
        "    torch.nn.init.zeros_(m.bias); return m\n"
    )
    problem = {"dataset": f"{name}:data", "model": f"{name}:model", "loss": "squared_error"}
    spec = make_study(problem=problem, batch_sizes=[4], budget={"steps": 1})
    (result,) = train_pack(pack_of(spec), load_problem(spec.problem, dtype=torch.float64))
    assert result.measurements[0].train_loss == pytest.approx(sum(v * v for v in range(1, 9)) / 4 / 2)
    assert np.isnan(result.measurements[-1].test_accuracy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def data(): return 1",
            "returned an int; it must return train inputs, train targets, test inputs, test targets",
        ),
        ("import torch\ndef data(): return [torch.zeros(3, 2), torch.zeros(4).long()] * 2", "3 train inputs and 4"),
        ("import torch\ndef data(): return [torch.zeros(0, 2), torch.zeros(0).long()] * 2", "at least 1"),
        (
            "import torch\ndef data(): return [torch.tensor([[float('nan')]]), torch.zeros(1).long()] * 2",
            "NaN or infinity",
        ),
        ("def data(): return 1.0, 2.0, 1.0, 2.0", "train inputs are float32 of shape [], strided"),
        ("import torch\ndef data(): return [torch.eye(3).to_sparse(), torch.zeros(3).long()] * 2", "sparse_coo"),
        (
            "import torch\ndef data(): return [torch.zeros(3, 0), torch.zeros(3).long()] * 2",
            "at least one value per example",
        ),
        ("import torch\ndef data(): return [torch.eye(3) * 1j, torch.zeros(3).long()] * 2", "real numbers"),
        ("import torch\ndef data(): return [torch.zeros(3, 2), torch.zeros(3)] * 2", "int64 of shape [examples]"),
        ("import torch\ndef data(): return [torch.zeros(3, 2), -torch.ones(3).long()] * 2", "from 0"),
        ("other = 1", "has no function 'data'"),
    ],
)
def test_invalid_user_data_sets_are_reported(module, text, message):
    name = module(text)
    with pytest.raises(UserError, match=r"problem\.dataset") as caught:
        load_problem(ProblemSpec(dataset=f"{name}:data"))
    assert message in str(caught.value)


def test_a_missing_module_is_named_with_the_fix():
    with pytest.raises(UserError, match=r"no_such_module_at_all.*\n.*next to the study file"):
        load_problem(ProblemSpec(dataset="no_such_module_at_all:data"))


def test_all_that_only_the_data_can_tell_is_reported_at_once(make_study):
    spec = make_study(batch_sizes=[1437, 1438, 4096], evaluation={"train_examples": 1500})
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    assert [line.split(":")[0] for line in caught.value.mistakes] == [
        "batch_sizes[1]",
        "batch_sizes[2]",
        "evaluation.train_examples",
    ]
    assert all("1437" in line for line in caught.value.mistakes)


def test_a_model_that_fails_is_reported_before_anything_runs(module, make_study):
    name = module("import torch\ndef model(shape, outputs): return torch.nn.Linear(3, outputs)")
    spec = make_study(problem={"model": f"{name}:model"})
    with pytest.raises(StudyFileError, match=r"problem\.model.*RuntimeError"):
        check_study(spec, load_problem(spec.problem), source="x.toml")


def test_a_folder_without_code_is_no_module(tmp_path, monkeypatch):
    """Results of a study that has the name of its module lie beside it."""
    (tmp_path / "users_results").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="No module named 'users_results'"):
        import_function("users_results:data", "problem.dataset")


def test_what_is_no_module_is_refused(module, make_study):
    name = module("def model(shape, outputs): return 3")
    spec = make_study(problem={"model": f"{name}:model"})
    with pytest.raises(UserError, match=r"returned an int; return a torch\.nn\.Module"):
        check_study(spec, load_problem(spec.problem), source="x.toml")


@pytest.mark.parametrize("batch_size", [1, 7, 10, 16])
def test_the_stream_of_examples_is_whole_passes(batch_size):
    stream = batches(5, train_size=16, batch_size=batch_size)
    drawn = torch.cat([next(stream) for _ in range(16)])
    for start in range(0, len(drawn) - 15, 16):
        assert sorted(drawn[start : start + 16].tolist()) == list(range(16))


def test_the_stream_does_not_depend_on_the_batch_size():
    small, large = batches(5, train_size=16, batch_size=2), batches(5, train_size=16, batch_size=16)
    assert torch.equal(torch.cat([next(small) for _ in range(16)]), torch.cat([next(large) for _ in range(2)]))


def test_members_draw_from_their_own_seeds_also_after_some_are_dropped():
    order = PackOrder([1, 2, 1], train_size=10, batch_size=4)
    alone = {seed: batches(seed, train_size=10, batch_size=4) for seed in (1, 2)}
    for _ in range(3):
        ones, twos = next(alone[1]), next(alone[2])
        assert torch.equal(order.draw(), torch.stack([ones, twos, ones]))
    order.select([1])
    assert torch.equal(order.draw(), next(alone[2])[None])


def test_gathering_shared_rows_equals_gathering_each():
    table = torch.arange(30.0).view(10, 3)
    rows = torch.tensor([4, 1, 4])
    shared = gather(table, rows.expand(5, -1))
    assert torch.equal(shared, gather(table, rows.repeat(5, 1)))
    assert shared.stride(0) == 0


def test_kfac_is_rejected_for_models_without_covered_layers(module, make_study):
    name = module(
        "import torch\n"
        "class Scale(torch.nn.Module):\n"
        "    def __init__(self): super().__init__(); self.scale = torch.nn.Parameter(torch.ones(64))\n"
        "    def forward(self, x): return (x.flatten(1) * self.scale)[:, :10]\n"
        "def model(shape, outputs): return Scale()\n"
    )
    arms = {"sgd": {"kind": "sgd", "lr": 0.1}, "ours": {"kind": "kfac", "lr": 0.1, "damping": 0.1}}
    spec = make_study(problem={"model": f"{name}:model"}, optimizers=arms)
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    (line,) = caught.value.mistakes
    assert line.startswith("optimizers.ours: K-FAC covers no layer")


MODEL_MISTAKES = {
    "returns [3] for 3 training examples; it must be [3, 3], one value per class": (
        "class M(nn.Module):\n    def __init__(s): super().__init__(); s.l = nn.Linear(2, 1)\n"
        "    def forward(s, x): return s.l(x).squeeze(-1)\n"
    ),
    "returns [3, 2] for 3 training examples; it must be [3, 3]": (
        "class M(nn.Module):\n    def __init__(s): super().__init__(); s.l = nn.Linear(2, 2)\n"
        "    def forward(s, x): return s.l(x)\n"
    ),
    "has no trainable parameter": (
        "class M(nn.Module):\n    def __init__(s): super().__init__(); s.l = nn.Linear(2, 3).requires_grad_(False)\n"
        "    def forward(s, x): return s.l(x)\n"
    ),
    "the loss of the untrained network is nan": (
        "class M(nn.Module):\n    def __init__(s): super().__init__(); s.l = nn.Linear(2, 3)\n"
        "    def forward(s, x): return s.l(x) * float('nan')\n"
    ),
    "ValueError: not in training": (
        "class M(nn.Module):\n    def __init__(s): super().__init__(); s.l = nn.Linear(2, 3)\n"
        "    def forward(s, x):\n        if s.training: raise ValueError('not in training')\n        return s.l(x)\n"
    ),
}


@pytest.mark.parametrize("said", MODEL_MISTAKES)
def test_a_model_that_can_not_be_trained_is_refused_with_the_reason(module, make_study, said):
    name = module(DATA + "from torch import nn\n" + MODEL_MISTAKES[said] + "def model(shape, outputs): return M()\n")
    spec = make_study(problem={"dataset": f"{name}:data", "model": f"{name}:model"}, batch_sizes=[3])
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    (line,) = caught.value.mistakes
    assert line.startswith(f"problem.model: {name}:model")
    assert said in line


def test_outputs_and_targets_that_would_broadcast_are_refused(module, make_study):
    name = module(
        "import torch\n"
        "def data():\n    x, y = torch.randn(8, 2), torch.randn(8, 1)\n    return x, y, x, y\n"
        "class M(torch.nn.Module):\n    def __init__(s): super().__init__(); s.l = torch.nn.Linear(2, 1)\n"
        "    def forward(s, x): return s.l(x).squeeze(-1)\n"
        "def model(shape, outputs): return M()\n"
    )
    problem = {"dataset": f"{name}:data", "model": f"{name}:model", "loss": "squared_error"}
    spec = make_study(problem=problem, batch_sizes=[4])
    with pytest.raises(StudyFileError, match=r"returns \[4\] for 4 training examples; it must be \[4, 1\]"):
        check_study(spec, load_problem(spec.problem), source="x.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def data(:", "importing it: SyntaxError"),
        ("raise RuntimeError('at import')", "importing it: RuntimeError: at import"),
        ("def data(): raise KeyError('in data')", "KeyError: 'in data'"),
        (
            "import torch\ny = torch.ones(3).long()\ndef data(): return torch.ones(3, 2), y, torch.ones(3, 4), y",
            "they must be equal",
        ),
    ],
)
def test_errors_of_user_modules_are_shown_without_a_traceback(module, text, said):
    name = module(text)
    with pytest.raises(UserError) as caught:
        load_problem(ProblemSpec(dataset=f"{name}:data"))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"problem.dataset: {name}:data")


def test_nan_targets_are_reported_as_a_data_error(module):
    name = module("import torch\ndef data():\n    x = torch.ones(3, 2); y = x * float('nan')\n    return x, y, x, y\n")
    with pytest.raises(UserError, match="train targets contain NaN"):
        load_problem(ProblemSpec(dataset=f"{name}:data", loss="squared_error"))


NORMALISED = """
import torch
from torch import nn
def model(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, outputs))
"""


def test_micro_batches_with_batch_norm_are_rejected_with_the_fix(module, make_study):
    name = module(NORMALISED)
    spec = make_study(problem={"model": f"{name}:model"}, execution={"micro_batch": 16})
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    (line,) = caught.value.mistakes
    assert line.startswith(f"execution.micro_batch: the layer 2 of {name}:model normalises over the batch")
    assert "problem.ghost_batch" in line
    for fine in ({"problem": {"model": f"{name}:model", "ghost_batch": 16}}, {"execution": {"micro_batch": 16}}):
        study = make_study(**fine)
        check_study(study, load_problem(study.problem), source="x.toml")


@pytest.mark.parametrize("layer", ["nn.Dropout(0.5)", "Noise()"])
def test_micro_batches_with_random_layers_are_rejected(module, make_study, layer):
    name = module(
        "import torch\nfrom torch import nn\n"
        "class Noise(nn.Module):\n    def forward(self, x):\n        return x + torch.randn_like(x) * self.training\n"
        "def model(shape, outputs):\n"
        f"    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), {layer}, nn.Linear(16, outputs))\n"
    )
    spec = make_study(problem={"model": f"{name}:model"}, execution={"micro_batch": 16})
    with pytest.raises(StudyFileError, match=r"execution\.micro_batch: .* draws random numbers .*ghost_batch"):
        check_study(spec, load_problem(spec.problem), source="x.toml")
    fine = make_study(problem={"model": f"{name}:model", "ghost_batch": 16})
    check_study(fine, load_problem(fine.problem), source="x.toml")


def test_ghost_batches_too_small_to_normalise_are_rejected(module, make_study):
    spec = make_study(problem={"model": f"{module(NORMALISED)}:model", "ghost_batch": 1})
    with pytest.raises(StudyFileError, match="Expected more than 1 value per channel"):
        check_study(spec, load_problem(spec.problem), source="x.toml")


def test_augmentation_of_what_is_no_image_is_refused(module, make_study):
    name = module(DATA)
    spec = make_study(problem={"dataset": f"{name}:data", "augment": "crop_flip"}, batch_sizes=[3])
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    assert caught.value.mistakes[0].startswith('problem.augment: "crop_flip" is for images [channels, height, width]')
    assert "is [2]. Remove it" in caught.value.mistakes[0]


def test_a_subset_of_any_data_set(module):
    name = module(DATA)
    some = load_problem(ProblemSpec(dataset=f"{name}:data", train_subset=4, test_subset=2)).dataset
    whole = load_problem(ProblemSpec(dataset=f"{name}:data")).dataset
    assert (some.train_size, len(some.test_inputs)) == (4, 2)
    kept = {tuple(row) for row in some.train_inputs.tolist()}
    assert len(kept) == 4
    assert kept < {tuple(row) for row in whole.train_inputs.tolist()}
    for row, target in zip(some.train_inputs, some.train_targets, strict=True):
        assert whole.train_targets[(whole.train_inputs == row).all(1)].tolist() == [int(target)]


@pytest.mark.parametrize("fraction", [1e-9, 0.001, 0.9999, 1 - 1e-12])
def test_splits_without_examples_of_a_class_are_rejected(fraction):
    with pytest.raises(UserError, match=r"test_fraction: .*10 classes needs one in both\n  allowed: 0\.005565 to"):
        load_problem(ProblemSpec(test_fraction=fraction))


def test_ids_given_as_classes_are_rejected(module):
    name = module(DATA.replace("% 3", "* 1_000_000"))
    with pytest.raises(UserError, match=r"of the 11,000,001 classes .* no training example\n  Number the"):
        load_problem(ProblemSpec(dataset=f"{name}:data"))


def test_a_model_larger_than_the_machine_is_refused_with_the_estimate(module, monkeypatch):
    name = module(DATA)
    monkeypatch.setattr("os.sysconf", lambda key: 1 if key == "SC_PAGE_SIZE" else 2**16)
    with pytest.raises(UserError, match=r"(?s)perceptron for inputs \[2\] and 3 outputs has [\d,]+ parameters: .* GiB"):
        load_problem(ProblemSpec(dataset=f"{name}:data", model="perceptron"))


def test_classes_missing_from_a_subset_cause_a_warning(make_study, caplog):
    spec = make_study(problem={"train_subset": 5}, batch_sizes=[5])
    check_study(spec, load_problem(spec.problem), source="test")
    assert "classes have no training example" in caplog.text
