"""Columns of ids, against Python's own sets and lists."""

import random

import pyarrow as pa
import pytest

from sensitivity.store.ids import is_unique, places


def draw(n, *, digits, seed):
    """Return different ids, some of which begin alike if they have more than 16 digits."""
    generator = random.Random(seed)
    beginnings = [f"{generator.getrandbits(64):016x}" for _ in range(1 + n // 3 if digits > 16 else n)]
    made = {
        generator.choice(beginnings) + "".join(generator.choices("0123456789abcdef", k=digits - 16))
        for _ in range(9 * n)
    }
    return sorted(made, key=lambda text: generator.random())[:n]


def chunked(ids, sizes=(3, 0, 40)):
    """Return ids in chunks, each a slice of a longer array."""
    chunks, rest = [], list(ids)
    for size in sizes:
        chunks.append(pa.array(["f" * 16, *rest[:size], "0" * 20])[1 : 1 + len(rest[:size])])
        rest = rest[size:]
    return pa.chunked_array([*chunks, pa.array(rest, pa.string())])


@pytest.mark.parametrize("digits", [16, 17, 40, 64])
@pytest.mark.parametrize("seed", range(4))
def test_places_are_those_in_a_list(digits, seed):
    known = draw(200, digits=digits, seed=seed)
    wanted = [*random.Random(seed).sample(known, 60), *draw(60, digits=digits, seed=seed + 100)]
    wanted += [known[0][:-1] + ("0" if known[0][-1] != "0" else "1")]  # differs in its last digit
    expected = [known.index(each) if each in known else -1 for each in wanted]
    assert places(chunked(wanted), chunked(known)).tolist() == expected
    mixed = [*known, *draw(50, digits=33, seed=seed + 200)]
    assert places(chunked(wanted), chunked(mixed)).tolist() == expected


@pytest.mark.parametrize("known", [[], ["0123456789abcdef"], ["f" * 16, "f" * 17], ["f" * 17, "f" * 18]])
def test_places_among_few(known):
    wanted = ["f" * 16, "0123456789abcdef", "f" * 17, "0" * 16]
    assert places(chunked(wanted), chunked(known)).tolist() == [known.index(w) if w in known else -1 for w in wanted]
    assert places(chunked([]), chunked(known)).tolist() == []


@pytest.mark.parametrize("digits", [16, 17, 64])
def test_an_id_that_occurs_twice_is_found_wherever_it_is(digits):
    ids = draw(150, digits=digits, seed=digits)
    assert is_unique(chunked(ids))
    for place in (0, 2, 3, 44, 149):
        assert not is_unique(chunked([*ids[:75], ids[place], *ids[75:]]))


def test_ids_that_only_begin_alike_are_different():
    assert is_unique(pa.chunked_array([["0123456789abcdef", "0123456789abcdef0", "0123456789abcdef00"]]))
    assert is_unique(pa.chunked_array([], pa.string()))
