"""Conditions on columns, as ``energy_per_atom < -3 and energy_std < 0.05``: parsed, checked, never executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.config import did_you_mean

Columns = Mapping[str, NDArray[Any]]

ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

HELP = "columns, numbers, 'texts', and or not, < <= > >= == !=, in [...], + - * / **, abs(...)"


class Where:
    """A condition on rows.

    A comparison with what is undefined, such as the ``energy_std`` of a structure that one branch knows, is false.

    Args:
        text: in the notation of Python.
        types: column name to NumPy type.

    Raises:
        ValueError: what cannot be understood, an unknown column, or types that do not go together.
    """

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self.text = text
        try:
            self._body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._error(f"{said}; it may have {HELP}") from error
        self({name: np.empty(0, dtype) for name, dtype in types.items()})

    def __call__(self, columns: Columns) -> NDArray[np.bool_]:
        """(S,) which of S rows fulfil it."""
        try:
            with np.errstate(all="ignore"):
                return self._truth(self._body, columns)
        except TypeError as error:
            raise self._error("it compares or computes with texts and numbers together") from error

    def _truth(self, node: ast.expr, columns: Columns) -> NDArray[np.bool_]:
        value = np.asarray(self._value(node, columns))
        if value.dtype != bool or value.ndim == 0:
            raise self._error(f"{ast.unparse(node)!r} is neither true nor false")
        return value

    def _value(self, node: ast.expr, columns: Columns) -> Any:
        match node:
            case ast.Constant(value=bool() | str() as value):
                return value
            case ast.Constant(value=int() | float() as value):
                return np.float64(value)
            case ast.Name(id=name):
                return self._column(name, columns)
            case ast.BoolOp(op=op, values=values):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return reduce(join, [self._truth(value, columns) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._truth(operand, columns)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, columns)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return ARITHMETIC[type(op)](self._value(left, columns), self._value(right, columns))
            case ast.Compare():
                return self._comparison(node, columns)
            case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
                return np.abs(self._value(argument, columns))
        raise self._error(f"{ast.unparse(node)!r} cannot be used; it may have {HELP}")

    def _column(self, name: str, columns: Columns) -> NDArray[Any]:
        if name not in columns:
            raise self._error(f"no column {name!r}{did_you_mean(name, columns)}")
        return columns[name]

    def _comparison(self, node: ast.Compare, columns: Columns) -> NDArray[np.bool_]:
        """Also of three and more, as in ``2 <= natoms < 10``."""
        operands = [node.left, *node.comparators]
        pairs = zip(operands, node.ops, operands[1:], strict=False)
        return reduce(np.logical_and, [self._compared(left, op, right, columns) for left, op, right in pairs])

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Columns) -> NDArray[np.bool_]:
        value = self._value(left, columns)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._error(f"'in' expects a list such as ['MgO', 'CaO'], got {ast.unparse(right)!r}")
            return self._among(value, [self._value(entry, columns) for entry in right.elts], isinstance(op, ast.NotIn))
        if type(op) not in COMPARISONS:
            raise self._error("compare with == and !=, not with 'is'")
        other = self._value(right, columns)
        if _is_text(value) != _is_text(other):
            raise self._error(f"{ast.unparse(left)!r} and {ast.unparse(right)!r}: one is a text, one is not")
        return np.asarray(COMPARISONS[type(op)](value, other)) & ~_undefined(value) & ~_undefined(other)

    def _among(self, value: Any, entries: list[Any], inverted: bool) -> NDArray[np.bool_]:
        if any(_is_text(entry) != _is_text(value) for entry in entries):
            raise self._error("the entries of a list must be texts or numbers as what is looked for")
        return np.isin(value, entries, invert=inverted) & ~_undefined(value)

    def _error(self, reason: str) -> ValueError:
        hint = ""
        if "&" in self.text or "|" in self.text:
            hint = "; join conditions by 'and', 'or'"
        return ValueError(f"condition {self.text!r}: {reason}{hint}")


def _is_text(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "UO"


def _undefined(value: Any) -> NDArray[np.bool_]:
    array = np.asarray(value)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
