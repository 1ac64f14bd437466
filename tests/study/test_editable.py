"""Studies built and changed in Python: validated like files, and written as files that read back equal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import load_study, parse_study, parse_toml, shipped
from sensitivity.study.spec import StudySpec


def read_back(spec):
    return parse_study(parse_toml(spec.to_toml(), source="back"), source="back")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_study_is_written_and_read_back(name):
    spec = StudySpec.read(name)
    assert spec == load_study(shipped()[name]) == read_back(spec) == spec.replace()
    whole = parse_study(spec.model_dump(mode="json"), source="a manifest")
    assert read_back(whole) == whole == spec


floats = st.floats(1e-6, 10.0).map(lambda value: float(f"{value:.6g}"))
levels = st.lists(floats, min_size=1, max_size=3, unique=True)


@given(
    seeds=st.integers(1, 40) | st.lists(st.integers(0, 10**9 - 1), min_size=1, unique=True, max_size=9),
    rates=levels,
    text=st.text(st.characters(codec="utf-8"), max_size=30),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "budget": st.sampled_from([{"steps": 5}, {"epochs": 0.3}, {"adjusted_epochs": 2.5, "base_batch_size": 8}]),
            "evaluation.growth": st.floats(1e-3, 1),
            "optimizers.kfac.damping": st.just({"linear": [0.1, 3.25], "points": 3}),
            "optimizers.kfac.kl_clip": floats,
            "targets": st.dictionaries(st.sampled_from(["test_loss", "train_loss"]), levels),
            "margins.scaling_ratio": st.floats(1.01, 100),
            "execution.labels": st.dictionaries(st.text("ab.", min_size=1), st.text(max_size=4), max_size=2),
            '"optimizers"."a.b"': st.just({"kind": "sgd", "lr": 0.5, "nesterov": True, "momentum": 0.9}),
        },
    ),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_study_is_written_and_read_back(seeds, rates, text, fields):
    arms = {"kfac": {"kind": "kfac", "lr": 0.1, "damping": 0.1}, "sgd": {"kind": "sgd", "lr": rates}}
    try:
        spec = StudySpec(
            name="any", description=text, batch_sizes=[8, 16], seeds=seeds, budget={"steps": 3}, optimizers=arms
        ).replace(**fields)
    except StudyFileError:
        return  # values that are also invalid in a study file
    assert read_back(spec) == spec


@pytest.fixture
def spec(minimal):
    return StudySpec(**minimal)


def test_replace_changes_what_is_named_and_nothing_else(spec):
    changed = spec.replace(seeds=[0, 1, 5], **{"optimizers.sgd.lr": [0.1], "evaluation.every_steps": 3})
    assert (changed.seeds, changed.optimizers["sgd"].lr.values) == ((0, 1, 5), (0.1,))
    assert changed.evaluation.every_steps == 3
    assert changed.evaluation.growth is None, "a default that another field decides"
    assert changed.optimizers["kfac"] == spec.optimizers["kfac"]
    assert changed.replace(seeds=2, **{"optimizers.sgd.lr": spec.optimizers["sgd"].lr, "evaluation": None}) == spec
    assert spec.replace(budget=spec.budget) == spec
    assert spec.replace(**{"optimizers.sgd": None}).optimizers.keys() == {"kfac"}


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"batch_sizes": [0]}, r"batch_sizes\[0\]: must be >= 1 \(got 0\)"),
        ({"sedes": 3}, r"sedes: unknown field \(did you mean 'seeds'\?\)"),
        ({"optimizers.sgd.lr": [0.0]}, r"optimizers\.sgd\.lr: lr must be > 0"),
        ({"optimizers.adm": {"kind": "adma", "lr": 1}}, r"optimizers\.adm\.kind: unknown optimizer 'adma'"),
        ({"seeds.x": 1}, "seeds.x: seeds is not a table; give seeds as a whole"),
        ({"a b": 1}, "a b: not a field path"),
        ({"budget": None}, "budget: missing"),
    ],
    ids=str,
)
def test_replace_reports_mistakes_like_study_files(spec, changes, mistake):
    with pytest.raises(StudyFileError, match=mistake):
        spec.replace(**changes)


def test_python_studies_report_mistakes_like_study_files(minimal):
    raw = minimal | {"seeds": [1, 1], "budget": {"epoch": 1}, "batch_sizes": [1] * 20_000}
    with pytest.raises(StudyFileError, match="20,000 values"):
        StudySpec(**raw)
    raw |= {"batch_sizes": []}
    with pytest.raises(StudyFileError) as made:
        StudySpec(**raw)
    with pytest.raises(StudyFileError) as read:
        parse_study(raw, source="study")
    assert made.value.mistakes == read.value.mistakes
    assert len(made.value.mistakes) == 3


def test_functions_are_stored_with_the_study_and_kept_by_replace(minimal, run_cell):
    functions = (f"def {name}(*given): return {k}" for k, name in enumerate(("data", "net", "other")))
    cells = run_cell("\n".join(functions))
    spec = StudySpec(**minimal, problem={"dataset": cells["data"], "model": cells["net"]})
    assert (spec.problem.dataset, spec.problem.model) == ("study_code:data", "study_code:net")
    assert spec.replace(seeds=3).code == spec.code
    assert spec != StudySpec(**minimal, problem={"dataset": cells["data"], "model": "study_code:net"})
    with pytest.raises(StudyFileError, match=r"problem\.dataset: this function was passed earlier; pass it again"):
        spec.replace(**{"problem.model": cells["other"]})
    both = spec.replace(**{"problem.model": cells["other"], "problem.dataset": cells["data"]})
    assert "def other" in both.code
    assert "def net" not in both.code
    assert spec.replace(problem={"dataset": "digits", "model": "lenet"}).code == ""
