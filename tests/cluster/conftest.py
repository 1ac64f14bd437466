import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of a head and the nodes "one" and "two", and an S3 server whose bucket `studies` this process sees."""
    machines = runpy.run_path(str(Path(__file__).with_name("machines.py")))
    own_disks = machines["own_disks_can_be_made"]()
    made = machines["Machines"](tmp_path_factory.mktemp("cluster"), own_disks=own_disks)
    try:
        made.start_s3()
        made.start_head()
        made.start_nodes("one", "two")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in made.s3_env.items():
                patch.setenv(name, value)
            yield made
    finally:
        made.close()
