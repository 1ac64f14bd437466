import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensitivity.execution.environment import ray_environment

TINY = """
name = "tiny"
batch_sizes = [64, 256]
seeds = 2
[budget]
steps = 6
[evaluation]
every_steps = 3
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.1, 1e6]
[optimizers.kfac]
kind = "kfac"
lr = [0.01]
damping = [0.1, 1.0]
"""


@pytest.fixture(scope="session")
def running_ray() -> Iterator[str]:
    """One small Ray for all tests; its address."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # read when Ray is imported: the same in every test that does
        stack.enter_context(ray_environment(local=True))
        import ray

        context = ray.init(
            address="local",  # or a cluster that another test has started would be joined
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield context.address_info["address"]
        ray.shutdown()


@pytest.fixture(scope="module")
def kept_workers(running_ray: str) -> Iterator[None]:
    """Workers that stay from test to test of a module, as where Ray is this process's own."""
    from sensitivity.execution import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_own", True)
        yield
        session._at_end.close()


@pytest.fixture(scope="session")
def tiny() -> str:
    """A study file of 20 runs, of which lr = 1e6 diverges."""
    return TINY


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Write a study file: the tiny one, with replacements."""

    def write(*replacements: tuple[str, str], name: str = "tiny.toml") -> Path:
        text = TINY
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
