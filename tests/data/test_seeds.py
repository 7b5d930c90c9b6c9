import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccpml.data.seeds import CROPS, POOL, generator

integers = st.integers(-(2**62), 2**62)


@given(st.tuples(integers, integers), st.tuples(integers, integers))
def test_streams_are_equal_only_for_equal_keys(a: tuple[int, int], b: tuple[int, int]) -> None:
    first = generator(CROPS, *a).integers(2**63, size=2).tolist()
    assert (first == generator(CROPS, *b).integers(2**63, size=2).tolist()) == (a == b)


@given(integers, integers)
def test_streams_equal_those_of_a_list_of_words(a: int, b: int) -> None:
    words = [CROPS, *(part >> shift & 0xFFFFFFFF for part in (a, b) for shift in (0, 32))]
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
    assert generator(CROPS, a, b).integers(2**63) == expected.integers(2**63)


def test_purposes_and_wide_keys_are_distinct() -> None:
    keys = [(CROPS, 1, 2), (POOL, 1, 2), (CROPS, 1 + (2 << 32), 0), (CROPS, 1, 0), (CROPS, -1, 0), (CROPS, 1)]
    assert len({float(generator(*key).random()) for key in keys}) == len(keys)
