"""A program as Python's `ast`, with what clipcheck knows about its calls: which function is affected, what it runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cached_property

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Edit
from clipcheck.training.acts import Act, acts
from clipcheck.training.calls import Callee, callee
from clipcheck.training.clips import Clip, torch_calls
from clipcheck.verify.called import Called, inlined, original, substituted
from clipcheck.verify.collectives import collectives, wrapped
from clipcheck.verify.pieces import trimmed

_LENT = (ast.FunctionDef, ast.AsyncFunctionDef)
# Statements of a module that do nothing when it runs.
_APART = (*_LENT, ast.ClassDef, ast.Import, ast.ImportFrom)


class Program:
    """A program as Python's `ast`, with what clipcheck knows about its calls."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tree = ast.parse(source.text)
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, _LENT)]
        self.functions: list[ast.AST] = [self.tree, *sorted(nodes, key=self.span)]
        self._regions: dict[int, tuple[list[ast.stmt], list[ast.stmt]]] = {}

    def act(self, node: ast.AST) -> Act | None:
        """What a call or an assignment does to the gradients; None for nothing."""
        return self._acts.get(original(node))

    def clip(self, node: ast.AST) -> Clip | None:
        """The call of torch's clip or norm that a node is, if any."""
        return self._clips.get(original(node))

    def collective(self, node: ast.AST) -> str:
        """Which collective call a node is; "" for none."""
        return self._collectives.get(original(node), "")

    @cached_property
    def wrapped(self) -> dict[str, str]:
        """The expressions that hold a model or an optimizer wrapped for several ranks, with their roles."""
        return {self.text(node): role for node, role in wrapped(self.source)}

    @cached_property
    def _acts(self) -> dict[ast.AST, Act]:
        return {node: act for cst_node, act in acts(self.source).items() for node in self.nodes(cst_node)}

    @cached_property
    def _clips(self) -> dict[ast.AST, Clip]:
        return {node: clip for clip in torch_calls(self.source) for node in self.nodes(clip.call)}

    @cached_property
    def _collectives(self) -> dict[ast.AST, str]:
        return {node: kind for call, kind in collectives(self.source) for node in self.nodes(call)}

    @cached_property
    def changing(self) -> frozenset[str]:
        """The attributes that are assigned outside constructors, with their owners."""
        made = {
            node
            for function in self.functions
            if getattr(function, "name", "") == "__init__"
            for node in ast.walk(function)
        }
        return frozenset(
            ast.unparse(node)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node not in made
        )

    def nodes(self, node: cst.CSTNode | None) -> list[ast.AST]:
        return [] if node is None else self._by_span.get(self.source.span(node), [])

    def text(self, node: cst.CSTNode | None) -> str:
        """A LibCST expression as `ast.unparse` would write it; "" for None."""
        return next((ast.unparse(found) for found in self.nodes(node) if isinstance(found, ast.expr)), "")

    def span(self, node: ast.AST) -> tuple[int, int]:
        if isinstance(node, ast.Module):
            return 0, len(self.source.text)
        assert isinstance(node, (ast.expr, ast.stmt))
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def around(self, edits: Sequence[Edit]) -> int:
        """The number of the innermost function that contains all edits; 0 for the module itself."""
        source = self.source
        spans = [trimmed(source.text, edit) for edit in edits]
        held = []
        for index, (start, end) in enumerate(map(self.span, self.functions)):
            line = source.line_at(end)  # with the comment at its end
            stop = source.line_starts[line] if line < len(source.line_starts) else len(source.text)
            if all(start <= first and last <= stop for first, last in spans):
                held.append((stop - start, -index))  # of two of one length, the inner one comes later
        return -min(held)[1]

    def region(self, index: int) -> tuple[list[ast.stmt], list[ast.stmt]]:
        """What a function does once and in each turn, with calls of functions in the file replaced by their bodies."""
        if index not in self._regions:
            setup, turn = self._own(index)
            self._regions[index] = inlined(setup, self._called), inlined(turn, self._called)
        return self._regions[index]

    def _own(self, index: int) -> tuple[list[ast.stmt], list[ast.stmt]]:
        """The statements of the function itself: if it only prepares, the turns are in another method."""
        function = self.functions[index]
        assert isinstance(function, (ast.Module, *_LENT))
        if self._acts_in(function):
            return [], function.body
        others = [
            method
            for owner in ast.walk(self.tree)
            if isinstance(owner, ast.ClassDef) and function in owner.body
            for method in owner.body
            if isinstance(method, _LENT) and self._acts_in(method)
        ]
        return (function.body, others[0].body) if len(others) == 1 else ([], function.body)

    def _called(self, call: ast.Call) -> Called | None:
        """The function of the file that a call runs, if it affects the gradients and returns only at its end."""
        node = self._calls.get(original(call))
        found = None if node is None else callee(self.source, node)
        if found is None or found.owner is not None or isinstance(found.function, cst.Lambda):
            return None
        function = self._function(found.function)
        given = self._given(found, function.args, getattr(call, "_given", {}))
        return Called(function.body, given) if given is not None and self._is_part(function) else None

    def _given(
        self, found: Callee, arguments: ast.arguments, around: Mapping[str, ast.expr]
    ) -> dict[str, ast.expr] | None:
        """The arguments for a function's parameters, as the calling code writes them; None if they are not clear."""
        names = [argument.arg for argument in arguments.args]
        last = names[len(names) - len(arguments.defaults) :]
        given = dict(zip(last, arguments.defaults, strict=True))
        for name, node in found.given.items():
            match self.nodes(node):
                case [ast.expr() as value, *_]:
                    given[name] = substituted(value, around)
        plain = not (arguments.vararg or arguments.kwarg or arguments.kwonlyargs)
        return given if plain and set(given) == set(names) - {"self"} else None

    def _function(self, node: cst.FunctionDef) -> ast.FunctionDef | ast.AsyncFunctionDef:
        start = self.source.span(node.body.body[0])[0]
        return next(
            function
            for function in self.functions
            if isinstance(function, _LENT) and self.span(function.body[0])[0] == start
        )

    def _is_part(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        inner = [node for statement in function.body for node in ast.walk(statement)]
        last = function.body[-1]
        if any(isinstance(node, (*_LENT, ast.Lambda, ast.Yield, ast.YieldFrom, ast.Await)) for node in inner):
            return False
        if any(isinstance(node, ast.Return) and node is not last for node in inner):
            return False
        return any(node in self._acts or node in self._collectives for node in inner)

    @cached_property
    def _calls(self) -> dict[ast.AST, cst.Call]:
        return {
            found: call
            for call in self.source.nodes(cst.Call)
            for found in self.nodes(call)
            if isinstance(found, ast.Call)
        }

    def code(self, index: int) -> str:
        """The code of a region, as `ast.unparse` writes it."""
        return "\n".join(ast.unparse(statement) for block in self.region(index) for statement in block)

    def spans(self, index: int) -> list[tuple[int, int]]:
        """The spans of the statements of a region, including those of the functions that it calls."""
        every = (statement for block in self.region(index) for statement in block if not isinstance(statement, _APART))
        inner = (node for statement in every for node in ast.walk(statement) if isinstance(node, ast.stmt))
        return list(dict.fromkeys(map(self.span, inner)))

    def _acts_in(self, root: ast.AST) -> bool:
        return any(node in self._acts for node in ast.walk(root))

    @cached_property
    def _by_span(self) -> dict[tuple[int, int], list[ast.AST]]:
        found: dict[tuple[int, int], list[ast.AST]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.expr)):
                found.setdefault(self.span(node), []).append(node)
        return found

    def _offset(self, line: int, column: int) -> int:
        """The offset in code points of a position given in UTF-8 bytes."""
        start = self.source.line_starts[line - 1]
        head = self.source.text[start : start + column]
        if head.isascii():
            return start + column
        return start + len(self.source.text[start:].encode()[:column].decode(errors="ignore"))
