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


class TestFace:
    def test_importing_loads_no_framework(self):
        assert loaded_by("import keras_layerwise; dir(keras_layerwise)") == set()

    def test_the_first_use_of_a_name_loads_its_module(self):
        assert "keras" in loaded_by("import keras_layerwise; keras_layerwise.WeightDrift")

    def test_no_module_takes_the_place_of_a_name_that_it_shares(self):
        code = f"import {', '.join(SOURCES)}; import types, keras_layerwise as kl; "
        code += "assert not [n for n in kl.__all__ if isinstance(getattr(kl, n), types.ModuleType)]"
        loaded_by(code)

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


class TestArrows:
    def test_no_cycle(self):
        try:
            TopologicalSorter(INNER).prepare()
        except CycleError as error:
            pytest.fail(f"modules import in a circle: {' -> '.join(error.args[1])}")

    def test_statistics_know_no_files(self):
        tree = ast.parse(SOURCES[part("drift.statistics")].read_text())
        assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"open"}
        assert not outside(part("drift.statistics")) & {"io", "os", "pathlib", "shutil", "tempfile"}
        assert not reached(part("drift.statistics")) & {
            part("storage.events"),
            part("storage.schema"),
            part("storage.record"),
        }

    @pytest.mark.parametrize("name", readers())
    def test_what_reads_knows_no_framework(self, name):
        assert not outside(name) & FRAMEWORKS

    def test_what_reads_loads_no_framework(self):
        assert loaded_by(f"import {', '.join(readers())}") == set()

    def test_values_meet_files_among_the_callbacks_only(self):
        joining = {
            name
            for name, found in INNER.items()
            if part("storage.events") in found
            and found & {part("drift.statistics"), part("storage.record")}
        }
        assert {name for name in joining if not name.startswith(part("callbacks."))} == set()

    def test_values_know_no_callbacks(self):
        callbacks = {name for name in SOURCES if name.startswith(part("callbacks."))}
        for name in SOURCES:
            if name.startswith((part("storage."), part("drift."))):
                assert not reached(name) & callbacks, name

    def test_only_the_tab_and_the_command_know_the_tab(self):
        knowing = {name for name, found in INNER.items() if any(map(is_tab, found))}
        assert {name for name in knowing if not is_tab(name)} <= {part("cli")}


def tracked():
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]


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
        files = [re.sub(rf"{here}(?:(?:blob|tree)/)?main/", "", link) for link in links]
        files = [file for file in files if not file.startswith("https://")]
        assert len(files) > 5
        assert [file for file in files if not (ROOT / file).exists()] == []

    def test_the_figures_are_those_of_the_benchmarks(self):
        rows = re.findall(r"^\| .+ \| .+ \| \d.+ \|$", self.TEXT, re.MULTILINE)
        assert len(rows) == 5
        figures = (ROOT / "docs" / "benchmarks.md").read_text()
        assert [row for row in rows if row.rstrip(" |") not in figures] == []
