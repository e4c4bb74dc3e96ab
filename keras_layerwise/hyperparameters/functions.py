"""Functions in words: by code, constants, names, defaults and the values around them.

Two functions are the same where all of these are. Bytecode differs between
versions of Python, so that the version is part of the text, and a comparison
across versions knows nothing (see `storage.record`). The source is kept
beside, to be shown and not compared.
"""

import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Any

from keras_layerwise.storage.values import code_tag

_LIBRARIES = frozenset(
    {"builtins", "jax", "keras", "keras_hub", "keras_layerwise", "numpy", "tensorflow", "torch"}
)
_MOST = 2000  # characters of a source that are kept
_sources: dict[str, str] = {}


def is_own(value: Any) -> bool:
    """Tells whether a class or function is the user's own, and not from an installed package.

    A package's code is told by its version; the user's changes from run to run.

    Example:

    >>> is_own(dict), is_own(lambda: 0)
    (False, True)
    """
    module = getattr(value, "__module__", None) or ""
    if module.partition(".")[0] in _LIBRARIES:
        return value.__name__ == "<lambda>" if inspect.isfunction(value) else False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def describe_function(function: Any, describe: Callable[[Any], Any]) -> str:
    """Gives a function as its name, the values it was made with, and a tag of its code.

    Args:
        function: a Python function.
        describe: what puts the values around it into words.

    Example:

    >>> def power(exponent):
    ...     return lambda x: x**exponent
    >>> describe_function(power(2), str) == describe_function(power(2), str)
    True
    >>> describe_function(power(3), str).partition(", code=")[0]
    'lambda(exponent=3'
    """
    name = "lambda" if function.__name__ == "<lambda>" else function.__name__
    if not is_own(function):
        return name
    values = {**_defaults(function), **_around(function)}
    tag = code_of(function)
    settings = [f"{key}={describe(value)}" for key, value in values.items()]
    return f"{name}({', '.join([*settings, f'code={tag}'])})"


def code_of(value: Any) -> str:
    """Gives the tag of a function's code, or of all methods of a class of the user's own."""
    if inspect.isclass(value):
        cls: Any = value
        return _code_of_class(cls)
    return _tag(value, _code(value.__code__))


def sources_in(values: Mapping[str, Any]) -> dict[str, str]:
    """Gives the source of every function that flat values name, by the tag of its code."""
    texts = [value if isinstance(value, str) else str(value) for value in values.values()]
    return {tag: source for tag, source in _sources.items() if any(tag in t for t in texts)}


@functools.lru_cache(maxsize=1024)
def _code_of_class(cls: Any) -> str:
    codes = []
    for base in cls.__mro__:
        if is_own(base):
            members = sorted(vars(base).items())
            codes += [(name, _code(f.__code__)) for name, m in members if (f := _function(m))]
    return _tag(cls, codes)


def _function(member: Any) -> types.FunctionType | None:
    member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
    while hasattr(member, "__wrapped__"):
        member = member.__wrapped__
    return member if isinstance(member, types.FunctionType) else None


def _tag(value: Any, code: Any) -> str:
    tag = code_tag(hashlib.sha256(repr(code).encode()).hexdigest()[:16])
    if tag not in _sources:
        try:
            _sources[tag] = textwrap.dedent(inspect.getsource(value))[:_MOST]
        except (OSError, TypeError):  # typed into an interpreter, or made by exec
            _sources[tag] = ""
    return tag


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(
        _code(c)
        if isinstance(c, types.CodeType)
        else sorted(map(repr, c), key=str)
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    )
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return code.co_code.hex(), constants, code.co_names, len(code.co_freevars), counts


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = function.__defaults__ or ()
    positional = dict(zip(names[len(names) - len(given) :], given, strict=True))
    return {**positional, **(function.__kwdefaults__ or {})}


def _around(function: types.FunctionType) -> dict[str, Any]:
    """Gives the values that it reads from around it: its closure, and plain globals."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        is_plain = isinstance(value, (bool, int, float, str)) and not name.startswith("__")
        is_other = inspect.isfunction(value) and value is not function and is_own(value)
        if is_plain or is_other:
            found[name] = value
    return found
