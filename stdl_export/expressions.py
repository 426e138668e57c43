"""Coefficient expressions of dialects, such as `r*(1-exp(-dt/tau))`: a small grammar, parsed and never run as code.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = "-" signed | atom
    atom    = number | name | "(" sum ")" | "exp(" sum ")" | ("min(" | "max(") sum ["," sum] ")"

`min` and `max` of one argument are taken over the whole layer, of two element by element. Everything is float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stdl_export.common.names import nearest

Float64 = npt.NDArray[np.float64]

MAX_LENGTH = 200
MAX_DEPTH = 30  # of parentheses, calls and signs inside each other

TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[-+*/(),]))"
)

OPERATORS: dict[str, Callable[[Float64, Float64], Float64]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}


class ExpressionError(ValueError):
    """An expression that the grammar or the known names do not allow; its text is one line."""


@dataclass(frozen=True)
class Number:
    """A number as written."""

    value: float


@dataclass(frozen=True)
class Name:
    """A parameter of the node, `dt`, or a coefficient that is known already. `at` counts characters from 1."""

    name: str
    at: int


@dataclass(frozen=True)
class Operation:
    """Two operands; a leading minus is `0 - x` less the rounding: see `Negative`."""

    sign: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Negative:
    """A leading minus."""

    operand: Expression


@dataclass(frozen=True)
class Call:
    """`exp` of one, `min` or `max` of one or two."""

    function: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = "Number | Name | Operation | Negative | Call"

ARGUMENTS = {"exp": (1,), "min": (1, 2), "max": (1, 2)}


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """The expression that a text says; `ExpressionError` with the position where it says none."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expression of {len(text)} characters: up to {MAX_LENGTH} are accepted")
    return _Parser(text).whole()


def names(expression: Expression) -> Iterator[Name]:
    """Every name in an expression, from left to right."""
    if isinstance(expression, Name):
        yield expression
    elif isinstance(expression, Operation):
        yield from names(expression.left)
        yield from names(expression.right)
    elif isinstance(expression, Negative):
        yield from names(expression.operand)
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            yield from names(argument)


def check_names(text: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with its position and the nearest one that is."""
    known = list(known)
    for name in names(parse(text)):
        if name.name not in known:
            guess = nearest(name.name, known)
            hint = f"did you mean '{guess}'?" if guess else f"known are {', '.join(known)}"
            raise ExpressionError(f"'{text}': unknown name '{name.name}' at character {name.at}: {hint}")


def evaluate(text: str, values: Mapping[str, npt.ArrayLike]) -> Float64:
    """The value for given names, in float64; what is undefined (1/0) comes back as inf or NaN."""
    check_names(text, values)
    with np.errstate(all="ignore"):
        return np.asarray(_value(parse(text), values), dtype=np.float64)


def _value(expression: Expression, values: Mapping[str, npt.ArrayLike]) -> Float64:
    if isinstance(expression, Number):
        return np.asarray(expression.value, dtype=np.float64)
    if isinstance(expression, Name):
        return np.asarray(values[expression.name], dtype=np.float64)
    if isinstance(expression, Operation):
        return OPERATORS[expression.sign](_value(expression.left, values), _value(expression.right, values))
    if isinstance(expression, Negative):
        return np.negative(_value(expression.operand, values))
    return _called(expression.function, [_value(argument, values) for argument in expression.arguments])


def _called(function: str, arguments: list[Float64]) -> Float64:
    if function == "exp":
        return np.exp(arguments[0])
    if len(arguments) == 1:
        return np.asarray(arguments[0].min() if function == "min" else arguments[0].max())
    return (np.minimum if function == "min" else np.maximum)(*arguments)


class _Parser:
    """One pass over the tokens of a text, each a kind, the text itself and its position from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.depth = 0

    def whole(self) -> Expression:
        found = self.sum()
        if self.tokens:
            raise self.error("an operator or the end")
        return found

    def sum(self) -> Expression:
        return self.chain("+-", self.product)

    def product(self) -> Expression:
        return self.chain("*/", self.signed)

    def chain(self, signs: str, operand: Callable[[], Expression]) -> Expression:
        """Operands joined by signs, from left to right."""
        found = operand()
        while self.next() in tuple(signs):
            sign = self.take()
            found = Operation(sign, found, operand())
        return found

    def signed(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"'{self.text}' is nested deeper than {MAX_DEPTH}")
        if self.next() == "-":
            self.take()
            found: Expression = Negative(self.signed())
        else:
            found = self.atom()
        self.depth -= 1
        return found

    def atom(self) -> Expression:
        if not self.tokens:
            raise self.error("a number, a name or '('")
        kind, text, at = self.tokens[0]
        if kind == "number":
            return Number(self.number(self.take()))
        if kind == "name":
            self.take()
            return self.call(text, at) if self.next() == "(" else Name(text, at)
        if text != "(":
            raise self.error("a number, a name or '('")
        self.take()
        found = self.sum()
        self.expect(")")
        return found

    def call(self, function: str, at: int) -> Expression:
        if function not in ARGUMENTS:
            guess = nearest(function, ARGUMENTS)
            hint = f"did you mean '{guess}'?" if guess else f"known are {', '.join(ARGUMENTS)}"
            raise ExpressionError(f"'{self.text}': unknown function '{function}' at character {at}: {hint}")
        self.expect("(")
        arguments = [self.sum()]
        while self.next() == ",":
            self.take()
            arguments.append(self.sum())
        self.expect(")")
        if len(arguments) not in ARGUMENTS[function]:
            takes = " or ".join(map(str, ARGUMENTS[function]))
            raise ExpressionError(f"'{self.text}': {function} at character {at} takes {takes}, not {len(arguments)}")
        return Call(function, tuple(arguments))

    def number(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ExpressionError(f"'{self.text}': the number {text} is too large")
        return value

    def next(self) -> str:
        """The next token's text; empty at the end."""
        return self.tokens[0][1] if self.tokens else ""

    def take(self) -> str:
        return self.tokens.pop(0)[1]

    def expect(self, sign: str) -> None:
        if self.next() != sign:
            raise self.error(f"'{sign}'")
        self.take()

    def error(self, wanted: str) -> ExpressionError:
        where = f"'{self.next()}' at character {self.tokens[0][2]}" if self.tokens else "it ends"
        return ExpressionError(f"'{self.text}': {where} where {wanted} is expected")

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            match = TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise ExpressionError(f"'{self.text}': '{self.text[at]}' at character {at + 1} is not understood")
            kind = str(match.lastgroup)
            yield kind, match[kind], match.start(kind) + 1
            at = match.end()
