"""Imports point only downward, read from the source: also those inside of functions, which run too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest

from tests.host import ROOT

PACKAGE = "osg_token_renewer"
# The table of ARCHITECTURE.md. A package stands for the modules in it.
LAYERS = (
    (
        "__init__",
        "errors",
        "identity",
        "model",
        "jwt",
        "http",
        "process",
        "stop",
        "text",
        "options",
        "log",
        "directories",
        "trust",
        "watchdog",
    ),
    ("all_sources", "sources", "planner", "claims", "attempts"),
    ("config", "runner", "publisher", "report", "history", "lock", "sandbox", "snapshot"),
    ("renew", "registration", "setup_files"),
    ("daemon",),
    ("commands",),
    ("cli", "__main__"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

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


def upward(modules: Sources) -> list[str]:
    def layer(name: str) -> int:
        return LAYER[name.split(".")[0]]

    return [f"{name} imports {other}" for name in modules for other in imported(name, modules) if layer(other) > layer(name)]


def test_every_module_has_a_layer() -> None:
    assert {name.split(".")[0] for name in sources()} <= set(LAYER)


def test_imports_point_only_downward() -> None:
    assert upward(sources()) == []


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
def test_an_upward_import_is_noticed_wherever_it_stands(text: str) -> None:
    assert upward({"cli": "", "sources.base": text}) == ["sources.base imports cli"]


def test_no_import_is_hidden_in_a_string() -> None:
    hiding = [name for name, text in sources().items() if "importlib" in text or "__import__" in text]
    assert hiding == []


def test_there_is_no_circle_of_imports() -> None:
    """Neighbours in a layer may import each other, but not in a circle."""
    modules = sources()
    left = {name: set(imported(name, modules, run_time_only=True)) - {name} for name in modules}
    while left:
        free = {name for name, wanted in left.items() if not wanted & set(left)}
        assert free, f"a circle within {sorted(left)}"
        left = {name: wanted for name, wanted in left.items() if name not in free}


def test_only_the_dictionary_and_the_setup_know_single_sources() -> None:
    """A new source is a module and a line in all_sources."""
    modules = sources()
    single = {name for name in modules if name.startswith("sources.")} - {"sources.base"}
    assert len(single) >= 2
    knowing = {name for name in modules if set(imported(name, modules)) & single}
    assert knowing - single == {"all_sources", "commands.setup", "registration"}
