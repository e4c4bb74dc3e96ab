"""The project's shape: what importing loads, which module knows which, what files hold."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import keras_layerwise
from tests.shared.scripts import UNLOADED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_layerwise"
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name):
    """Every module that `name` imports, at its top or in a function, as absolute names."""
    tree = ast.parse(SOURCES[name].read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import, which this test does not follow"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in SOURCES else node.module for member in members}
    return found


IMPORTS = {name: imports(name) for name in SOURCES}
INNER = {name: found & SOURCES.keys() for name, found in IMPORTS.items()}


def reached(name):
    """`name` and all modules of the package that it imports, directly or through others."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(INNER[current])
    return seen


def outside(name):
    """The top-level names of everything that `reached` modules import from elsewhere."""
    return {found.split(".")[0] for inner in reached(name) for found in IMPORTS[inner]}


def part(name):
    return f"keras_layerwise.{name}"


def is_tab(name):
    return name == part("tab") or name.startswith(part("tab."))


def readers():
    """The modules that work where there is no Keras: TensorBoard and the command load them."""
    rooms = [name for name in SOURCES if name.startswith(part("storage."))]
    commands = [name for name in SOURCES if name.startswith(part("command."))]
    return [*rooms, *commands, part("cli"), *filter(is_tab, SOURCES)]


def loaded_by(code):
    """The frameworks that a fresh interpreter has loaded after running `code`."""
    code += "\nimport sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return FRAMEWORKS & set(run.stdout.splitlines()[-1].split())


@pytest.mark.once
class TestFace:
    def test_importing_loads_no_framework(self):
        assert loaded_by("import keras_layerwise; dir(keras_layerwise)") == set()

    def test_the_first_use_of_a_name_loads_its_module(self, scripts):
        code = "import keras_layerwise as kl; name = 'keras_layerwise.callbacks.weight_drift'; "
        code += "assert name not in sys.modules; kl.WeightDrift; assert name in sys.modules"
        scripts.succeed((f"{UNLOADED}\n{code}",))

    def test_no_module_takes_the_place_of_a_name_that_it_shares(self, scripts):
        code = f"import {', '.join(SOURCES)}; import types, keras_layerwise as kl; "
        code += "assert not [n for n in kl.__all__ if isinstance(getattr(kl, n), types.ModuleType)]"
        scripts.succeed((f"{UNLOADED}\n{code}",))

    def test_dir_shows_every_name(self):
        assert set(keras_layerwise.__all__) <= set(dir(keras_layerwise))

    @pytest.mark.parametrize("name", keras_layerwise.__all__)
    def test_every_name_resolves(self, name):
        assert getattr(keras_layerwise, name) is not None

    def test_an_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="'Unknown'"):
            keras_layerwise.Unknown  # noqa: B018 - the access is what is tested

    def test_type_checkers_see_the_same_names_in_the_same_modules(self):
        tree = ast.parse((PACKAGE / "__init__.py").read_text())
        (block,) = (node for node in tree.body if isinstance(node, ast.If))
        seen = {
            alias.asname: node.module.removeprefix("keras_layerwise.")
            for node in block.body
            for alias in node.names
        }
        assert seen == keras_layerwise._MODULES
        assert keras_layerwise.__all__ == sorted([*seen, "__version__"])


def room(name):
    """The folder of a module, or the module itself where it lies beside the folders."""
    return name.split(".")[1] if "." in name else ""


ROOMS = sorted({room(name) for name in SOURCES if name.count(".") > 1})
# What each room may import of the others; the tab, the command and what is beside them below.
MAY_KNOW = {
    "backend": set(),
    "model": {"backend", "errors", "tables"},
    "storage": {"drift", "errors", "tables"},  # of the drift only its table of statistics
    "drift": {"backend", "errors", "model", "storage", "tables"},
    "optimizer": {"backend", "errors", "model", "tables"},
    "hyperparameters": {"backend", "errors", "model", "optimizer", "storage", "tables"},
    "callbacks": {
        *("backend", "drift", "errors", "hyperparameters", "model", "optimizer", "storage"),
        "tables",
    },
    "tab": {"errors", "storage"},
    "command": {"errors", "storage", "tables"},
    "cli": {"command", "errors", "storage", "tables"},
}


@pytest.mark.once
class TestArrows:
    def test_no_cycle(self):
        try:
            TopologicalSorter(INNER).prepare()
        except CycleError as error:
            pytest.fail(f"modules import in a circle: {' -> '.join(error.args[1])}")

    @pytest.mark.parametrize("name", sorted(SOURCES))
    def test_a_room_knows_only_the_rooms_below(self, name):
        mine = room(name)
        if mine not in MAY_KNOW:
            return
        found = {room(inner) for inner in INNER[name]} - {mine, ""}
        assert found <= MAY_KNOW[mine], found - MAY_KNOW[mine]

    def test_files_know_of_the_drift_only_its_table(self):
        storage = {inner for name in SOURCES if room(name) == "storage" for inner in INNER[name]}
        assert {name for name in storage if room(name) == "drift"} == {part("drift.statistics")}

    def test_every_room_is_held_to_it(self):
        assert set(ROOMS) <= MAY_KNOW.keys()

    def test_nobody_knows_the_callbacks_but_what_makes_them_known(self):
        knowing = {
            name for name, found in INNER.items() if any(room(i) == "callbacks" for i in found)
        }
        assert {room(name) for name in knowing} <= {"callbacks", "on_keras"}

    def test_numbers_know_no_files(self):
        for name in (part("drift.sums"), part("drift.statistics")):
            tree = ast.parse(SOURCES[name].read_text())
            assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"open"}
            assert not outside(name) & {"io", "os", "pathlib", "shutil", "tempfile"}

    @pytest.mark.parametrize("name", readers())
    def test_what_reads_knows_no_framework(self, name):
        assert not outside(name) & FRAMEWORKS

    def test_what_reads_loads_no_framework(self):
        assert loaded_by(f"import {', '.join(readers())}") == set()


# Names of our own that begin with an underscore and are read from another object.
OWN = re.compile(r"_asdict|_replace|_fields|__\w+__")


def private_names(name):
    """The names with an underscore that a module reads from objects of others, with the line."""
    found = []
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            of = ast.unparse(node.value)
            mine = of in ("self", "cls") or OWN.fullmatch(node.attr)
            if not mine:
                found.append(f"{node.lineno}: {of}.{node.attr}")
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.match(r"(keras\.src|tensorflow\.python)\b", text):
            found.append(f"{node.lineno}: {text}")
    return found


@pytest.mark.once
class TestPrivateNames:
    """What is private to Keras or a framework is known in one room, where contracts hold it."""

    ELSEWHERE = sorted(name for name in SOURCES if room(name) != "backend")

    @pytest.mark.parametrize("name", ELSEWHERE)
    def test_none_is_used_outside_the_backend_room(self, name):
        assert private_names(name) == []

    @pytest.mark.parametrize("name", ELSEWHERE)
    def test_only_the_backend_room_asks_which_backend_it_is(self, name):
        assert "keras.backend.backend()" not in SOURCES[name].read_text()
        assert "keras.config.backend()" not in SOURCES[name].read_text()


def tracked():
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]


def unlike_a_verb(path):
    """The functions whose docstrings begin with something else than a verb of the third person."""
    for node in ast.walk(ast.parse(path.read_text())):
        text = isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
        kinds = {
            ast.unparse(decorator).split(".")[-1]
            for decorator in getattr(node, "decorator_list", [])
        }
        if not text or kinds & {"property", "cached_property"}:
            continue
        first = text.split()[0]
        if not re.fullmatch("[A-Z][a-z]+s", first) or first in ("Its", "This", "Those"):
            yield f"{node.name}: {text.splitlines()[0]}"


@pytest.mark.once
class TestWords:
    @pytest.mark.parametrize("name", SOURCES)
    def test_a_function_says_what_it_does_with_a_verb(self, name):
        assert list(unlike_a_verb(SOURCES[name])) == []


@pytest.mark.once
class TestFiles:
    # Each character class keeps the expression from finding itself.
    ELSEWHERE = re.compile(
        rb"/wor[k]/|/op[t]/v|/roo[t]/|/home/[a]|/tm[p]/|file:/[/]/"
        rb"|pyp[i]\.org|pythonhoste[d]|registry\.npmj[s]|pytorch\.or[g]/whl|index-ur[l]"
    )

    def test_no_path_of_a_machine_and_no_address_of_a_registry(self):
        found = {
            str(path.relative_to(ROOT)): match[0].decode()
            for path in tracked()
            if (match := self.ELSEWHERE.search(path.read_bytes()))
        }
        assert found == {}

    def test_the_changelog_knows_the_version(self):
        assert f"## [{keras_layerwise.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


class TestExamples:
    @pytest.mark.parametrize("name", SOURCES)
    def test_docstrings_run(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # examples write to "logs"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0

    GIVEN = frozenset({"Assignment", "FrozenHyperparameterError", "RuleError"})  # users make none

    @pytest.mark.parametrize("name", sorted(keras_layerwise._MODULES.keys() - GIVEN))
    def test_every_public_name_has_one(self, name):
        assert ">>> " in getattr(keras_layerwise, name).__doc__


@pytest.mark.once
class TestReadme:
    TEXT = (ROOT / "README.md").read_text()

    def test_starts_with_the_two_commands_and_they_exist(self):
        block = re.search(r"```(?:bash|sh)\n(.*?)```", self.TEXT, re.DOTALL)
        commands = re.findall(r"^make (\S+)", block[1], re.MULTILINE)
        assert commands == ["demo", "test"]
        targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(re.findall(r"\bmake ([a-z][\w-]*)", self.TEXT)) <= set(targets)

    def test_links_and_pictures_are_absolute_and_lead_to_files(self):
        """PyPI shows the README without the repository around it."""
        links = re.findall(r"\]\(([^)]+)\)", self.TEXT)
        assert [link for link in links if not link.startswith("https://")] == []
        here = r"https://(?:raw\.)?github(?:usercontent)?\.com/keras-layerwise/keras-layerwise/"
        files = [re.sub(rf"{here}(?:(?:blob|tree)/)?main/|#.*", "", link) for link in links]
        files = [file for file in files if not file.startswith("https://")]
        assert len(files) > 5
        assert [file for file in files if not (ROOT / file).exists()] == []

    def test_the_figures_are_those_of_the_demonstration_and_the_benchmarks(self):
        rows = re.findall(r"^\| .+ \| .+ \| \d.+ \|$", self.TEXT, re.MULTILINE)
        assert len(rows) == 6 + 5
        pages = ("guides/keep-what-was-known.md", "benchmarks.md")
        figures = "".join((ROOT / "docs" / page).read_text() for page in pages)
        assert [row for row in rows if row.rstrip(" |") not in figures] == []
