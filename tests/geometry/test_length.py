"""Formulas of the image's size against the numbers that Python computes for many sizes."""

import math
import operator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fullconv.geometry.length import Length, NoFormulaError, Sizes, ratio

STEPS = [
    (operator.add, st.integers(-9, 9)),
    (operator.sub, st.integers(-9, 9)),
    (operator.mul, st.integers(1, 4)),
    (operator.floordiv, st.sampled_from([1, 2, 3, 4, 8])),
    (operator.mod, st.sampled_from([2, 4, 32])),
    (operator.truediv, st.sampled_from([2, 4])),
    (lambda n, _: math.ceil(n), st.none()),
    (lambda n, _: math.floor(n), st.none()),
    (lambda n, _: round(n), st.none()),
    (lambda n, _: -n, st.none()),
]
PROGRAMS = st.lists(
    st.sampled_from(STEPS).flatmap(lambda step: st.tuples(st.just(step[0]), step[1])), min_size=1, max_size=6
)
MULTIPLES = st.sampled_from([1, 2, 8, 32])


def run(program, number):
    for step, operand in program:
        number = step(number, operand)
    return number


def length_of(program, multiple: int) -> tuple[Length, Sizes]:
    sizes = Sizes(multiple, multiple)
    try:
        return run(program, Length.image("y", sizes)), sizes
    except NoFormulaError:
        assume(False)
        raise


@given(PROGRAMS, MULTIPLES)
def test_an_exact_formula_gives_the_number_of_every_image(program, multiple):
    length, _ = length_of(program, multiple)
    if length.exact:
        for side in range(multiple, 40 * multiple, multiple):
            assert run(program, side) == length.slope * side + length.rest
    if (constant := length.constant()) is not None:
        assert run(program, 7 * multiple) == constant


@given(PROGRAMS, MULTIPLES, st.integers(1, 200))
def test_a_formula_repeats_with_the_period(program, multiple, count):
    """What makes windows within an image, and those at its borders, agree with the whole."""
    length, sizes = length_of(program, multiple)
    assume(sizes.period < 10_000)
    side = multiple * count
    assert run(program, side + sizes.period) - run(program, side) == length.slope * sizes.period
    assert run(program, 3 * sizes.period) == length.slope * 3 * sizes.period + length.rest


@given(
    PROGRAMS, PROGRAMS, MULTIPLES, st.sampled_from([operator.lt, operator.le, operator.gt, operator.ge, operator.eq])
)
def test_a_comparison_is_answered_only_where_it_is_the_same_for_all_sizes(left, right, multiple, compare):
    sizes = Sizes(multiple, multiple)
    image = Length.image("y", sizes)
    try:
        answer = compare(run(left, image), run(right, image))
    except NoFormulaError:
        return
    for side in range(multiple, 60 * multiple, multiple):
        assert compare(run(left, side), run(right, side)) == answer


def test_sizes_of_an_encoder_and_its_decoder_are_in_a_fixed_ratio():
    image = Length.image("y", Sizes(32, 32))
    deep = image // 2 // 2 // 2 // 2 // 2
    assert ratio(image // 16, deep) == 2
    assert (image // 16 - 2 * deep).constant() == 0
    odd = Length.image("y", Sizes())
    assert ratio(odd, odd // 2) is None
    assert ratio(odd, Length.image("x", Sizes())) is None
    assert ratio(image - 1, image // 2) is None


@pytest.mark.parametrize(
    "compute",
    [
        lambda y, x: y + x,
        lambda y, x: y * x,
        lambda y, x: y // x,
        lambda y, x: y < x,
        lambda y, x: y * math.nan,
        lambda y, x: y * 0.1,
        lambda y, x: y // 4099,
        lambda y, x: y == 64,
        lambda y, x: y % 2 == 0,
        lambda y, x: round(y, 1),
    ],
)
def test_what_is_no_formula_is_given_up(compute):
    with pytest.raises(NoFormulaError):
        compute(Length.image("y", Sizes()), Length.image("x", Sizes()))
