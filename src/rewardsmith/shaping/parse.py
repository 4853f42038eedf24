"""The one text form of a pipeline: ``normalise, clip(low=-3, high=3)``."""

from __future__ import annotations

import ast
import re
from typing import Any

from rewardsmith.errors import UsageError
from rewardsmith.shaping.pipeline import SHAPES, Pipeline, shape_named
from rewardsmith.shaping.shape import Shape

_DASHED = re.compile(r"[a-z]+(?:-[a-z]+)+(?=\s*(?:[=(,]|$))")
_FORM = "steps are names with their parameters, e.g. normalise, clip(low=-3, high=3)"


def parse(text: str) -> Pipeline:
    """A pipeline, not fitted, from its text: ``str(pipeline)`` gives it back.

    Values are numbers, True, False, None, quoted text, lists and {"name": number}. Nothing is executed.

    Raises:
        UsageError: the text cannot be read, or a step or parameter is unknown; the message names it and those known.
    """
    try:
        source = f"[{text.strip()}\n]"
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"{text!r:.80}: cannot be read; {_dashed(text)}{_FORM}") from error
    if not isinstance(tree, ast.List) or not tree.elts:
        raise UsageError(f"{text!r:.80}: names no step; {_FORM}; known: {', '.join(SHAPES)}")
    return Pipeline([_shape(node, source) for node in tree.elts])


def _dashed(text: str) -> str:
    """A hint at a name that was written with dashes; empty without one."""
    found = _DASHED.search(text)
    return f"did you mean {found[0].replace('-', '_')}? Names have underscores; " if found else ""


def _shape(node: ast.expr, source: str) -> Shape:
    if isinstance(node, ast.Name):
        return shape_named(node.id).make({})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        written = ast.get_source_segment(source, node) or ""
        raise UsageError(f"{written!r:.60}: is no step; {_dashed(written)}{_FORM}")
    shape = shape_named(node.func.id)
    if node.args:
        raise UsageError(f"{shape.name}: name the parameter of {ast.unparse(node.args[0])}, as in clip(low=-3)")
    parameters: dict[str, Any] = {}
    for keyword in node.keywords:
        name = keyword.arg or "**"
        if name in parameters:
            raise UsageError(f"{shape.name}: {name} is given twice; give it once")
        parameters[name] = _value(shape.name, keyword)
    return shape.make(parameters)


def _value(step: str, keyword: ast.keyword) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except ValueError as error:
        shown = ast.unparse(keyword.value)
        raise UsageError(f"{step}: {keyword.arg}={shown} is no plain value; quote text, as in by='group'") from error
