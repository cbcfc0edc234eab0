"""Which room may import which, how long chains of imports get, and how large rooms and files.

Reads the imports of `lineas_core` as text, so that it needs none of its modules. Three kinds:

- at import time: at the top of a module, in its classes, and under `if` and `try` there;
- typed: below `if TYPE_CHECKING`;
- late: inside functions.

Chains and cycles of modules are of the first kind, for only these run when a module is imported.
The order of rooms is for all three: a late import hides an arrow, and does not turn it round.
A package's `__init__` is not counted among what importing its modules imports.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lineas_core"
PAGE = ROOT / "docs" / "architecture.md"

# A room imports from its own line and from those above it. A name is a folder of lineas_core with
# the folders in it that have no line of their own, or a module that has one: those at the root, and
# the catalogue, which is data that rooms below models read too; "studio" is the files that lie
# directly in that folder.
ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "system", "models/shared/catalog"),
    ("hub", "maps", "numerics", "prompts"),
    ("hooks", "steerable", "steering", "recompute", "activations"),
    ("models",),
    ("metrics", "training"),
    ("diagnostics", "prompts/writing"),
    ("methods",),
    ("scenes", "export", "serving", "notebook", "vllm"),
    ("__init__",),
    ("evaluation",),
    (
        "studio/access",
        "studio/components",
        "studio/jobs",
        "studio/rack",
        "studio/storage",
        "studio/storage/recovery",
    ),
    ("studio",),
    ("studio/answers",),
    ("studio/views",),
    ("studio/tabs",),
    ("studio/web",),
    ("cli",),
    ("__main__",),
)
# These share the last line of the page's order, and import nothing of one another but what the
# command line starts.
APART = ("evaluation", "studio", "cli")
ALLOWED_APART = {("cli", "evaluation"), ("cli", "studio")}

MAX_FILES_IN_ROOM = 16
MAX_FILES_AT_ROOT = 9
MAX_CHAIN = 14
MAX_LINES = 400
CLIP = "lineas_core.metrics.clip"

Kind = Literal["import time", "typed", "late"]


@dataclass(frozen=True)
class Import:
    """One module that a module imports.

    Attributes:
        importer: the module that imports.
        imported: a module of any package.
        names: what is taken from it; none where it is the module itself.
        line: of the importer's file.
        kind: when it runs.
    """

    importer: str
    imported: str
    names: tuple[str, ...]
    line: int
    kind: Kind

    def __str__(self) -> str:
        where = MODULES[self.importer].relative_to(ROOT)
        what = f"{', '.join(self.names)} of {self.imported}" if self.names else self.imported
        kind = "" if self.kind == "import time" else f" ({self.kind})"
        return f"{where}:{self.line} imports {what}{kind}"


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The longest name of ORDER that a module lies under, or its folder where there is none."""
    names = module.split(".")[1:]
    if not names:
        return "__init__"
    folders = names if MODULES[module].name == "__init__.py" else names[:-1]
    known = {room for line in ORDER for room in line}
    if not folders or "/".join(names) in known:
        return "/".join(names)
    for length in range(len(folders), 0, -1):
        # "studio" in the table is that folder's own files, so folders of it must be in the table.
        if "/".join(folders[:length]) in known and (folders[0] != "studio" or length > 1):
            return "/".join(folders[:length])
    return "/".join(folders)


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    def walk(nodes: list[ast.AST], kind: Kind) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module, alias.name, (), node.lineno, kind)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, (
                    f"{MODULES[module].relative_to(ROOT)}:{node.lineno} imports by dots; "
                    "write the whole name, so that it can be searched for"
                )
                source, names = str(node.module), [alias.name for alias in node.names]
                for name in (n for n in names if f"{source}.{n}" in MODULES):
                    yield Import(module, f"{source}.{name}", (), node.lineno, kind)
                if rest := tuple(n for n in names if f"{source}.{n}" not in MODULES):
                    yield Import(module, source, rest, node.lineno, kind)
            elif _is_typing_only(node):
                yield from walk(list(node.body), "typed")
                yield from walk(list(node.orelse), kind)
            else:
                function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                inside: Kind = "late" if function and kind == "import time" else kind
                yield from walk(list(ast.iter_child_nodes(node)), inside)

    return tuple(walk([tree_of(module)], "import time"))


def within() -> Iterator[Import]:
    """Imports of `lineas_core` by `lineas_core`."""
    for module in MODULES:
        yield from (i for i in imports_of(module) if i.imported in MODULES)


@functools.cache
def at_import_time() -> Mapping[str, tuple[str, ...]]:
    """Module -> those of `lineas_core` that it imports when it is imported."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for one in within():
        if one.kind == "import time" and one.imported != one.importer:
            graph[one.importer].add(one.imported)
    return {module: tuple(sorted(imported)) for module, imported in graph.items()}


def path_between(start: str, end: str) -> list[str]:
    """The shortest chain of imports from one module to another; empty where there is none."""
    before: dict[str, str] = {}
    queue = [start]
    for module in queue:
        if module == end:
            chain = [end]
            while chain[-1] != start:
                chain.append(before[chain[-1]])
            return chain[::-1]
        for imported in at_import_time()[module]:
            if imported not in before and imported != start:
                before[imported] = module
                queue.append(imported)
    return []


def find_cycle(graph: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One cycle, its first name repeated at its end; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        for imported in graph[name]:
            if cycle := visit(imported, [*above, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in graph if (cycle := visit(name, []))), [])


def chain(names: list[str]) -> str:
    return "\n  -> ".join(names)


def listed(findings: list[str]) -> str:
    return "\n" + "\n".join(f"  {finding}" for finding in findings)


def test_rooms_hold_few_files() -> None:
    sizes = {
        folder: len(list(folder.glob("*.py"))) for folder in {p.parent for p in MODULES.values()}
    }
    large = [
        f"{folder.relative_to(ROOT)}/ holds {count} .py files; at most "
        f"{MAX_FILES_AT_ROOT if folder == PACKAGE else MAX_FILES_IN_ROOM} may be there: "
        "move those of one noun into a folder of their own"
        for folder, count in sorted(sizes.items())
        if count > (MAX_FILES_AT_ROOT if folder == PACKAGE else MAX_FILES_IN_ROOM)
    ]
    assert not large, listed(large)


def test_files_are_short_or_say_why_not() -> None:
    long = [
        f"{path.relative_to(ROOT)} has {lines} lines: find its second noun, or give the reason in "
        f'its docstring with the words "{MAX_LINES} lines"'
        for module, path in MODULES.items()
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
        and f"{MAX_LINES} lines" not in " ".join((ast.get_docstring(tree_of(module)) or "").split())
    ]
    assert not long, listed(long)


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {room_of(module) for module in MODULES}
    known = {room for line in ORDER for room in line}
    assert rooms <= known, f"no place in ORDER for {', '.join(sorted(rooms - known))}"
    assert known <= rooms, f"ORDER names what is not there: {', '.join(sorted(known - rooms))}"


def test_imports_point_down_the_order_of_rooms() -> None:
    height = {room: level for level, line in enumerate(ORDER) for room in line}
    upwards = [
        f"{one}: {here} may not import {there}"
        for one in within()
        if height[here := room_of(one.importer)] < height[there := room_of(one.imported)]
    ]
    assert not upwards, listed(upwards)


def test_studio_evaluation_and_command_line_stand_apart() -> None:
    across = [
        f"{one}: {here} may not import {there}"
        for one in within()
        if (here := room_of(one.importer).split("/")[0]) in APART
        and (there := room_of(one.imported).split("/")[0]) in APART
        and here != there
        and (here, there) not in ALLOWED_APART
    ]
    assert not across, listed(across)


def test_no_module_imports_itself_in_a_circle() -> None:
    cycle = find_cycle(at_import_time())
    assert not cycle, f"modules import one another:\n  {chain(cycle)}"


def test_no_room_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    lines: dict[tuple[str, str], Import] = {}
    for one in within():
        here, there = room_of(one.importer), room_of(one.imported)
        if here != there:
            graph[here].add(there)
            lines.setdefault((here, there), one)
    cycle = find_cycle({room: tuple(sorted(imported)) for room, imported in graph.items()})
    arrows = [f"{a} -> {b}: {lines[a, b]}" for a, b in itertools.pairwise(cycle)]
    assert not cycle, f"rooms import one another:{listed(arrows)}"


def test_chains_of_imports_are_short() -> None:
    assert not find_cycle(at_import_time()), "there is a cycle, so no chain is the longest"

    @functools.cache
    def longest(module: str) -> tuple[str, ...]:
        below = [longest(imported) for imported in at_import_time()[module]]
        return (module, *max(below, key=len, default=()))

    chains = [longest(module) for module in MODULES]
    worst = list(max(chains, key=len))
    assert len(worst) <= MAX_CHAIN, (
        f"{len(worst)} modules import one another in a row, at most {MAX_CHAIN} may:\n  "
        f"{chain(worst)}"
    )


def test_callbacks_of_a_tab_import_nothing_of_another() -> None:
    def tab_of(module: str) -> str:
        names = module.split(".")
        return names[3] if names[:3] == ["lineas_core", "studio", "tabs"] and names[3:] else ""

    # A folder of tabs/ is a tab; files that lie in tabs/ itself are shared by tabs.
    tabs = {tab_of(m) for m in MODULES if tab_of(m) and len(m.split(".")) > 4}
    across = [
        f"{one}: callbacks of the tab {here} may not use the tab {there}"
        for one in within()
        if (here := tab_of(one.importer)) in tabs
        and (there := tab_of(one.imported)) in tabs
        and here != there
        and "layout" not in one.importer.rsplit(".", 1)[-1]
    ]
    assert not across, listed(across)


def test_prompts_do_not_import_torch() -> None:
    reached: dict[Import, str] = {}
    for module in (m for m in MODULES if room_of(m) == "prompts"):
        for below in (m for m in MODULES if path_between(module, m)):
            for one in imports_of(below):
                if one.kind == "import time" and one.imported.split(".")[0] == "torch":
                    reached.setdefault(one, module)
    found = [f"{one}; {module} reaches it" for one, module in reached.items()]
    assert not found, listed(found)


@pytest.mark.parametrize(
    "module",
    [
        "lineas_core.studio.components.before_after",
        "lineas_core.studio.jobs.film",
        "lineas_core.studio.jobs.frames",
    ],
)
def test_what_only_draws_does_not_reach_clip(module: str) -> None:
    assert module in MODULES, f"{module} has moved; name it here by its new place"
    reached = path_between(module, CLIP)
    assert not reached, f"{module} imports CLIP, which it does not use:\n  {chain(reached)}"


# Public names of every named tuple, though they begin with an underscore.
OF_NAMED_TUPLES = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def _own_names(module: str) -> set[str]:
    """Underscore names that a module defines: functions, classes, variables, attributes."""
    names: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in names if _is_private(name)}


def test_underscore_names_stay_in_their_module() -> None:
    defined = {module: _own_names(module) for module in MODULES}
    taken = [str(one) for one in within() if any(map(_is_private, one.names))]
    # What no module of ours defines is another library's, which may have no other way in.
    taken += [
        f"{path.relative_to(ROOT)}:{node.lineno} uses {ast.unparse(node)}, "
        f"which is of {' or '.join(owners)}"
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute)
        and _is_private(node.attr)
        and node.attr not in defined[module]
        and (owners := [other for other in MODULES if node.attr in defined[other]])
    ]
    assert not taken, listed(sorted(set(taken)))


@dataclass(frozen=True)
class Entry:
    """A line of the page's tree, with those that go on with it.

    Attributes:
        path: from the project's root.
        folder: whether it is written with a slash at its end.
        text: what is said of it.
    """

    path: Path
    folder: bool
    text: str


def read_tree(page: str) -> list[Entry]:
    """The tree in section 2 of the page: two spaces a level; deeper lines go on with a text."""
    section = re.split(r"^## ", page, flags=re.MULTILINE)[2]
    assert section.startswith("2. Rooms"), "the second section of the page is not 'Rooms'"
    block = re.search(r"(?:^ {4}.*\n)+", section, flags=re.MULTILINE)
    assert block, "section 2 has no tree"
    entries: list[Entry] = []
    above: list[str] = []
    for line in block[0].splitlines():
        indent, text = len(line) - len(line.lstrip()) - 4, line.strip()
        if entries and indent > 2 * len(above) + 4:
            last = entries[-1]
            entries[-1] = Entry(last.path, last.folder, f"{last.text} {text}")
            continue
        assert indent % 2 == 0, f"an odd indent in the tree: {line}"
        name, _, said = text.partition(" ")
        above = above[: indent // 2]
        entries.append(Entry(Path(*above, name), name.endswith("/"), said.strip()))
        if name.endswith("/"):
            above.append(name)
    return entries


def test_the_page_names_the_rooms_that_exist() -> None:
    entries = read_tree(PAGE.read_text("utf-8"))
    named = {
        entry.path for entry in entries if entry.folder and entry.path.is_relative_to("lineas_core")
    }
    there = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    page = PAGE.relative_to(ROOT)
    missing = [f"{folder}/ is not in the tree of {page}" for folder in sorted(there - named)]
    gone = [
        f"{path}{'/' if entry.folder else ''} is in the tree of {page}, and is not there"
        for entry in entries
        if not ((path := entry.path) and (ROOT / path).exists())
    ]
    assert not missing + gone, listed(missing + gone)


def test_the_page_names_files_that_exist() -> None:
    lost = [
        f"{folder}/{file} is named in the tree, and is not there"
        for entry in read_tree(PAGE.read_text("utf-8"))
        if (folder := entry.path if entry.folder else entry.path.parent)
        for file in re.findall(r"[\w/*]+\.(?:py|js|css|toml|json)\b", entry.text)
        if not any((ROOT / folder).glob(file))
    ]
    assert not lost, listed(lost)
