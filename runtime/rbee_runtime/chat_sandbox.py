"""Jinja's sandbox for chat templates, with bounds on time and memory.

The sandbox keeps a program from reaching anything it was not given. It does not keep it from
running forever or filling the memory, so here each rendering has an allowance: loops, calls,
filters and operators draw on it, by the size of what they read and make.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

from rbee_runtime.chat_allowance import Allowance

_WIDEST_INTEGER = 4096  # bits
_DEEPEST_INDENT = 64
_LONGEST_DATE_FORM = 256

# Each can make much out of little, and no chat template was seen to need it.
_FILTERS_LEFT_OUT = (
    *("batch", "center", "filesizeformat", "pprint", "round", "slice", "striptags"),
    *("urlencode", "urlize", "wordwrap", "xmlattr"),
)
# Those that take as long for a long text or list as for a short one.
_GLANCES = frozenset({"attr", "count", "d", "default", "first", "items", "last", "length"})
_METHODS_LEFT_OUT = frozenset(
    {"center", "expandtabs", "from_bytes", "ljust", "maketrans", "rjust", "to_bytes", "translate"}
    | {"zfill"}
)


class _Namespace(Namespace):
    """A namespace that is not written out: it may hold others, many times over."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """``{% generation %}`` marks, for training, what the assistant said."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pass_context
def _write(context: Context, value: object) -> object:
    sandbox = context.environment
    assert isinstance(sandbox, Sandbox)
    sandbox.allowance.spend_text(value)
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with an allowance that everything draws on."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, allowance: Allowance) -> None:
        # What an optimiser folds, it computes unmetered.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_write,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self.allowance = allowance
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _strftime_now
        foreseen: dict[str, Callable[..., Any]] = {
            "format": self._format,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "sum": self._sum,
            "tojson": _tojson,
        }
        self.filters = {
            name: self._metered(foreseen.get(name, function), reads=name not in _GLANCES)
            for name, function in self.filters.items()
            if name not in _FILTERS_LEFT_OUT
        }

    # What the template's code calls in the place of operators, literals and calls.

    def turn(self, characters: int) -> bool:
        """Count one turn of a loop or one call of a macro that writes this much by itself."""
        self.allowance.spend_step(characters)
        return True

    def made(self, value: Any) -> Any:
        """Count a value that came into being."""
        return self.allowance.made(value)

    def concatenated(self, *values: object) -> str:
        """Return the texts of all values as one (jinja's ``~``)."""
        self.allowance.spend_text(values)
        return "".join(map(str, values))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls; see :class:`SandboxedEnvironment`."""
        self.allowance.spend_step()
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = self._foresee(owner, method.__name__, args, kwargs)
        return self.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator; see :class:`SandboxedEnvironment`."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(other, int) and not isinstance(one, int | float):
                    self.allowance.spend_repeat(one, other)
        elif operator == "%" and isinstance(left, str | bytes):
            form = left if isinstance(left, str) else left.decode("latin-1")
            self.allowance.spend_format(form, form.count("%"), right)
        if isinstance(left, int) and isinstance(right, int):
            bits = {"*": left.bit_length() + right.bit_length()}
            bits["**"] = left.bit_length() * max(right, 0)
            if bits.get(operator, 0) > _WIDEST_INTEGER:
                raise jinja2.TemplateRuntimeError("the template makes too big a number")
        return self.made(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Say whether a template may have an attribute; see :class:`SandboxedEnvironment`."""
        left_out = isinstance(obj, bytes) or attr in _METHODS_LEFT_OUT
        return not left_out and super().is_safe_attribute(obj, attr, value)

    # What makes much out of little is reckoned before it is done.

    def _foresee(
        self, owner: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        if method == "join" and args:
            args = (self._joinable(args[0], len(owner)), *args[1:])
        elif method == "replace" and len(args) >= 2:
            self.allowance.spend_replace(owner, args[0], args[1])
        elif method in ("format", "format_map"):
            self.allowance.spend_format(owner, owner.count("{"), (args, kwargs))
        return args

    def _joinable(self, items: Iterable[object], glue: int) -> list[object]:
        listed = list(items)
        self.allowance.spend_join(listed, glue)
        return listed

    def _metered(self, function: Callable[..., Any], *, reads: bool) -> Callable[..., Any]:
        @functools.wraps(function)  # jinja keeps on a function what arguments it passes
        def filtered(*args: Any, **kwargs: Any) -> Any:
            self.allowance.spend_step(reads=args if reads else ())
            return self.made(function(*args, **kwargs))

        return filtered

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = value if attribute is None else map(make_attrgetter(self, attribute), value)
        return str(d).join(map(str, self._joinable(items, len(str(d)))))

    def _replace(self, s: object, old: str, new: str, count: int | None = None) -> str:
        text = str(s)
        self.allowance.spend_replace(text, old, new)
        return text.replace(old, new, -1 if count is None else count)

    def _indent(
        self, s: str, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        margin = width if isinstance(width, str) else " " * min(width, _DEEPEST_INDENT + 1)
        if len(margin) > _DEEPEST_INDENT:
            raise jinja2.TemplateRuntimeError(f"the template indents over {_DEEPEST_INDENT}")
        self.allowance.spend(len(margin) * (str(s).count("\n") + 1))
        lines = str(s).split("\n")
        return "\n".join(
            margin + line if (first or number) and (blank or line) else line
            for number, line in enumerate(lines)
        )

    def _format(self, value: object, *args: Any, **kwargs: Any) -> str:
        self.allowance.spend_format(str(value), str(value).count("%"), (args, kwargs))
        return str(value) % (kwargs or args)

    def _sum(
        self, iterable: Iterable[Any], attribute: str | int | None = None, start: float = 0
    ) -> float:
        if not isinstance(start, int | float):
            raise jinja2.TemplateRuntimeError("the template sums what are no numbers")
        if attribute is not None:
            iterable = map(make_attrgetter(self, attribute), iterable)
        return sum(iterable, start)


def _tojson(
    value: object,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Unlike jinja's, it writes no character as an escape for the sake of HTML.
    if indent is not None and (not isinstance(indent, int) or indent > _DEEPEST_INDENT):
        raise jinja2.TemplateRuntimeError(f"the template indents over {_DEEPEST_INDENT}")
    if separators is not None and sum(map(len, separators)) > _DEEPEST_INDENT:
        raise jinja2.TemplateRuntimeError(f"the template separates by over {_DEEPEST_INDENT}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    if len(form) > _LONGEST_DATE_FORM:
        raise jinja2.TemplateRuntimeError(
            f"the template's date has over {_LONGEST_DATE_FORM} signs"
        )
    return datetime.datetime.now().strftime(form)


def _refuse(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))
