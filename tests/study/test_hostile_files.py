"""Malformed study files, names and numbers result in a study or a message, never in another exception."""

import os
import pickle
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import find_study, load_study, parse_study, shipped
from sensitivity.study.paths import expanded, path_faults
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.spec import StudySpec

SLIPS = [
    ("lr = 0,1", "use a decimal point: 0.1, not 0,1"),
    ("lr = 0,1  # small", "use a decimal point"),
    ("lr = -1,5e-3", "use a decimal point"),
    ("lr = { log = [1e-3, 1.0], points = 1,5 }", "not valid TOML"),
    ("lr = .1", "decimals need digits on both sides of the point"),
    ("lr = 1.", "decimals need digits on both sides of the point"),
    ("lr = [0.1, .2]", "decimals need digits on both sides of the point"),
    ("nesterov = True", "write true or false in lower case"),
    ("samples = None", "TOML has no null value; leave the line out"),
    ("name = “mine”", 'use straight quotes: "digits"'),
    ("lr: 0.1", "write name = value"),
    ("lr", "write name = value, or [name] for a table"),
    ("// comment", "comments begin with #"),
    ("model = perceptron", "put strings in quotes and lists in brackets"),
    ("lr = 1\nlr = 2", "a name may appear only once in a table"),
    ("x = 'a\0b'", "the line contains null bytes; save the file as UTF-8 text"),
    ("x = " + "[" * 5000, "brackets are nested too deeply"),
    ("x = " + "9" * 5000, "not valid TOML: "),
    ("x = " + "y" * 100_000, " ... "),
]


@pytest.mark.parametrize(("text", "said"), SLIPS, ids=[text[:30].replace("\0", "NUL") for text, _ in SLIPS])
def test_toml_mistakes_are_reported_with_the_fix(tmp_path, text, said):
    path = tmp_path / "slip.toml"
    path.write_text(f"seeds = 1\n{text}\n")
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("not valid TOML: ")
    assert said in mistake
    assert len(mistake) < 700


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("description = 'é'".encode("latin-1"), "not UTF-8 text (byte 15, line 1); save the file as UTF-8"),
        ("name = 'x'".encode("utf-16"), "UTF-16 text (byte 0, line 1); save the file as UTF-8"),
        (b"\n\nname = '\xff'", "line 3"),
        (b"\x00" * 100, "null bytes"),
        (bytes(range(256)), "not UTF-8 text"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, said):
    path = tmp_path / "text.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    assert said in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf" + shipped()["quickstart"].read_bytes())
    assert load_study(path) == load_study(shipped()["quickstart"])


TEXT = shipped()["quickstart"].read_bytes()
PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\0", b"\xff", b"\xef\xbb\xbf", b"[", b"]", b"=", b"'''", b'"', b"\n", b"0,1", b"\r", b"\x1b[2J"]
    ),
)


@given(st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 8), PIECES), min_size=1, max_size=3))
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_file_with_damaged_bytes_is_a_study_or_named_mistakes(tmp_path, changes):
    content = TEXT
    for start, length, piece in changes:
        content = content[:start] + piece + content[start + length :]
    path = tmp_path / "damaged.toml"
    path.write_bytes(content)
    said = ""
    try:
        assert isinstance(load_study(path), StudySpec)
    except StudyFileError as error:
        said = str(error)
    assert len(said) < 5_000
    said.encode()
    assert said.count("\n") <= 50
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", said)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("a\0b.toml", "no study file 'a\\x00b.toml'"),
        ("x" * 5000, "File name too long"),
        ("", "no study file ''; this is a folder"),
        ("/dev/null", "no study file '/dev/null'"),
        (os.fsdecode(b"\xff.toml"), "no study file '\\udcff.toml'"),
        ("~no-such-user-here/x.toml", "there is no such home folder"),
        ("\x1b[31mred", "no study file '\\x1b[31mred'"),
        ("quickstart.tml", "did you mean 'quickstart'?"),
    ],
)
def test_a_name_that_is_no_study_is_a_message(study, said):
    with pytest.raises(UserError) as caught:
        find_study(study)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 2_000
    str(caught.value).encode()


def test_a_file_whose_name_is_not_utf8_is_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.toml"))
    path.write_bytes(TEXT)
    assert load_study(find_study(str(path))).name == "quickstart"
    path.write_bytes(b"name = 3")
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    assert "caf\\udce9.toml: " in str(caught.value)
    str(caught.value).encode()


def test_links_in_a_circle_and_folders_are_messages(tmp_path):
    (tmp_path / "a.toml").symlink_to(tmp_path / "b.toml")
    (tmp_path / "b.toml").symlink_to(tmp_path / "a.toml")
    with pytest.raises(UserError, match=r"a\.toml: can't be read \(Too many levels of symbolic links\)"):
        load_study(tmp_path / "a.toml")
    with pytest.raises(UserError, match=r"can't be read \(Is a directory\)\n  Give a readable"):
        load_study(tmp_path)
    with pytest.raises(UserError, match="this is a broken link"):
        find_study(str(tmp_path / "a.toml"))
    with pytest.raises(UserError, match="this is a folder, give a file in it"):
        find_study(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/data/secret"), "/data/secret: can't be read (Permission denied)"),
        (OSError(36, "File name too long"), "here: can't be read (File name too long)"),
        (OSError("odd"), "here: can't be read (odd)"),
        (ValueError("embedded null byte"), "here: can't be read (embedded null byte)"),
        (RuntimeError("Symlink loop from 'x'"), "here: can't be read (Symlink loop from 'x')"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), "here: can't be read ("),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "here: can't be read (not UTF-8 text (byte 0))"),
    ],
)
def test_path_errors_become_messages(error, said):
    with pytest.raises(UserError) as caught, path_faults("here", "Do this"):
        raise error
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("\n  Do this")


def test_no_home_folder_is_a_message(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(UserError, match=r"DATA '~/x': there is no such home folder \(.*\)\n  Give"):
        expanded("~/x", what="SENSITIVITY_DATA")


def study(**changes):
    raw = {
        "name": "n",
        "batch_sizes": [32],
        "seeds": 1,
        "budget": {"steps": 5},
        "optimizers": {"sgd": {"kind": "sgd", "lr": 0.03, "momentum": 0.9}},
    }
    return parse_study({**raw, **changes}, source="mine")


@pytest.mark.parametrize(
    "lr",
    [
        np.float32(0.03), np.float64(0.03), np.float16(0.03), np.longdouble("0.03"), np.array(0.03), Fraction(3, 100),
        Decimal("0.03"), torch.tensor(0.03), torch.tensor(0.03, dtype=torch.float64, requires_grad=True), [0.03],
        np.array([0.03]), torch.tensor([0.03]), [np.float32(0.03)],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_real_number_of_a_python_caller_is_that_number(lr):
    (value,) = study(optimizers={"sgd": {"kind": "sgd", "lr": lr}}).axes["sgd"]["lr"].grid()
    assert value == pytest.approx(0.03, rel=2e-3 if isinstance(lr, np.float16) else 1e-6)
    assert type(value) is float


def test_numbers_of_numpy_and_torch_are_taken_everywhere():
    given = study(
        batch_sizes=np.array([32, 64]),
        seeds=np.int64(3),
        budget={"epochs": np.float32(2.5)},
        optimizers={"k": {"kind": "kfac", "lr": np.logspace(-2, 0, 3), "damping": torch.tensor([0.1, 1.0]),
                          "nesterov": np.True_, "factor_interval": np.int32(2), "factor_decay": Fraction(1, 2)}},
    )  # fmt: skip
    assert given == study(
        batch_sizes=[32, 64],
        seeds=3,
        budget={"epochs": 2.5},
        optimizers={"k": {"kind": "kfac", "lr": [0.01, 0.1, 1.0], "damping": [0.1, 1.0], "nesterov": True,
                          "factor_interval": 2, "factor_decay": 0.5}},
    )  # fmt: skip
    assert ProblemSpec(test_fraction=np.float32(0.5), split_seed=np.uint8(3)).test_fraction == 0.5


@pytest.mark.parametrize(
    "lr",
    [np.float32("nan"), torch.tensor(float("inf")), np.clongdouble(1), Fraction(10**400), Decimal("NaN"), np.True_, 1j],
    ids=str,
)  # fmt: skip
def test_values_that_are_not_finite_real_numbers_are_rejected(lr):
    with pytest.raises(StudyFileError, match=r"optimizers\.sgd\.lr: "):
        study(optimizers={"sgd": {"kind": "sgd", "lr": lr}})


def test_the_mistakes_of_a_file_survive_a_process_boundary():
    error = StudyFileError("x.toml", ["a: bad", "b: worse"])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.mistakes) == (StudyFileError, str(error), error.mistakes)
