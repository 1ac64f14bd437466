"""Invalid user modules, data and models cause messages with the fix."""

import logging
import signal
import sys
import threading

import pytest

from sensitivity.execution.interruption import STOPS, Interruptible
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.user_functions import import_function
from sensitivity.study.users_code import users_code
from sensitivity.training.checks import check_study
from sensitivity.training.problems import load_problem

HEAD = "import sys\nimport numpy as np\nimport torch\nfrom torch import nn\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported, and return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hostile", raising=False)

    def write(text, **options):
        (tmp_path / "hostile.py").write_text(text, **options)
        return "hostile"

    yield write
    sys.modules.pop("hostile", None)


MODULES = [
    ("raise KeyboardInterrupt", "importing it: it raises KeyboardInterrupt; raise an error instead\n  at "),
    (
        "exit()",
        "importing it: it exits the process (sys.exit(None)); raise an error instead",
    ),
    ("import sys\nsys.exit('bye')", "sys.exit('bye')"),
    ("raise SystemExit(3)", "hostile.py:1"),
    ("class Own(BaseException): pass\nraise Own('text')", "importing it: Own: text\n  at "),
    ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    ("raise MemoryError", "it needs more memory"),
    ("raise ValueError", "importing it: ValueError\n  at "),
    ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E", "E: (its message can't be shown)"),
    ("raise ValueError('x' * 10**6)", "xxx ... xxx"),
    ("raise ValueError('\\x1b[2J\\udcff')", "ValueError: \\x1b[2J\\udcff"),
    ("def data(:", "SyntaxError: "),
    ("x = '\0'", "null bytes"),
    ("import torch.nowhere", "No module named 'torch.nowhere'\n  The module imports a missing package; install it"),
    ("from torch import nothing", "ImportError: cannot import name 'nothing'"),
    ("def dat(): pass", "hostile has no function 'data' (did you mean 'dat'?)"),
    ("data = [1]", "'data' of hostile is a list; give a function"),
    ("def __getattr__(name): raise RuntimeError(name)", "RuntimeError: data"),
    ("import warnings\nwarnings.warn('old', DeprecationWarning)", "DeprecationWarning: old"),  # -W error
]


@pytest.mark.parametrize(("text", "said"), MODULES, ids=[text[:40] for text, _ in MODULES])
def test_whatever_a_module_raises_at_import_is_a_message(module, text, said):
    with pytest.raises(UserError) as caught:
        import_function(f"{module(text)}:data", "problem.dataset")
    assert str(caught.value).startswith("problem.dataset: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 3_000


LATIN = "x = 'é'"


def test_a_module_in_another_encoding_is_a_message(module):
    with pytest.raises(UserError, match=r"SyntaxError: .*utf-8"):
        import_function(f"{module(LATIN, encoding='latin-1')}:data", "problem.dataset")


def test_missing_modules_and_missing_imports_are_distinguished():
    with pytest.raises(UserError, match="'nowhere'\n  Put the module next to the study file"):
        import_function("nowhere.at.all:data", "problem.dataset")


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_from_outside_still_stops(number):
    """Ctrl-C, a job's stop or a closed terminal, in contrast to a KeyboardInterrupt raised by user code."""
    with Interruptible():
        before = [signal.getsignal(each) for each in STOPS]
        with users_code("other code"):
            pass
        assert [signal.getsignal(each) for each in STOPS] == before
        with pytest.raises(KeyboardInterrupt), users_code("data"):
            signal.raise_signal(number)


def test_an_exit_while_formatting_an_error_is_handled():
    class Exits(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise SystemExit(5)

    with pytest.raises(UserError, match="data: Exits: \\(its message can't be shown"), users_code("data"):
        raise Exits


def test_a_handler_that_the_users_code_sets_stays():
    before = signal.getsignal(signal.SIGINT)
    try:
        with users_code("data"):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("model", ["lenet", "alexnet"])
def test_a_shipped_model_says_which_images_it_takes(model):
    """The digits have 8 by 8 pixels."""
    with pytest.raises(UserError, match=rf"problem\.model: {model} takes images .*; got \(1, 8, 8\)\n  Use another"):
        load_problem(ProblemSpec(dataset="digits", model=model))


def test_code_runs_the_same_in_a_thread():
    found = []

    def work():
        try:
            with users_code("data"):
                raise KeyboardInterrupt
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].startswith("data: it raises KeyboardInterrupt")


def test_slow_user_code_is_logged(monkeypatch):
    monkeypatch.setattr("sensitivity.study.users_code._WAIT_S", 0.01)
    said, messages = threading.Event(), []
    handler = logging.Handler()
    handler.emit = lambda record: (messages.append(record.getMessage()), said.set())
    logger = logging.getLogger("sensitivity.study.users_code")
    logger.addHandler(handler)
    try:
        with users_code("problem.dataset: mine:data"):
            assert said.wait(60)
    finally:
        logger.removeHandler(handler)
    assert messages[0].startswith("problem.dataset: mine:data: still running after 0 s; Ctrl-C stops this command")


GOOD = "x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])\n"
DATA = [
    ("None", "returned None; does it have a return statement?; it must return train inputs, train targets, test inp"),
    ("{'x': x}", "returned a dict; it must return"),
    ("(x, y), (x, y)", "returned 2 (tuple, tuple); it must return"),
    ("(v for v in (x, y, x, y))", "returned a generator"),
    ("x.numpy().tolist(), y, 'abc', y", "test inputs are a str"),
    ("pandas.DataFrame(x.numpy()), y, x, y", "train inputs are a DataFrame; give its numbers: .to_numpy()"),
    ("x, pandas.Series(y.numpy()), x, y", "train targets are a Series; give its numbers: .to_numpy()"),
    ("x, pandas.Categorical(['a', 'b']), x, y", "train targets are a Categorical"),
    ("sparse.csr_matrix(x.numpy()), y, x, y", "train inputs are a csr_matrix; give them dense: .toarray()"),
    ("torch.utils.data.TensorDataset(x, y), y, x, y", "are a TensorDataset; give tensors or arrays of all examples"),
    ("iter(x), y, x, y", "give tensors or arrays of all examples"),
    ("x.to('meta'), y, x, y", 'train inputs are on the "meta" device and have no values'),
    ("x, y.to('meta'), x, y", 'train targets are on the "meta" device'),
    ("[[1.0, 2.0], [3.0]], y, x, y", "train inputs can't be converted to a tensor ("),
    ("[[1.0, None]] * 4, y, x, y", "train inputs can't be converted to a tensor ("),
    ("np.array(['a', 'b']), y, x, y", "train inputs are an array of <U1; give numbers"),
    ("np.array([[1], [1, 2]], dtype=object), y, x, y", "train inputs are an array of object; give numbers"),
    ("np.zeros((4, 1), 'datetime64[s]'), y, x, y", "array of datetime64[s]; give numbers: encode text"),
    ("np.ma.masked_less(x.numpy(), 0.5), y, x, y", "train inputs are a masked array; fill it"),
    ("x.double() * 1e300, y, x, y", "train inputs contain numbers beyond 3.4e+38, which are too large for training"),
    ("x, y[:, None], x, y", "int64 of shape [examples], from 0; got int64 [4, 1] (y.squeeze(1).long())"),
    ("x, nn.functional.one_hot(y), x, y", "got int64 [4, 2] (use y.argmax(1) if it is one-hot)"),
    ("x, y.float(), x, y", "got float32 [4] (y.long())"),
    ("x, y, x, y.int()", "got int32 [4] (y.long())"),
    ("x, y - 1, x, y", "got int64 [4], the smallest -1"),
    ("x, y, x.double(), y", "a train input is [2] of torch.float32, a test input [2] of torch.float64; they must be"),
    ("sys.exit()", "it exits the process"),
    ("open('/nowhere/at/all')", "FileNotFoundError: "),
]


@pytest.mark.parametrize(("returned", "said"), DATA, ids=[returned[:50] for returned, _ in DATA])
def test_unusable_data_are_reported(module, returned, said):
    name = module(f"{HEAD}import pandas\nfrom scipy import sparse\n{GOOD}def data(): return {returned}\n")
    with pytest.raises(UserError) as caught:
        load_problem(ProblemSpec(dataset=f"{name}:data"))
    assert str(caught.value).startswith("problem.dataset: hostile:data")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "returned",
    [
        "x.tolist(), y.tolist(), x.tolist(), y.tolist()",
        "x.numpy().astype('>f8'), y.numpy().astype('>i8'), x.numpy().astype('>f8'), y.numpy()",
        "x.numpy()[:, ::-1], y.numpy()[::-1], x.numpy()[:, ::-1], y.numpy()",
        "x.numpy().astype(np.longdouble), y, x.numpy().astype(np.longdouble), y",
        "x.requires_grad_(), y, x, y",
        "[x, y, x, y]",
        "x.numpy().view(Own), y, x, y",
    ],
)
def test_data_in_unusual_forms_are_accepted(module, returned):
    name = module(f"{HEAD}class Own(np.ndarray): pass\n{GOOD}def data(): return {returned}\n")
    data = load_problem(ProblemSpec(dataset=f"{name}:data")).dataset
    assert data.train_size == 4
    assert data.train_inputs.dtype == sys.modules[name].torch.float32
    assert not data.train_inputs.requires_grad


BODY = "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.l = nn.Linear(2, 2)\n"
MODELS = [
    (
        "return x, self.l(x)",
        "returns a tuple of 2; it must be one tensor [3, 2], one value per class: ",
    ),
    ("return [self.l(x)]", "returns a list of 1; "),
    ("return {'logits': self.l(x)}", "returns a dict; it must be one tensor [3, 2], one value per class: return only"),
    ("self.l(x)", "returns None; it must be one tensor [3, 2], one value per class: does its forward method have"),
    ("return self.l(x).detach().numpy()", "returns an ndarray; it must be one tensor"),
    ("return self.l(x).sum().item()", "returns a float; it must be one tensor"),
    ("return self.l(x).argmax(1)", "returns int64; it must be floating-point"),
    ("return self.l(x) * 1j", "returns complex64; it must be floating-point"),
    ("return self.l(x).to_sparse()", "returns a sparse_coo tensor; it must be dense, [3, 2]"),
    ("return self.l(x).to('meta')", 'returns a tensor on the "meta" device'),
    ("return self.l(x).detach()", "returns outputs without a gradient: the forward method detaches"),
    ("return self.l(x)[:, :1]", "returns [3, 1] for 3 training examples; it must be [3, 2]"),
    ("return self.l(x).sum()", "returns [] for 3 training examples"),
    ("return self.l(x) / 0 * 0", "the loss of the untrained network is nan"),
    ("raise SystemExit", "it exits the process"),
    ("raise KeyboardInterrupt", "it raises KeyboardInterrupt; raise an error instead"),
    ("return self.forward(x)", "RecursionError"),
    ("return self.nothing(x)", "AttributeError: 'M' object has no attribute 'nothing'"),
]


@pytest.mark.parametrize(("forward", "said"), MODELS, ids=[forward[:40] for forward, _ in MODELS])
def test_a_model_that_returns_something_else_is_a_message(module, make_study, forward, said):
    code = f"{HEAD}{BODY}    def forward(self, x):\n        {forward}\ndef model(shape, outputs): return M()\n"
    refused_model(module(f"{code}{GOOD}def data(): return x, y, x, y\n"), make_study, said)


BUILT = [
    ("None", "returned None; it has no return statement; return a torch.nn.Module"),
    ("nn.Linear", "returned the class Linear; return an instance: Linear(...)"),
    ("(nn.Linear(2, 2),)", "returned a tuple; return a torch.nn.Module"),
    ("nn.DataParallel(nn.Linear(2, 2))", "returned a DataParallel; return the wrapped network, its .module attribute"),
    ("nn.LazyLinear(2)", "weight has no shape yet (a Lazy layer); pass a batch through the network once"),
    (
        "nn.Linear(2, 2, device='meta')",
        'weight is on the "meta" device and has no values; build the network',
    ),
    ("nn.Linear(2, 2, dtype=torch.complex64)", "the parameter weight is complex64; it must be floating-point"),
    ("nn.ModuleList([nn.Linear(2, 2)])", 'is missing the required "forward" function'),
    ("nn.Identity()", "has no trainable parameter"),
    ("sys.exit(4)", "it exits the process (sys.exit(4))"),
]


@pytest.mark.parametrize(("built", "said"), BUILT, ids=[built for built, _ in BUILT])
def test_a_function_that_builds_something_else_is_a_message(module, make_study, built, said):
    code = f"{HEAD}{GOOD}def data(): return x, y, x, y\ndef model(shape, outputs): return {built}\n"
    refused_model(module(code), make_study, said)


def refused_model(name, make_study, said):
    spec = make_study(problem={"dataset": f"{name}:data", "model": f"{name}:model"}, batch_sizes=[3])
    with pytest.raises(StudyFileError) as caught:
        check_study(spec, load_problem(spec.problem), source="x.toml")
    (line,) = caught.value.mistakes
    assert line.startswith("problem.model: hostile:model")
    assert said in line


def test_output_of_user_code_is_not_mixed_with_a_commands_output(capsys):
    with users_code("data"):
        sys.stdout.write("loading ...\n")
    assert capsys.readouterr() == ("", "loading ...\n")
