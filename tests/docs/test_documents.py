"""The documents say what is there: files, tests and sections that they name exist, and recipes work as printed."""

import ast
import doctest
import importlib
import re
import sys
import tomllib
import types
from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import BaseModel

import sensitivity
from sensitivity.figures import catalogue
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.theme import LIGHT
from sensitivity.optimizers.contract import RULES
from sensitivity.optimizers.numbers import Numbers
from sensitivity.study.arms import ARMS, Arm, kinds
from sensitivity.study.load import parse_study
from sensitivity.study.observed import ObservedSpec
from sensitivity.study.spec import StudySpec

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SOURCES = [path for top in ("sensitivity", "dashboards", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(?:#[^)\s]*)?\)")
PATH = re.compile(r"(?<![\w/.-])((?:sensitivity|dashboards|tests|benchmarks|examples|docs|search_spaces)/[\w./-]*\w)")


WHOLE = tomllib.loads((ROOT / "search_spaces/template.toml").read_text())
"""A study with every table."""


@pytest.fixture(scope="module")
def hooks():
    """The modules that generate pages of the site; they need none of its packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/hooks"))
        import gallery
        import study_file_reference

        yield types.SimpleNamespace(gallery=gallery, reference=study_file_reference)
    for name in ("gallery", "study_file_reference"):
        sys.modules.pop(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    generated = {"gallery.md", "study-file.md", "commands.md"}  # made when the site is built
    missing = [
        link
        for link in LINK.findall(document.read_text())
        if not (document.parent / link).exists() and Path(link).name not in generated
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document):
    text = re.sub(
        r"```\w*\n.*?```", lambda block: block[0] if "pytest" in block[0] else "", document.read_text(), flags=re.DOTALL
    )
    made = ("sensitivity/optimizers/kinds/sign_sgd.py", "sensitivity/figures/exhibits/divergence.py")
    missing = {path for path in PATH.findall(text) if not (ROOT / path).exists() and path not in made}
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_expressions_of_pytest_select_tests(document):
    """Each word after ``pytest FILES -k`` is in the name of a test of those files, or in a name that they contain."""
    text = " ".join(document.read_text().split())
    for paths, quoted, word in re.findall(r"pytest ((?:-?[\w./-]+ )*)-k (?:[\"']([^\"']+)[\"']|(\w+))", text):
        files = [
            file
            for path in re.findall(r"tests[\w./-]*", paths) or ["tests"]
            for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py"))
        ]
        names = " ".join([*kinds(), "sign_sgd", *(f"{file.name} {file.read_text()}" for file in files)])
        assert [each for each in re.findall(r"\w+", quoted or word) if each.lower() not in names.lower()] == []


def test_sections_that_the_code_refers_to_exist():
    sections = set(re.findall(r"^## (\w+)\.", (ROOT / "docs/statistics.md").read_text(), re.MULTILINE))
    named = set()
    for path in SOURCES:
        text = re.sub(r"\s*\n\s*(?:#\s*)?", " ", path.read_text())
        named |= set(re.findall(r"docs/([a-z]+\.md)", text))
        for several in re.findall(r"docs/statistics\.md, sections? ((?:\d\w?(?:, | and )?)+)", text):
            assert set(re.findall(r"\d+b?", several)) <= sections, path
    assert {"statistics.md", "ray.md"} <= named
    assert all((ROOT / "docs" / name).exists() for name in named)


def test_the_reference_has_every_field_of_every_model(hooks):
    page = hooks.reference.study_file_reference()
    parts = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    kinds()
    declared = {
        name: type(value)
        for name, value in StudySpec.model_validate(WHOLE).__dict__.items()
        if isinstance(value, BaseModel)
    }
    assert len(declared) >= 8
    declared["observed"] = ObservedSpec  # which a study that is trained here has not
    assert hooks.reference.tables() == declared
    models = {f"`[{name}]`": model for name, model in declared.items()}
    models |= {"Top level": StudySpec} | {"`[optimizers.NAME]`": Arm}
    for title, model in models.items():
        assert set(re.findall(r"^\| `(\w+)` \|", parts[title], re.MULTILINE)) == set(model.model_fields)
    for kind, arm in ARMS.items():
        (part,) = (text for title, text in parts.items() if f'kind = "{kind}"' in title)
        own = set(arm.model_fields) - set(Arm.model_fields)
        assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == own


def test_the_reference_states_types_ranges_and_defaults(hooks):
    page = hooks.reference.study_file_reference()
    assert "| `test_fraction` | number, > 0 and < 1 | `0.2` |" in page
    assert "| `damping` | number, list or interval; > 0 | required |" in page
    assert "| `decoupled` | true or false | `false` |" in page
    assert "| `every_steps` | whole number, ≥ 1 and ≤ 1e9 | none |" in page

    class Model(BaseModel):
        added: int = 3
        """Text of a field | that was added."""

    assert hooks.reference._fields(Model).splitlines()[-1] == (
        "| `added` | whole number | `3` | Text of a field \\| that was added. |"
    )


def test_the_api_reference_has_every_public_name():
    page = (ROOT / "docs/api/python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: sensitivity\.(\w+)$", page, re.MULTILINE)) == sorted(sensitivity.__all__)


def test_the_gallery_shows_every_exhibit(hooks):
    page = hooks.gallery.gallery_page()
    named = re.findall(r"`sensitivity figure studies/quickstart ([\w-]+)`", page)
    assert sorted(named) == sorted(exhibit.name for exhibit in catalogue.EXHIBITS)
    shown = {path.stem for path in hooks.gallery.PICTURES.glob("*.webp")}
    assert shown <= {exhibit.name for exhibit in catalogue.EXHIBITS if exhibit.draw}, "a picture of what is no exhibit"
    assert len(shown) > 15


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/first-study.md"])
def test_study_files_that_are_shown_are_valid(document):
    (text,) = blocks(document, "toml")
    spec = parse_study(tomllib.loads(text), source=document)
    assert len(spec.optimizers) >= 2


@pytest.fixture
def recipe():
    """Import a block of CONTRIBUTING.md as a module, and forget the optimizers that it declares."""
    kinds()
    before = set(ARMS)
    made = []

    def load(name, number):
        made.append(name)
        sys.modules[name] = types.ModuleType(name)
        exec(
            compile(blocks("CONTRIBUTING.md", "python")[number], "CONTRIBUTING.md", "exec"), sys.modules[name].__dict__
        )
        return sys.modules[name]

    yield load
    for kind in set(ARMS) - before:
        del ARMS[kind], RULES[kind]
    for name in made:
        del sys.modules[name]


def test_the_recipe_of_an_optimizer_adds_one(recipe):
    made = recipe("sign_sgd", 0)
    assert ARMS["sign_sgd"] is made.SignSGDArm
    params, grads = {"w": torch.ones(2, 3)}, {"w": torch.tensor([[1.0, -2.0, 0.0]] * 2)}
    numbers = Numbers([{"weight_decay": 0.0}, {"weight_decay": 0.0}], params["w"])
    rule = RULES["sign_sgd"]({}, None)
    rule.step(params, grads, rule.init(params, numbers), numbers, lr=torch.tensor([0.1, 0.5]), step=0)
    torch.testing.assert_close(params["w"], torch.tensor([[0.9, 1.1, 1.0], [0.5, 1.5, 1.0]]))


def test_the_recipe_of_an_exhibit_is_one(recipe):
    made = recipe("divergence", 1)
    assert isinstance(made.DIVERGENCE, Exhibit)
    runs = pd.DataFrame({"optimizer": ["sgd"] * 4, "batch_size": 32, "status": ["diverged", *["completed"] * 3]})
    found = made.DIVERGENCE.compute(types.SimpleNamespace(runs=runs))
    assert made.DIVERGENCE.data(found).rows == [("sgd", 32, 1, 4)]
    figure = made.DIVERGENCE.draw(found, LIGHT)
    assert list(figure.data[0].y) == [0.25]
    assert "n = 4 runs" in figure.layout.title.subtitle.text


@pytest.mark.parametrize("document", ["README.md", "docs/kfac.md"])
def test_python_that_is_shown_is_python(document):
    for block in blocks(document, "python"):
        ast.parse(block)


EXAMPLES = [path for path in SOURCES if path.is_relative_to(ROOT / "sensitivity") and ">>> " in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_give_what_they_show(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
