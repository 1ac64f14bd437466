import json

import pytest

from sensitivity.report.fold import fold_rows, fold_texts


def unfolded(folded):
    """As page.js does."""
    pieces = [form.split("\x01") for form in folded["forms"]]
    numbers = [[iter(column.split("|")) for column in of_form] for of_form in folded["columns"]]
    texts = []
    for form in folded["which"]:
        first, *rest = pieces[form]
        texts.append(first + "".join(next(column) + piece for column, piece in zip(numbers[form], rest, strict=True)))
    width = folded["width"]
    return [texts[k : k + width] for k in range(0, len(texts), width)] if width else texts


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["no number", "", "no number"],
        ["lr 0.1<br>loss 1e-05 (2,000 steps).", "lr 10<br>loss 3.5e+10 (7 steps).", "−1 | 2: 3|4", "n = 5, 10 seeds"],
        [["a 1", ""], ["a 2", "b 3"]],
    ],
)
def test_nothing_is_lost(texts):
    assert unfolded(json.loads(json.dumps(fold_texts(texts)))) == texts


def test_texts_of_one_form_are_one_form_with_columns():
    folded = fold_texts([f"best of {k} trials: {1 / k:.3g}" for k in range(2, 5)])
    assert folded["forms"] == ["best of \x01 trials: \x01"]
    assert folded["columns"] == [["2|3|4", "0.5|0.333|0.25"]]


def test_a_table_is_there_by_column():
    assert fold_rows([["a", "b"], ["1", '"x, y"']]) == 'a\x1f1\x1eb\x1f"x, y"'
