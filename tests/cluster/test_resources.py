"""What a pack asks for, and how many packs fit: against nodes that are written down, not found."""

import pytest

from sensitivity.execution.resources import packs_at_once, packs_on, request
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.load import parse_study


def node(labels=None, **resources):
    return {"Resources": resources, "Labels": labels or {}}


CPU_NODE = node(CPU=4.0)
GPU_NODE = node(CPU=32.0, GPU=4.0, **{"accelerator_type:H100": 1.0}, labels={"region": "eu"})


@pytest.mark.parametrize(
    ("execution", "at_once"),
    [
        ({}, 36),
        ({"threads": 3}, 1 + 10),
        ({"threads": 32}, 1),
        ({"device": "cuda"}, 4),
        ({"device": "cuda", "accelerator_share": 0.25}, 16),
        ({"device": "cuda", "accelerator_share": 1 / 3}, 12),
        ({"device": "cuda", "accelerator_share": 0.1}, 32),
        ({"device": "cuda", "accelerator_type": "H100"}, 4),
        ({"labels": {"region": "eu"}}, 32),
        ({"max_concurrent": 5}, 5),
        ({"max_concurrent": 500}, 36),
        ({"max_concurrent": 500, "elastic": True}, 500),
        ({"max_concurrent": 500, "elastic": True, "device": "cuda", "accelerator_type": "B200"}, 500),
    ],
)
def test_packs_fit_on_nodes_not_on_the_sum_of_them(execution, at_once):
    assert packs_at_once([CPU_NODE, GPU_NODE], ExecutionSpec(**execution), workers=None) == at_once
    assert packs_at_once([CPU_NODE, GPU_NODE], ExecutionSpec(**execution), workers=2) == min(2, at_once)


def test_a_custom_resource_limits_packs():
    licensed = node(CPU=8.0, licence=3.0)
    assert packs_on(licensed, ExecutionSpec(resources={"licence": 0.5})) == 6
    assert packs_on(CPU_NODE, ExecutionSpec(resources={"licence": 0.5})) == 0


def test_what_is_asked_of_ray_is_what_is_counted():
    asked = request(ExecutionSpec(device="cuda", accelerator_share=0.5, accelerator_type="A100", resources={"x": 2}))
    assert asked == {"CPU": 1.0, "GPU": 0.5, "accelerator_type:A100": 0.001, "x": 2.0}


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"device": "cuda", "accelerator_type": "B200"}, r"\"B200\", but the cluster has H100\n  Use one of these"),
        ({"threads": 33}, r"threads = 33, but no node has more than 32 CPUs.*\n  Set threads to at most 32"),
        ({"resources": {"licence": 2}}, r"licence = 2, but no node has more than 0\n  Start nodes with `ray start"),
        ({"labels": {"region": "us"}}, r"no single node has all .* the labels region = 'us'.*\n  Request less"),
        ({"labels": {"region": "eu"}, "threads": 32, "resources": {"x": 1}}, r"x = 1, but no node has more than 0"),
    ],
)
def test_what_could_never_start_is_refused_with_its_mend(execution, message):
    with pytest.raises(UserError, match=message):
        packs_at_once([CPU_NODE, GPU_NODE], ExecutionSpec(**execution), workers=None)


def test_without_an_accelerator_cuda_is_refused():
    with pytest.raises(UserError, match="Ray sees no accelerator: no pack could ever start"):
        packs_at_once([CPU_NODE], ExecutionSpec(device="cuda"), workers=None)


@pytest.mark.parametrize(
    ("execution", "mistake"),
    [
        ({"accelerator_type": "H100"}, 'belongs to device = "cuda"; remove it'),
        ({"elastic": True}, "needs max_concurrent"),
        ({"resources": {"GPU": 1.0}}, "GPU is Ray's own"),
        ({"resources": {"licence": 1.5}}, "licence: values above 1 must be whole numbers"),
        ({"resources": {"licence": 0.0}}, "must be > 0"),
        ({"max_concurrent": 0}, "must be >= 1"),
        ({"labels": {"region": 1}}, "give a string in quotes"),
    ],
)
def test_mistakes_of_the_fields(execution, mistake):
    raw = {
        "name": "mine",
        "batch_sizes": [64],
        "seeds": 1,
        "budget": {"steps": 1},
        "execution": execution,
        "optimizers": {"sgd": {"kind": "sgd", "lr": [0.1]}},
    }
    with pytest.raises(StudyFileError, match=mistake) as refused:
        parse_study(raw, source="mine.toml")
    assert len(refused.value.mistakes) == 1
    assert refused.value.mistakes[0].startswith(f"execution.{next(iter(execution))}")
