import datetime
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.fixture(scope="module")
def held():
    """The functions of held.py, which imports torch: tests that are skipped do without."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("held.py"))))


def _today() -> str:
    return str(datetime.datetime.now(tz=datetime.UTC).date())


@pytest.fixture(scope="session")
def update_record():
    """Renew the rows of a table in benchmarks/results by their first column; other rows stay as they are."""

    def update(name: str, head: str, seen: dict[str, str]) -> None:
        path = RESULTS / f"{name}.md"
        old = path.read_text().splitlines() if path.exists() else []
        rows = {line.split("|")[1].strip(): line for line in old if line.startswith("| ") and line[2:5] != "---"}
        rows |= {what: f"| {what} | {_today()} | {told} |" for what, told in seen.items()}
        rows.pop("what", None)
        table = ["| what | seen on | what was seen |", "| --- | --- | --- |", *rows.values()]
        path.write_text("\n".join([head, "", *table]) + "\n")

    return update


@pytest.fixture(scope="session")
def write_record():
    """Write what the tests of a file saw to a page of benchmarks/results."""

    def write(name: str, title: str, circumstances: str, seen: list[str]) -> None:
        command = f"`pytest --cluster -n 0 tests/cluster/test_{name}.py`, {_today()}, {os.cpu_count()} cores"
        lines = [f"# {title}", "", f"{command}, {circumstances}:", "", *(f"- {line}" for line in seen)]
        (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")

    return write


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, request):
    """A cluster of a head and the node "one"; with --cluster also "two", and S3 with a bucket `studies`."""
    machines = runpy.run_path(str(Path(__file__).with_name("machines.py")))
    own_disks = machines["own_disks_can_be_made"]()
    made = machines["Machines"](tmp_path_factory.mktemp("cluster"), own_disks=own_disks)
    try:
        if whole := request.config.getoption("--cluster"):
            made.start_s3()
        made.start_head()
        made.start_nodes(*(("one", "two") if whole else ("one",)))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in made.s3_env.items():
                patch.setenv(name, value)
            yield made
    finally:
        made.close()
