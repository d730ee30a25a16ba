"""Modules lean on each other in one direction, and leave each other's private names alone.

Every import counts: at the top of a file, within a function, and for type checkers only. One does not: an entry takes
the registry that it registers in from its own package (`from . import LOSSES`), whose `__init__` defines it above all
its imports and then offers the entries' names.
"""

import ast
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest

import normface

SOURCE = Path(normface.__file__).parent
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public, for all their underscore


class Module(NamedTuple):
    tree: ast.Module
    package: str  # what a relative import starts from


def modules_of(folder: Path) -> dict[str, Module]:
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = (folder.name, *file.relative_to(folder).with_suffix("").parts)
        init = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if init else parts)
        found[name] = Module(ast.parse(file.read_text("utf-8")), name if init else name.rpartition(".")[0])
    return found


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def imports(module: Module, modules: dict[str, Module]) -> list[tuple[str, str | None]]:
    """Modules of ours that a module imports, each with the name taken from it, if any."""
    found: list[tuple[str, str | None]] = []
    for node in nodes(module.tree):
        if isinstance(node, ast.Import):
            found += [(each.name, None) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.package.split(".")[: len(module.package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for each in node.names:
                inside = f"{source}.{each.name}"
                found.append((inside, None) if inside in modules else (source, each.name))
    return [(name, taken) for name, taken in found if name in modules]


def registries(module: Module) -> set[str]:
    """Names that a package gives to registries."""
    return {
        node.target.id
        for node in module.tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Registry[")
    }


def arrows(modules: dict[str, Module]) -> dict[str, set[str]]:
    return {
        name: {
            other
            for other, taken in imports(module, modules)
            if other != name and not (other == module.package and taken in registries(modules[other]))
        }
        for name, module in modules.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that lean on each other in a circle, or nothing."""
    done: set[str] = set()

    def walk(path: list[str]) -> list[str]:
        for other in sorted(graph[path[-1]] - done):
            if other in path:
                return [*path[path.index(other) :], other]
            if found := walk([*path, other]):
                return found
        done.add(path[-1])
        return []

    return next((found for name in graph if name not in done and (found := walk([name]))), [])


def private(name: str | None) -> bool:
    return bool(name) and name.startswith("_") and not name.endswith("__")


def trespasses(name: str, modules: dict[str, Module]) -> list[str]:
    """Private names of others that a module imports, or asks of anything but `self` and what it defines itself."""
    tree = modules[name].tree
    found = [f"{other}.{taken}" for other, taken in imports(modules[name], modules) if other != name and private(taken)]
    own: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.id if isinstance(node, ast.Name) else node.attr)
    for node in nodes(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            base = ast.unparse(node.value)
            if base not in ("self", "cls", "super()") and node.attr not in NAMED_TUPLES:
                found.append(f"{base}.{node.attr}")
    return found


ours = cache(partial(modules_of, SOURCE))
TORCH = ("torch._C", "torch._C._functorch", "torch._assert_async")  # PyTorch has no public names for these


def test_no_module_leans_on_itself():
    assert len(ours()) > 150
    assert circle(arrows(ours())) == []


def test_private_names_stay_in_their_module():
    modules = ours()
    found = {name: [each for each in trespasses(name, modules) if each not in TORCH] for name in modules}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.fixture
def toy(tmp_path):
    """Modules of a package from their sources."""

    def make(**sources):
        folder = tmp_path / "toy"
        folder.mkdir(exist_ok=True)
        for name, source in ({"__init__": ""} | sources).items():
            (folder / f"{name}.py").write_text(source, "utf-8")
        return modules_of(folder)

    return make


@pytest.mark.parametrize(
    "back", ["from .a import x", "def f():\n    from . import a", "if TYPE_CHECKING:\n    import toy.a"]
)
def test_every_way_round_is_found(toy, back):
    assert circle(arrows(toy(a="from .c import y", c="from .b import z", b=back))) == "toy.a toy.c toy.b toy.a".split()


def test_an_entry_may_take_its_registry_and_nothing_else(toy):
    package = "LOSSES: Registry[int] = Registry('loss')\nx = 1\nfrom .a import one"
    assert circle(arrows(toy(__init__=package, a="from . import LOSSES"))) == []
    assert circle(arrows(toy(__init__=package, a="from . import LOSSES, x"))) == ["toy", "toy.a", "toy"]


def test_private_names_are_found(toy):
    source = "from .a import _x\nself._mine = 1\nother._mine, other._theirs, self._ours, pair._replace"
    assert trespasses("toy.b", toy(a="", b=source)) == ["toy.a._x", "other._theirs"]


def defined(module: Module) -> set[str]:
    """Public functions, classes and constants at the top of a module."""
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def namesakes(modules: dict[str, Module]) -> list[str]:
    """Names that two modules of one package define, and names of a package's door that hide a module of it."""
    found = []
    for package in {module.package for module in modules.values()}:
        inside = {n: m for n, m in modules.items() if n.rpartition(".")[0] == package}
        seen: dict[str, str] = {}
        for name, module in inside.items():
            for each in defined(module) if modules.get(name, module).package == package else ():
                if each in seen:
                    found.append(f"{package}: {each} in {seen[each]} and {name}")
                seen[each] = name
        door = {taken for _, taken in imports(modules[package], modules) if taken} if package in modules else set()
        found += [f"{package}.{each} is a module too" for each in door if f"{package}.{each}" in modules]
    return sorted(found)


def test_a_name_means_one_thing_in_a_package():
    # A verb of the command line has its own name in each group (gallery list, keys list), and the reference its
    # functions' own names.
    found = [
        each for each in namesakes(ours())
        if not each.startswith("normface.cli: ") and "normface.ops.reference" not in each
    ]  # fmt: skip
    assert found == []


def test_namesakes_are_found(tmp_path):
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("from .b import a, c")
    (package / "a.py").write_text("def c(): ...")
    (package / "b.py").write_text("a, c = 1, 2\nc: int = 3\n")
    assert namesakes(modules_of(package)) == ["toy.a is a module too", "toy: c in toy.a and toy.b"]
