"""Every invalid input of a user's problem causes one message that names the field, before training."""

import textwrap

import pytest

from sensitivity.execution.prepare import prepare_spec
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study

MODULE = """
import torch
torch_seed = torch.Generator().manual_seed(0)
x, y = torch.rand(40, 3, generator=torch_seed), torch.arange(40) % 3
hole = x.clone()
hole[2, 1] = float("nan")
ids = torch.randint(0, 9, (40, 5), generator=torch_seed)
def lengths(): return x, y[:39], x, y
def shapes(): return x, y, x[:, :2], y
def empty(): return x[:0], y[:0], x, y
def nan(): return hole, y, x, y
def infinite(): return x, x[:, :1] / 0, x, x[:, :1]
def above(): return x, y, x, y + 1
def unknown(): return ids, ids % 3, ids, ids % 3
def masked(): return ids, ids * 0 - 100, ids, ids
def good(): return x, y, x, y
def never(outputs, targets): return outputs.sum() * float("nan")
def divided(outputs, targets): return 1 / (outputs * 0).sum()
"""
TEXT = {"model": "transformer", "model_arguments": {"width": 8, "depth": 1, "heads": 1}}
CASES = {
    "other lengths": ({"dataset": "bad:lengths"}, r"40 train inputs and 39 targets; their numbers must be equal"),
    "other shapes": (
        {"dataset": "bad:shapes"},
        r"a train input is \[3\] .*, a test input \[2\] .*; they must be equal",
    ),
    "no example": (
        {"dataset": "bad:empty"},
        "0 train inputs and 0 targets; their numbers must be equal and at least 1",
    ),
    "NaN": ({"dataset": "bad:nan"}, "train inputs contain NaN or infinity; remove or replace them"),
    "infinity": ({"dataset": "bad:infinite", "loss": "squared_error"}, "train targets contain NaN or infinity"),
    "class above": (
        {"dataset": "bad:above", "outputs": 3},
        "problem.outputs: 3, but the targets of .* have the class 3",
    ),
    "id above": (
        {"dataset": "bad:unknown", **TEXT},
        "ids from 0 to below the number of outputs, 3; inputs have 0 to 8",
    ),
    "no target": ({"dataset": "bad:masked", **TEXT}, "every one -100: no position has a target"),
    "weights": (
        {"dataset": "bad:good", "loss_arguments": {"class_weights": [1, 2]}},
        "class_weights: 2 numbers; give one for each of the 3 classes",
    ),
    "metric NaN": (
        {"dataset": "bad:good", "metrics": {"m": "bad:never"}},
        r"problem\.metrics\.m: it is nan for the untrained network on 40 test examples; it must be finite",
    ),
    "metric infinite": (
        {"dataset": "bad:good", "metrics": {"m": "bad:divided"}},
        r"problem\.metrics\.m: it is inf for",
    ),
    "no text": ({"dataset": "text:empty.txt", **TEXT}, r"empty\.txt is empty\n  Give a text file"),
    "short text": (
        {"dataset": "text:short.txt", **TEXT},
        "32 tokens plus the next one are more than the training",
    ),
    "long sequences": (
        {"dataset": "text:text.txt", "sequence_length": 900, **TEXT},
        r"900 tokens plus the next one are more than the training text .* has \(800\)",
    ),
    "absent text": ({"dataset": "text:absent.txt", **TEXT}, r"there is no file or folder 'absent\.txt'; tried"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_one_message(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))
    (tmp_path / "bad.py").write_text(textwrap.dedent(MODULE))
    for file, content in {"empty.txt": "", "short.txt": "ab", "text.txt": "abcdefghi\n" * 100}.items():
        (tmp_path / file).write_text(content)
    problem, words = CASES[name]
    raw = {
        "name": "t", "batch_sizes": [8], "seeds": 1, "budget": {"steps": 2}, "problem": problem,
        "optimizers": {"a": {"kind": "sgd", "lr": 0.1}},
    }  # fmt: skip
    with pytest.raises(UserError, match=words) as caught:
        prepare_spec(parse_study(raw, source="study.toml"), folder=tmp_path, source="study.toml")
    assert len(getattr(caught.value, "mistakes", [""])) == 1
    assert "Traceback" not in str(caught.value)
