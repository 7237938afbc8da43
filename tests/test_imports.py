"""The architecture, read from the source: which folder imports which, and what is imported late."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest

from tests.host import ROOT

PACKAGE = "osg_token_renewer"
# Everybody may import these.
VOCABULARY = ("__init__", "model", "errors", "options", "text")
# The table of ARCHITECTURE.md: whom the modules of a folder may import besides the vocabulary and each other.
MAY_IMPORT: Mapping[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"commands"},
    "commands": {
        "accounts",
        "config",
        "engine",
        "history",
        "net",
        "notify",
        "report",
        "service",
        "sinks",
        "sources",
        "store",
        "system",
        "tokens",
    },
    "compat": {"commands", "tokens", "service"},
    "service": {
        "engine",
        "accounts",
        "sources",
        "store",
        "tokens",
        "config",
        "history",
        "report",
        "net",
        "system",
    },
    "engine": {"sources", "sinks", "history", "tokens", "notify", "system"},
    "notify": {"system", "net"},
    "accounts": {"config", "sources", "store", "tokens", "net", "system"},
    "config": {"sources", "sinks", "system"},
    "sources": {"store", "tokens", "net", "system"},
    "sinks": {"tokens", "net", "system"},
    "store": {"net", "system"},
    "history": {"system"},
    "report": set(),
    "tokens": {"net", "system"},
    "net": {"system"},
    "system": set(),
    **{name: set() for name in VOCABULARY},
}

# What a function may import: only what takes a third of a millisecond or more when all else is loaded, and
# what nearly every run does without. (A run with nothing due takes some 80 ms.) The times are in ms, of
# CPython 3.11; a module of the package has its name inside the package.
LATE: Mapping[str, tuple[float, str]] = {
    "base64": (0.5, "to mask secrets, and for one way of client authentication"),
    "commands.setup": (8.7, "the other program"),
    "difflib": (1.0, "for hints in messages about the configuration"),
    "engine.workers": (6.1, "if a token is due"),
    "html": (1.8, "to mask secrets"),
    "net.ca_bundle": (20, "urllib3, to ask an issuer"),
    "net.connection": (80, "requests, to ask an issuer"),
    "net.https": (91, "requests, to ask an issuer"),
    "report.table": (135, "rich, for status"),
    "rich": (43, "for a terminal"),
    "rich.console": (43, "for a terminal"),
    "secrets": (1.4, "to publish a token"),
    "selectors": (0.6, "to start a program"),
    "shlex": (0.3, "to start an agent, and for hints about the sandbox"),
    "shutil": (2.3, "compression libraries, to start a program, and for leftovers"),
    "socket": (12, "to start an agent"),
    "subprocess": (2.6, "to start a program"),
    "tempfile": (4.2, "for an agent's directory"),
    "urllib.parse": (3.4, "for accounts with a URL"),
}

Sources = Mapping[str, str]


def sources() -> dict[str, str]:
    """The text of each module, by its name inside the package; a package has the name of its directory."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path.read_text()
    return found


def imported(name: str, modules: Sources, run_time_only: bool = False) -> Iterator[str]:
    """The modules of the package that the module `name` imports, wherever in its text."""
    tree = ast.parse(modules[name])
    skipped: set[int] = set()
    if run_time_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports are not followed here"
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for each in wanted:
            if each == PACKAGE or each.startswith(f"{PACKAGE}."):
                yield _module(each[len(PACKAGE) + 1 :], modules)


def _module(dotted: str, modules: Sources) -> str:
    """`config.ini.read` is in the module config.ini, `__version__` in the package itself."""
    while dotted and dotted not in modules:
        dotted = dotted.rpartition(".")[0]
    return dotted or "__init__"


def _folder(name: str) -> str:
    return name.split(".")[0]


def forbidden(modules: Sources) -> list[str]:
    return [
        f"{name} imports {other}"
        for name in modules
        for other in imported(name, modules)
        if _folder(other) not in {_folder(name), *VOCABULARY, *MAY_IMPORT[_folder(name)]}
    ]


def test_every_folder_is_in_the_table() -> None:
    assert {_folder(name) for name in sources()} <= set(MAY_IMPORT)


def test_each_folder_imports_only_what_the_table_says() -> None:
    assert forbidden(sources()) == []


def test_an_import_of_each_forbidden_kind_is_noticed() -> None:
    for folder, may in MAY_IMPORT.items():
        for other in set(MAY_IMPORT) - {folder, *VOCABULARY, *may}:
            modules = {f"{folder}.x": f"from {PACKAGE}.{other} import something\n", other: ""}
            assert forbidden(modules) == [f"{folder}.x imports {other}"]


@pytest.mark.parametrize(
    "text",
    [
        "import osg_token_renewer.cli",
        "from osg_token_renewer import cli",
        "from osg_token_renewer.cli import main as start",
        "def late():\n    from osg_token_renewer import cli\n",
        "if TYPE_CHECKING:\n    from osg_token_renewer.cli import main\n",
        "class A:\n    async def b(self):\n        with c:\n            import osg_token_renewer.cli as d\n",
    ],
)
def test_a_forbidden_import_is_noticed_wherever_it_stands(text: str) -> None:
    assert forbidden({"cli": "", "sources.base": text}) == ["sources.base imports cli"]


def test_no_import_is_hidden_in_a_string() -> None:
    hiding = [name for name, text in sources().items() if "importlib" in text or "__import__" in text]
    assert hiding == []


def late_imports(modules: Sources) -> set[tuple[str, str]]:
    """Each import inside a function: the module that does it, and what it imports."""
    return {
        (name, wanted)
        for name, text in modules.items()
        for function in ast.walk(ast.parse(text))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        for wanted in _wanted_by(node, modules)
    }


def _wanted_by(node: ast.AST, modules: Sources) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if module.split(".")[0] != PACKAGE:
        return [module]
    return [_module(f"{module}.{alias.name}"[len(PACKAGE) + 1 :], modules) for alias in node.names]


def test_a_function_imports_only_what_the_table_of_late_imports_has() -> None:
    assert {
        f"{name} imports {wanted}" for name, wanted in late_imports(sources()) if wanted not in LATE
    } == set()


def test_the_table_of_late_imports_has_nothing_else() -> None:
    assert set(LATE) == {wanted for _, wanted in late_imports(sources())}


def test_a_late_import_is_noticed_wherever_it_stands() -> None:
    texts = [
        "def late():\n    import rich.table\n",
        "class A:\n    async def b(self):\n        with c:\n            from rich.table import Table\n",
    ]
    for text in texts:
        assert late_imports({"x": text, "y": "import rich.table"}) == {("x", "rich.table")}
    package = (
        f"def late():\n    from {PACKAGE}.net import https\n    from {PACKAGE}.net.https import Client\n"
    )
    assert late_imports({"x": package, "net.https": "", "net": ""}) == {("x", "net.https")}


def test_there_is_no_circle_of_imports() -> None:
    """Neither between modules nor between folders."""
    modules = sources()
    between_modules = {name: set(imported(name, modules, run_time_only=True)) - {name} for name in modules}
    between_folders: dict[str, set[str]] = {_folder(name): set() for name in modules}
    for name, others in between_modules.items():
        between_folders[_folder(name)] |= {_folder(other) for other in others} - {_folder(name)}
    assert circle(between_modules) == circle(between_folders) == set()


def circle(left: dict[str, set[str]]) -> set[str]:
    """Those that are in a circle, or lead to one."""
    while free := {name for name, wanted in left.items() if not wanted & set(left)}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    return set(left)


@pytest.mark.parametrize(("kind", "root"), [("sources", "sources.oidc_agent"), ("sinks", "sinks.file")])
def test_only_the_registry_and_the_setup_know_single_kinds(kind: str, root: str) -> None:
    """A new source or sink is a module and a line in its registry."""
    modules = sources()
    shared = {
        kind,
        f"{kind}.base",
        f"{kind}.registry",
        "sources.token_endpoint",
        "sinks.replacement",
    }
    single = {name for name in modules if _folder(name) == kind} - shared
    assert root in single
    knowing = {name for name in modules if set(imported(name, modules)) & single} - single
    assert {name for name in knowing if _folder(name) not in ("accounts", "commands")} == {f"{kind}.registry"}
