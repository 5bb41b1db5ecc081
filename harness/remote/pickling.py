"""Pickles functions by value: takes a plain Python function of a test module to the guest.

The function's source is compiled here, without pytest's assertion rewriting, together with the functions of its module
that it calls. Plain values and modules that it uses from its module are included by name. An error names what cannot
go.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import marshal
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UsageError
from harness.guest import wire
from harness.image.build import LEFT_OUT


@dataclass(frozen=True)
class PickledFunction:
    """The data that the guest needs to run a function.

    Attributes:
        code: Marshalled code of a module that defines the functions; the name `pickled` is the first function.
        names: Plain values by their name in the functions.
        imports: Modules, and members of modules, by their name in the functions: ("os", "") or ("os.path", "join").
            Submodules that a function reaches through their package have their whole name: ("xml.etree", "").
    """

    code: bytes
    names: dict[str, Any]
    imports: dict[str, tuple[str, str]]


@dataclass
class _Packing:
    function: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    files: dict[tuple[str, int], str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)


def pack(function: Callable[..., Any]) -> PickledFunction:
    """Return the data that the guest needs to run `function`.

    Raises:
        UsageError: It is not a plain function, or uses something that cannot go to the guest; the message names it.
    """
    if not isinstance(function, types.FunctionType):
        raise UsageError(
            f"{function!r} cannot run in the guest",
            expected="a plain function, defined with def in a file",
            hint="wrap the call in such a function",
        )
    packing = _Packing(function.__qualname__)
    _add(packing, function.__name__, function)
    module = ast.Module(
        [*packing.definitions.values(), ast.parse(f"pickled = {function.__name__}").body[0]], type_ignores=[]
    )
    code = compile(ast.fix_missing_locations(module), inspect.getsourcefile(function) or "pickled", "exec")
    # A function from another module is code of that module's file.
    constants = [
        _in_file(one, packing.files.get((one.co_name, one.co_firstlineno))) if isinstance(one, types.CodeType) else one
        for one in code.co_consts
    ]
    code = code.replace(co_consts=tuple(constants))
    return PickledFunction(marshal.dumps(code), packing.names, packing.imports)


def _in_file(constant: Any, file: str | None) -> Any:
    """Return code, with that of the functions in it, as code of a file; any other constant, and None, as it is."""
    if not isinstance(constant, types.CodeType) or file is None:
        return constant
    constants = tuple(_in_file(one, file) for one in constant.co_consts)
    return constant.replace(co_filename=file, co_consts=constants)


def _add(packing: _Packing, name: str, function: types.FunctionType) -> None:
    if function.__name__ == "<lambda>" or hasattr(function, "__wrapped__"):
        kind = "a lambda" if function.__name__ == "<lambda>" else "wrapped by a decorator, which cannot go with it"
        raise UsageError(
            f"{function.__qualname__} cannot run in the guest: it is {kind}",
            expected="a plain function, defined with def in a file",
            hint="define one at the top level of the module, and call that",
        )
    if function.__code__.co_freevars:
        raise UsageError(
            f"{function.__qualname__} cannot run in the guest: it uses {', '.join(function.__code__.co_freevars)} from "
            "the function around it",
            expected="a function at the top level of its module",
            hint="pass such values as arguments",
        )
    packing.definitions[name], names = _definition(function)
    packing.imports |= {module: (module, "") for module in _submodules(packing.definitions[name], function.__globals__)}
    packing.files[function.__name__, packing.definitions[name].lineno] = inspect.getsourcefile(function) or "pickled"
    for used in names:
        if used in packing.definitions or used in packing.names or used in packing.imports:
            continue
        if used in function.__globals__:
            _add_value(packing, used, function.__globals__[used])
        elif not hasattr(builtins, used):
            raise UsageError(
                f"{function.__qualname__} uses {used}, which its module does not define",
                expected="names of its module, of builtins, or its own",
            )


@functools.lru_cache(maxsize=256)
def _definition(function: types.FunctionType) -> tuple[ast.FunctionDef, list[str]]:
    """Return a function's definition without annotations, and the names that it looks up in its module."""
    try:
        if function.__code__.co_filename == "<string>":
            # exec() made it. From Python 3.13 on, inspect returns the text of `python -c` instead, if there is one.
            raise OSError("it was made by exec()")
        lines, first = inspect.getsourcelines(function)
    except OSError as error:
        raise UsageError(
            f"the source of {function.__qualname__} cannot be read: {error}",
            expected="a function defined with def in a file",
        ) from error
    definition = ast.parse(textwrap.dedent("".join(lines))).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise UsageError(f"{function.__qualname__} cannot run in the guest", expected="a function defined with def")
    for node in ast.walk(definition):
        for module in _imported(node):
            _check_works(function.__qualname__, module)
    definition.decorator_list = []
    # The guest would evaluate annotations, whose names may not exist there.
    for node in ast.walk(definition):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    ast.increment_lineno(definition, first - 1)
    code = compile(ast.Module([definition], type_ignores=[]), "pickled", "exec")
    return definition, sorted(_global_names(code))


def _global_names(code: types.CodeType) -> set[str]:
    """Return the names that a module's code looks up: globals in its functions, and names in default values."""
    import dis

    instructions = list(dis.get_instructions(code))
    found = {i.argval for i in instructions if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    found -= {i.argval for i in instructions if i.opname == "STORE_NAME"}  # the body of a class uses its own names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _global_names(constant)
    return found


def _imported(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _submodules(definition: ast.stmt, scope: dict[str, Any]) -> set[str]:
    """Return the modules that a function reaches as attributes of modules: `import xml.etree` defines only `xml`."""
    found = set()
    for node in ast.walk(definition):
        words: list[str] = []
        while isinstance(node, ast.Attribute):
            words.insert(0, node.attr)
            node = node.value
        module = scope.get(node.id) if isinstance(node, ast.Name) else None
        for word in words:
            inner = sys.modules.get(f"{getattr(module, '__name__', '')}.{word}")
            if not isinstance(module, types.ModuleType) or inner is None:
                break
            module = inner
            if _is_in_guest(inner.__name__):
                found.add(inner.__name__)
    return found


def _add_value(packing: _Packing, name: str, value: Any) -> None:
    if isinstance(value, types.ModuleType):
        _check_module(packing.function, name, value.__name__)
        packing.imports[name] = (value.__name__, "")
        return
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and _is_in_guest(module) and getattr(sys.modules.get(module), name, None) is value:
        packing.imports[name] = (module, name)
    elif isinstance(value, types.FunctionType):
        _add(packing, name, value)
    else:
        try:
            wire.encode(value)
        except wire.WireError as error:
            raise UsageError(
                f"{packing.function} cannot run in the guest: it uses {name}, and {error}",
                expected="plain values, functions and modules",
                hint="create it inside the function, or pass plain data as an argument",
            ) from error
        packing.names[name] = value


def _is_in_guest(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names or module.startswith("harness.guest")


def _check_module(function: str, name: str, module: str) -> None:
    if not _is_in_guest(module):
        raise UsageError(
            f"{function} cannot run in the guest: it uses the module {name} ({module}), which the guest lacks",
            expected="modules of the standard library and harness.guest",
            hint="do that part on the host",
        )
    _check_works(function, module)


def _check_works(function: str, module: str) -> None:
    if module.partition(".")[0] in LEFT_OUT:
        raise UsageError(
            f"{function} cannot run in the guest: the module {module} does not work there",
            expected=f"any module of the standard library but {', '.join(sorted(LEFT_OUT))}",
            hint="do that part on the host",
        )
