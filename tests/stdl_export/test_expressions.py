from __future__ import annotations

import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stdl_export import expressions
from stdl_export.expressions import ExpressionError, evaluate, parse

VALUES = {"tau": np.array([2.0, 4.0]), "dt": 0.5, "r": np.array([3.0, -1.0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        (" 1.5e-1 ", 0.15),
        (".5", 0.5),
        ("2.", 2),
        ("dt", 0.5),
        ("1-dt/tau", [0.75, 0.875]),
        ("r*dt/tau", [0.75, -0.125]),
        ("r*(1-dt)", [1.5, -0.5]),
        ("-r", [-3, 1]),
        ("--r", [3, -1]),
        ("2*-r", [-6, 2]),
        ("1-2-3", -4),
        ("8/4/2", 1),
        ("1+2*3", 7),
        ("exp(-dt/tau)", [math.exp(-0.25), math.exp(-0.125)]),
        ("min(r)", -1),
        ("max(tau/(1+dt))", 4 / 1.5),
        ("min(r, 0)", [0, -1]),
        ("max(r,tau-3)", [3, 1]),
        ("exp(-min(tau/(1+dt))/tau)", [math.exp(-2 / 1.5 / 2), math.exp(-2 / 1.5 / 4)]),
    ],
)
def test_values_by_hand(text: str, expected: object) -> None:
    found = evaluate(text, VALUES)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'': it ends where a number, a name or '(' is expected"),
        ("1+", "it ends where a number"),
        ("1 2", "'2' at character 3 where an operator or the end is expected"),
        ("(1", "it ends where ')' is expected"),
        ("1)", "')' at character 2 where an operator or the end"),
        ("1-*2", "'*' at character 3 where a number, a name or '(' is expected"),
        ("+1", "'+' at character 1"),
        ("2**3", "'*' at character 3"),
        ("a.b", "'.' at character 2 is not understood"),
        ("a[0]", "'[' at character 2 is not understood"),
        ("__import__('os')", "''' at character 12 is not understood"),
        ("1;2", "';' at character 2 is not understood"),
        ("exp()", "')' at character 5 where a number"),
        ("exp(1,2)", "exp at character 1 takes 1, not 2"),
        ("min(1,2,3)", "min at character 1 takes 1 or 2, not 3"),
        ("epx(1)", "unknown function 'epx' at character 1: did you mean 'exp'?"),
        ("sin(1)", "unknown function 'sin' at character 1"),
        ("1e999", "the number 1e999 is too large"),
        ("(" * 40 + "1" + ")" * 40, "is nested deeper than 30"),
        ("-" * 40 + "1", "is nested deeper than 30"),
        ("1+" * 200 + "1", "an expression of 401 characters: up to 200 are accepted"),
    ],
)
def test_what_is_no_expression(text: str, said: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ExpressionError, match=r"^'1-dt/tua': unknown name 'tua' at character 6: did you mean 'tau'\?$"):
        evaluate("1-dt/tua", VALUES)
    with pytest.raises(ExpressionError, match=r"unknown name 'exp' at character 1: known are tau, dt, r"):
        evaluate("exp", VALUES)


def test_what_is_undefined_is_not_an_error_here() -> None:
    assert np.isinf(evaluate("1/0", {}))
    assert np.isnan(evaluate("0/0", {}))


numbers = st.integers(0, 9).map(lambda n: (str(n), Fraction(n)))
leaves = numbers | st.sampled_from([("a", Fraction(3, 2)), ("b", Fraction(-2))])


def joined(children):
    """Text with all brackets written or none where they are not needed, and its value in exact fractions."""
    pair = st.tuples(children, st.sampled_from("+-*/"), children)
    calls = st.tuples(st.sampled_from(["min", "max"]), children, children)
    return (
        pair.map(lambda p: (f"({p[0][0]}){p[1]} ({p[2][0]})", of(p[1], p[0][1], p[2][1])))
        | children.map(lambda c: (f"-({c[0]})", None if c[1] is None else -c[1]))
        | calls.map(
            lambda c: (
                f"{c[0]}({c[1][0]},{c[2][0]})",
                None if None in (c[1][1], c[2][1]) else (min if c[0] == "min" else max)(c[1][1], c[2][1]),
            )
        )
    )


def of(sign, a, b):
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    return {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b


@settings(max_examples=300)
@given(st.recursive(leaves, joined, max_leaves=12))
def test_values_are_those_of_exact_arithmetic(drawn: tuple[str, Fraction | None]) -> None:
    text, value = drawn
    assume(value is not None and len(text) <= expressions.MAX_LENGTH)
    assert float(evaluate(text, {"a": 1.5, "b": -2})) == pytest.approx(float(value), rel=1e-9, abs=1e-9)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 9)), min_size=1, max_size=12))
def test_precedence_is_that_of_arithmetic(chain: list[tuple[str, int]]) -> None:
    """Products first, each level from left to right; computed here by splitting at + and -."""
    text = "7" + "".join(f"{sign}{number}" for sign, number in chain)
    terms, product = [], Fraction(7)
    for sign, number in chain:
        if sign in "+-":
            terms.append(product)
            product = Fraction(number if sign == "+" else -number)
        else:
            product = product * number if sign == "*" else product / number
    assert float(evaluate(text, {})) == pytest.approx(float(sum(terms, product)), rel=1e-9, abs=1e-9)


@settings(max_examples=300)
@given(st.text(alphabet="01.e+-*/(),ab \texpmin_[]'\"\\\n", max_size=40))
def test_any_text_is_an_expression_or_an_error_of_one_line(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert evaluate(text, {"a": 1.0, "b": 2.0}).shape == ()
