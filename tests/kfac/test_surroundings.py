"""What stands around a training loop: autocast, loss scaling, compilation, pickling, devices, ranks."""

import contextlib
import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.kfac import KFAC, KFACConfig, engine, recorder, statistics
from sensitivity.kfac import optimizer as optimizer_module
from sensitivity.kfac.precision import full_precision

DOUBLE = torch.float64


def model_of(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4)).to(dtype)


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 2, 4, 4, generator=generator, dtype=dtype)
    return x, torch.randint(4, (7,), generator=generator)


@pytest.mark.parametrize(
    "options", [{}, {"damping_form": "exact"}, {"damping_form": "exact", "ekfac": True}, {"kl_clip": 1e-3}]
)
def test_a_backward_pass_and_a_step_within_autocast_round_nothing_more(options: dict[str, Any]) -> None:
    found = []
    for within in (False, True):
        model = model_of()
        optimizer, (x, y) = KFAC(model, KFACConfig(**options)), batch()
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(x).float(), y)
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            loss.backward()
            assert not optimizer.step().failed
        found.append([optimizer.kfac.factor(n, s) for n in "03" for s in ("inputs", "outputs")] + [*model.parameters()])
    for outside, inside in zip(*found, strict=True):
        assert torch.equal(outside, inside)


@pytest.fixture
def tf32(request: pytest.FixtureRequest) -> Iterator[Any]:
    """TF32 as a caller may have switched it on: by torch's older interface, or by its newer one."""
    backends: Any = torch.backends
    kept = backends.cuda.matmul.fp32_precision, backends.cudnn.allow_tf32
    backends.cudnn.allow_tf32 = True  # torch's default, which a study trained in this process may have changed
    if request.param == "older":
        backends.cuda.matmul.allow_tf32 = True
    else:
        backends.cuda.matmul.fp32_precision = "tf32"
    yield backends.cuda.matmul
    backends.cuda.matmul.allow_tf32 = False
    backends.cuda.matmul.fp32_precision, backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize("tf32", ["older", "newer"], indirect=True)
def test_tf32_is_off_where_full_precision_is_wanted_and_then_as_it_was(tf32: Any) -> None:
    backends: Any = torch.backends
    with contextlib.suppress(KeyError), full_precision(torch.device("cuda")):
        assert (tf32.fp32_precision, backends.cudnn.allow_tf32) == ("ieee", False)
        raise KeyError
    assert (tf32.fp32_precision, backends.cudnn.allow_tf32) == ("tf32", True)
    with full_precision(torch.device("cpu")):
        assert tf32.fp32_precision == "tf32"


@pytest.mark.parametrize("tf32", ["older"], indirect=True)
def test_no_product_of_a_step_is_of_tf32_but_the_networks(tf32: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step and the statistics are told that they run on an accelerator: every product finds TF32 off."""
    found: dict[bool, set[str]] = {False: set(), True: set()}

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else func.__name__
            if any(word in name for word in ("mm", "matmul", "cholesky", "addmv", "eigh")):
                found[tf32.allow_tf32].add(name)
            return func(*args, **(kwargs or {}))

    for module in (engine, optimizer_module, recorder, statistics):
        monkeypatch.setattr(module, "full_precision", lambda _: full_precision(torch.device("cuda")))
    model, (x, y) = model_of(), batch()
    optimizer = KFAC(model, KFACConfig())
    with Products():
        loss = functional.cross_entropy(model(x), y)
        assert found[False] == set()
        assert found[True] == {"addmm"}
        loss.backward()
        found[True].clear()
        optimizer.step()
    assert found[True] == set()
    assert any("cholesky" in name for name in found[False])


@pytest.mark.parametrize("fisher", ["empirical", "type2"])
def test_an_input_changed_in_place_behind_autocast_is_refused(fisher: Any) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = 1.0 * x
            x += self.inner(x)
            return self.head(x)

    model = Residual()
    optimizer = KFAC(model, KFACConfig(fisher=fisher))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(6, 4))
    loss = outputs.float().square().sum()
    with pytest.raises(RuntimeError, match="'inner' was changed in place"):
        loss.backward() if fisher == "empirical" else optimizer.observe(outputs)


def test_an_overflow_that_the_scaler_skips_leaves_no_trace() -> None:
    plain, scaled = model_of(DOUBLE), model_of(DOUBLE)
    x, y = batch(dtype=DOUBLE)
    alone = KFAC(plain, KFACConfig())
    functional.cross_entropy(plain(x), y).backward()
    alone.step()

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = KFAC(scaled, KFACConfig(), scaler=scaler)
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * functional.cross_entropy(scaled(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 128.0
    assert optimizer.report().steps == 1
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_a_compiled_model_trains_as_it_does_uncompiled() -> None:
    config = KFACConfig(factor_interval=2, inverse_interval=2)
    plain, inner = model_of(DOUBLE), model_of(DOUBLE)
    compiled = torch.compile(inner, backend="eager")
    runs: list[tuple[Any, KFAC]] = [(plain, KFAC(plain, config)), (compiled, KFAC(inner, config))]
    for index in range(4):
        x, y = batch(index, DOUBLE)
        for call, optimizer in runs:
            optimizer.zero_grad()
            functional.cross_entropy(call(x), y).backward()
            assert not optimizer.step().failed
    for p, q in zip(plain.parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_model_under_observation_can_be_saved_whole_and_copied() -> None:
    model, (x, y) = model_of(), batch()
    optimizer = KFAC(model, KFACConfig())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        functional.cross_entropy(other(x), y).backward()
        with pytest.raises(RuntimeError, match="No parameter has a gradient"):
            optimizer.step()
        assert optimizer._recorder.missing == ("0", "3")
        again = KFAC(other, KFACConfig())
        functional.cross_entropy(other(x), y).backward()
        assert not again.step().failed


def test_a_model_that_moved_to_another_device_is_refused() -> None:
    model = model_of()
    optimizer = KFAC(model, KFACConfig())
    model.to("meta")
    with pytest.raises(RuntimeError, match="'0' is on meta, and KFAC was built on cpu"):
        model(torch.zeros(7, 2, 4, 4, device="meta"))
    assert optimizer.report().steps == 0


def test_ranks_without_a_data_parallel_model_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.warns(UserWarning, match="2 ranks, and a model that is not in DistributedDataParallel"):
        KFAC(model_of(), KFACConfig())


@pytest.mark.parametrize("interval", [1, 100])
def test_a_layer_that_enters_late_starts_like_one_that_was_there(interval: int, truth: Any) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.go_left = nn.Linear(4, 3), nn.Linear(4, 3), True

        def forward(self, x: Tensor) -> Tensor:
            return (self.left if self.go_left else self.right)(x)

    torch.manual_seed(0)
    model = Branches().to(DOUBLE)
    early = KFAC(model, KFACConfig(lr=0.1, damping=0.1, momentum=0.0, inverse_interval=interval))
    x, y = torch.randn(8, 4, dtype=DOUBLE), torch.randint(3, (8,))

    def step(optimizer: KFAC) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        assert not optimizer.step().failed

    for _ in range(3):
        step(early)
    restored = KFAC(model, early.config)
    restored.load_state_dict(copy.deepcopy(early.state_dict()))
    model.go_left, start = False, model.right.weight.detach().clone()
    moved = []
    for optimizer in (KFAC(model, early.config), early, restored):
        with torch.no_grad():
            model.right.weight.copy_(start)
            model.right.bias.zero_()
        step(optimizer)
        moved.append(model.right.weight.detach().clone())
    assert not torch.equal(moved[0], start)
    for late in moved[1:]:
        torch.testing.assert_close(late, moved[0], rtol=1e-12, atol=1e-14)
    assert early.kfac.waiting == ()
