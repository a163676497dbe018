"""The part of Go's text/template that `--format` needs; what is outside it is refused with its name.

Understood: text and `{{- -}}` trimming, comments, field paths, `$` and variables, pipelines, parentheses, string, number,
bool and nil literals, `if/else if/else`, `range` (with `else` and `$i, $x :=`), `with`, `end`, and the functions in
`FUNCTIONS`. Not understood: `define`, `template`, `block`, `break`, `continue`, and methods of Go's types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sampan.cli.failure import CliError


class TemplateError(CliError):
    """The template can't be parsed, or the data doesn't have what it asks for."""

    def __init__(self, what: str) -> None:
        super().__init__(f"template parsing error: {what}", status=64)


def _as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def go_string(value: Any) -> str:
    """Give a value as Go's fmt prints it: `map[a:1]`, `[x y]`, `<no value>`."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{_inner(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(_inner(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else go_string(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {key}")
            value = value[key]
        else:
            raise TemplateError(f"error calling index: cannot index {go_string(value)} with {key!r}")
    return value


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise TemplateError(f"error calling len: {go_string(value)} has no length")


def _join(value: Any, separator: str) -> str:
    return separator.join(go_string(item) for item in value or [])


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def put(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        if verb in "dxXof" and isinstance(value, int | float):
            return str(f"%{flags}{verb}" % value)
        if verb == "q":
            return _as_json(go_string(value))
        if verb in "sv":
            return str(f"%{flags}s" % go_string(value))
        raise TemplateError(f"printf verb %{verb} is not supported here for {go_string(value)}")

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([a-zA-Z%])", put, form)


def _comparable(name: str, test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        try:
            return test(left, right)
        except TypeError:
            raise TemplateError(f"error calling {name}: incompatible types for comparison") from None

    return compare


def _title(text: str) -> str:
    return re.sub(r"(^|\s)(\S)", lambda found: found[1] + found[2].upper(), text)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "json": _as_json,
    "len": _length,
    "index": _index,
    "join": _join,
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: go_string(text).lower(),
    "upper": lambda text: go_string(text).upper(),
    "title": lambda text: _title(go_string(text)),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, count: text[:count],
    "slice": lambda value, *ends: value[slice(*ends)] if len(ends) > 1 else value[ends[0] if ends else 0 :],
    "print": lambda *values: "".join(go_string(value) for value in values),
    "println": lambda *values: " ".join(go_string(value) for value in values) + "\n",
    "printf": _printf,
    "not": lambda value: not value,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda left, right: left != right,
    "lt": _comparable("lt", lambda left, right: bool(left < right)),
    "le": _comparable("le", lambda left, right: bool(left <= right)),
    "gt": _comparable("gt", lambda left, right: bool(left > right)),
    "ge": _comparable("ge", lambda left, right: bool(left >= right)),
}

_TOKEN = re.compile(
    r"""\s+|(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)(?![\w.])
    |(?P<field>\.[A-Za-z_]\w*)|(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<mark>:=|[.()|,=])""",
    re.VERBOSE,
)
_ACTION = re.compile(r"\{\{(-(?=\s))?\s*(/\*.*?\*/)?(.*?)\s*((?<=\s)-)?\}\}", re.DOTALL)
_CONTROL = ("if", "range", "with", "else", "end")
_REFUSED = ("define", "template", "block", "break", "continue")


class _Token(NamedTuple):
    kind: str
    text: str
    spaced: bool  # white space stands before it: `a .B` is two operands, `a.B` is one


class _Scope:
    """The dot and the variables at one point of the evaluation."""

    def __init__(self, dot: Any, variables: Mapping[str, Any]) -> None:
        self.dot = dot
        self.variables = dict(variables)


_Node = Callable[[_Scope], Any]


class Template:
    """A parsed template. Raises `TemplateError` if it can't be parsed."""

    def __init__(self, text: str) -> None:
        pieces = list(_pieces(text))
        body, rest, _ = _parse_block(pieces, 0, closed_by=())
        assert rest == len(pieces)
        self._body = body

    def render(self, data: Any) -> str:
        """Give the text for `data`: mappings, lists, strings, numbers, bools. Raises `TemplateError`."""
        return _run(self._body, _Scope(data, {"$": data}))


def _run(body: list[_Node], scope: _Scope) -> str:
    return "".join(str(node(scope)) for node in body)


def _pieces(text: str) -> Iterator[str | list[_Token]]:
    position, trim = 0, False
    for found in _ACTION.finditer(text):
        before = text[position : found.start()]
        if trim:
            before = before.lstrip()
        if found[1]:
            before = before.rstrip()
        if "{{" in before:
            raise TemplateError(f"unclosed action in {before!r}")
        if before:
            yield before
        if found[3].strip() or not found[2]:
            tokens = _tokens(found[3])
            if not tokens:
                raise TemplateError("missing value for command")
            yield tokens
        position, trim = found.end(), bool(found[4])
    rest = text[position:].lstrip() if trim else text[position:]
    if "{{" in rest:
        raise TemplateError(f"unclosed action in {rest!r}")
    if rest:
        yield rest


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, spaced = 0, True
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise TemplateError(f"unexpected {text[position]!r} in action {text.strip()!r}")
        position = found.end()
        if found.lastgroup is None:
            spaced = True
            continue
        tokens.append(_Token(found.lastgroup, found[0], spaced))
        spaced = False
    return tokens


def _parse_block(
    pieces: list[str | list[_Token]], at: int, closed_by: tuple[str, ...]
) -> tuple[list[_Node], int, list[_Token]]:
    """Parse up to a piece that starts with one of `closed_by`; give the nodes, that piece's place, and its tokens."""
    body: list[_Node] = []
    while at < len(pieces):
        piece = pieces[at]
        if isinstance(piece, str):
            body.append(_constant(piece))
            at += 1
            continue
        word = piece[0].text if piece[0].kind == "word" else ""
        if word in _REFUSED:
            raise TemplateError(f"{{{{{word}}}}} is not supported by sampan's --format")
        if word in closed_by:
            return body, at, piece
        if word in ("else", "end"):
            raise TemplateError(f"unexpected {{{{{word}}}}}")
        if word in _CONTROL:
            node, at = _parse_control(pieces, at, word, piece[1:])
        else:
            node = _parse_action(piece)
            at += 1
        body.append(node)
    if closed_by:
        raise TemplateError("unexpected EOF: an {{end}} is missing")
    return body, at, []


def _parse_control(pieces: list[str | list[_Token]], at: int, word: str, head: list[_Token]) -> tuple[_Node, int]:
    names, head = _loop_variables(head)
    value = _Expression(head).whole()
    body, at, closing = _parse_block(pieces, at + 1, ("else", "end"))
    otherwise: list[_Node] = []
    if closing[0].text == "else" and len(closing) > 1:
        if closing[1].text != "if":
            raise TemplateError(f"unexpected {closing[1].text!r} after else")
        node, at = _parse_control(pieces, at, "if", closing[2:])
        return _CONTROLS[word](names, value, body, [node]), at
    if closing[0].text == "else":
        otherwise, at, _ = _parse_block(pieces, at + 1, ("end",))
    return _CONTROLS[word](names, value, body, otherwise), at + 1


def _loop_variables(head: list[_Token]) -> tuple[list[str], list[_Token]]:
    marks = [place for place, token in enumerate(head) if token.text == ":=" and token.kind == "mark"]
    if not marks:
        return [], head
    names = [token.text for token in head[: marks[0]] if token.kind == "variable"]
    return names, head[marks[0] + 1 :]


def _if(names: list[str], value: _Node, body: list[_Node], otherwise: list[_Node]) -> _Node:
    def run(scope: _Scope) -> str:
        found = value(scope)
        inner = _Scope(scope.dot, {**scope.variables, **dict.fromkeys(names, found)})
        return _run(body if found else otherwise, inner)

    return run


def _with(names: list[str], value: _Node, body: list[_Node], otherwise: list[_Node]) -> _Node:
    def run(scope: _Scope) -> str:
        found = value(scope)
        if not found:
            return _run(otherwise, _Scope(scope.dot, scope.variables))
        return _run(body, _Scope(found, {**scope.variables, **dict.fromkeys(names, found)}))

    return run


def _range(names: list[str], value: _Node, body: list[_Node], otherwise: list[_Node]) -> _Node:
    def run(scope: _Scope) -> str:
        found = value(scope)
        if isinstance(found, Mapping):
            pairs = [(key, found[key]) for key in sorted(found)]
        elif isinstance(found, list | tuple):
            pairs = list(enumerate(found))
        elif found is None:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {go_string(found)}")
        out = []
        for key, item in pairs:
            bound = {names[0]: item} if len(names) == 1 else dict(zip(names, (key, item), strict=False))
            out.append(_run(body, _Scope(item, {**scope.variables, **bound})))
        return "".join(out) if pairs else _run(otherwise, _Scope(scope.dot, scope.variables))

    return run


_CONTROLS = {"if": _if, "with": _with, "range": _range}


def _parse_action(tokens: list[_Token]) -> _Node:
    if len(tokens) > 2 and tokens[0].kind == "variable" and tokens[1].text in (":=", "="):
        name, value = tokens[0].text, _Expression(tokens[2:]).whole()

        def assign(scope: _Scope) -> str:
            scope.variables[name] = value(scope)
            return ""

        return assign
    value = _Expression(tokens).whole()
    return lambda scope: go_string(value(scope))


class _Expression:
    """A pipeline, parsed from left to right."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def whole(self) -> _Node:
        if not self._tokens:
            raise TemplateError("missing value for command")
        node = self._pipeline()
        if token := self._peek():
            raise TemplateError(f"unexpected {token.text!r} in command")
        return node

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> _Token:
        token = self._peek()
        if token is None:
            raise TemplateError("unexpected end of the action")
        self._at += 1
        return token

    def _pipeline(self) -> _Node:
        node = self._command(None)
        while (token := self._peek()) and token.text == "|" and token.kind == "mark":
            self._at += 1
            node = self._command(node)
        return node

    def _command(self, piped: _Node | None) -> _Node:
        token = self._peek()
        if token and token.kind == "word" and token.text not in ("true", "false", "nil"):
            self._at += 1
            return _call(token.text, [*self._operands(), *([piped] if piped else [])])
        head = self._operand()
        arguments = [*self._operands(), *([piped] if piped else [])]
        return _method(head, arguments) if arguments else head

    def _operands(self) -> list[_Node]:
        operands = []
        while (token := self._peek()) and not (token.kind == "mark" and token.text in "|)"):
            operands.append(self._operand())
        return operands

    def _operand(self) -> _Node:
        node = self._primary()
        while (token := self._peek()) and token.kind == "field" and not token.spaced:
            self._at += 1
            node = _field(node, token.text[1:])
        return node

    def _primary(self) -> _Node:
        token = self._next()
        text = token.text
        if token.kind == "field":
            return _field(lambda scope: scope.dot, text[1:])
        if token.kind == "variable":
            return _variable(text)
        if token.kind == "number":
            return _constant(float(text) if "." in text else int(text))
        if token.kind == "string":
            return _constant(text[1:-1] if text[0] == "`" else _unquote(text))
        if text == ".":
            return lambda scope: scope.dot
        if text == "(":
            node = self._pipeline()
            if self._next().text != ")":
                raise TemplateError("unclosed left paren")
            return node
        if text in ("true", "false", "nil"):
            return _constant({"true": True, "false": False, "nil": None}[text])
        if token.kind == "word":
            return _call(text, [])
        raise TemplateError(f"unexpected {text!r} in operand")


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise TemplateError(f"bad string {text}") from None


def _constant(value: Any) -> _Node:
    return lambda _: value


def _variable(name: str) -> _Node:
    def run(scope: _Scope) -> Any:
        if name not in scope.variables:
            raise TemplateError(f"undefined variable {name!r}")
        return scope.variables[name]

    return run


def _field(base: _Node, name: str) -> _Node:
    def run(scope: _Scope) -> Any:
        value = base(scope)
        if isinstance(value, Mapping):
            if name not in value:
                raise TemplateError(f'at <.{name}>: map has no entry for key "{name}"')
            return value[name]
        if value is None:
            raise TemplateError(f"at <.{name}>: nil data; no entry for key {name!r}")
        raise TemplateError(f"at <.{name}>: can't evaluate field {name} in {go_string(value)}")

    return run


def _method(head: _Node, arguments: list[_Node]) -> _Node:
    def run(scope: _Scope) -> Any:
        target = head(scope)
        if not callable(target):
            raise TemplateError(f"can't give argument to non-function {go_string(target)}")
        return target(*(argument(scope) for argument in arguments))

    return run


def _call(name: str, arguments: list[_Node]) -> _Node:
    if name in ("and", "or"):
        return _shortcut(name, arguments)
    function = FUNCTIONS.get(name)
    if function is None:
        raise TemplateError(f'function "{name}" not defined; known are {", ".join(sorted([*FUNCTIONS, "and", "or"]))}')

    def run(scope: _Scope) -> Any:
        values = [argument(scope) for argument in arguments]
        try:
            return function(*values)
        except (TypeError, AttributeError, ValueError) as error:
            raise TemplateError(f"error calling {name}: {error}") from None

    return run


def _shortcut(name: str, arguments: list[_Node]) -> _Node:
    if not arguments:
        raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")

    def run(scope: _Scope) -> Any:
        value = None
        for argument in arguments:
            value = argument(scope)
            if bool(value) == (name == "or"):
                break
        return value

    return run
