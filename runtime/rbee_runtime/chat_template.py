"""Chat templates: jinja programs that strangers wrote, run where they can do no harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.visitor import NodeTransformer

from rbee_runtime.chat_allowance import Allowance, measure
from rbee_runtime.chat_sandbox import Sandbox
from rbee_runtime.errors import RuntimeFault

_LONGEST_SOURCE = 1 << 18
"""Characters. Real templates have a few thousand; the longest known, with tools, thirty."""

_ALLOWANCE, _PER_UNIT_OF_INPUT = 1 << 22, 32
"""What a rendering may cost, and how much more for each unit that its messages have."""


class BadTemplate(RuntimeFault):
    """A chat template does not compile, fails, or takes more than it may."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja, as transformers understands it: blocks take their line with them, loops can
            be left, ``tojson`` keeps every character, ``generation`` blocks are their content, and
            ``raise_exception`` and ``strftime_now`` exist.

    Raises:
        BadTemplate: It does not compile.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST_SOURCE:
            raise BadTemplate(f"it is longer than {_LONGEST_SOURCE} characters")
        sandbox = Sandbox(Allowance(_ALLOWANCE))
        try:
            tree = _Metering(sandbox).visit(sandbox.parse(source))
            self._code: CodeType = sandbox.compile(tree)
        except Exception as error:  # the compiler recurses, and raises more than its own
            raise BadTemplate(_one_line(error)) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text for these variables.

        Raises:
            BadTemplate: The template rejects them, fails, or takes too much time or memory.
        """
        try:
            allowance = Allowance(_ALLOWANCE)
            allowance.left += _PER_UNIT_OF_INPUT * measure(variables)[0]
            sandbox = Sandbox(allowance)
            template = jinja2.Template.from_code(sandbox, self._code, sandbox.make_globals(None))
            return template.render(variables)
        except Exception as error:  # whatever a stranger's program runs into
            raise BadTemplate(_one_line(error)) from error


def variables_of(source: str) -> frozenset[str]:
    """Return the names that a chat template reads and does not set; none if it does not compile."""
    if len(source) > _LONGEST_SOURCE:
        return frozenset()
    try:
        found = meta.find_undeclared_variables(Sandbox(Allowance(_ALLOWANCE)).parse(source))
    except Exception:  # as of the compiler above; rendering says what is wrong
        return frozenset()
    return frozenset(found)


def _one_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "maximum recursion depth exceeded"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, jinja2.TemplateSyntaxError):
        message = f"{' '.join(str(error.message).split())} (line {error.lineno})"
    return message if len(message) <= 300 else f"{message[:300]}…"


class _Metering(NodeTransformer):
    """Has a template tell its sandbox what it does besides calls and operators."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def _call(self, name: str, arguments: Sequence[nodes.Expr], lineno: int) -> nodes.Call:
        place: Any = {"lineno": lineno, "environment": self._sandbox}
        function = nodes.EnvironmentAttribute(name, **place)
        return nodes.Call(function, list(arguments), [], None, None, **place)

    def _turn(self, body: Iterable[nodes.Node], lineno: int) -> nodes.Call:
        written = sum(len(data.data) for node in body for data in node.find_all(nodes.TemplateData))
        count = nodes.Const(written, lineno=lineno, environment=self._sandbox)
        return self._call("turn", [count], lineno)

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        turn = self._turn(node.body, node.lineno)
        node.body = [
            nodes.ExprStmt(turn, lineno=node.lineno, environment=self._sandbox),
            *node.body,
        ]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            turn = self._turn([], node.lineno)
            place: Any = {"lineno": node.lineno, "environment": self._sandbox}
            node.test = nodes.And(turn, node.test, **place)
        found: nodes.Node = self._body(node)
        return found

    visit_Block = _body
    visit_CallBlock = _body
    visit_Macro = _body

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("concatenated", node.nodes, node.lineno)

    def _made(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":  # what is assigned to
            found: nodes.Node = node
            return found
        return self._call("made", [node], node.lineno)

    visit_List = _made
    visit_Dict = _made
    visit_Tuple = _made

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if isinstance(node.arg, nodes.Slice):
            return self._made(node)
        self.generic_visit(node)
        return node
