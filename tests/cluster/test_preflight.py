"""What nodes say of themselves, judged; and one real node that says it."""

from dataclasses import replace

import pytest

from sensitivity.execution.preflight import NodeReport, faults, lacking_accelerator, versions

OWN = {"Python": "3.11", "Ray": "2.60.0", "PyTorch": "2.13.0", "pyarrow": "26.0.1"}
GOOD = NodeReport(node="b", versions=OWN, storage="", dataset="")


def judged(*reports):
    return faults(reports, OWN, driver="head", place="/shared/mine")


def test_nodes_that_agree_have_no_faults():
    assert judged(GOOD, replace(GOOD, node="c")) == []
    assert judged() == []


def test_every_difference_of_every_node_is_said_at_once():
    old = replace(GOOD, node="c", versions={**OWN, "Ray": "2.55.0", "Python": "3.12"})
    bare = replace(GOOD, node="d", storage="can't be written", dataset="can't be downloaded", accelerator="has none")
    assert judged(GOOD, old, bare) == [
        "c has Python 3.12 (3.11 on head), Ray 2.55.0 (2.60.0 on head); install the same on every node",
        "/shared/mine on d: can't be written",
        "the problem on d: can't be downloaded",
        "d: has none",
    ]


def test_a_package_that_a_node_lacks_is_a_difference():
    missing_requirements = {name: version for name, version in OWN.items() if name != "PyTorch"}
    (line,) = judged(replace(GOOD, versions=missing_requirements))
    assert "PyTorch None (2.13.0 on head)" in line


@pytest.mark.parametrize(("cuda", "hip", "lacks"), [(None, None, True), ("12.8", None, False), (None, "6.4", False)])
def test_a_pytorch_that_is_built_for_no_accelerator_is_found(monkeypatch, cuda, hip, lacks):
    import torch

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert bool(lacking_accelerator("cuda")) is lacks
    assert lacking_accelerator("cpu") == ""


def test_the_versions_are_those_that_are_imported():
    import ray
    import torch

    assert versions()["Ray"] == ray.__version__
    assert versions()["PyTorch"] == torch.__version__
