"""Examples assert what they claim; every block of code in README and docs runs."""

import ast
import importlib.util
import re
import runpy
from pathlib import Path

import keras
import pytest

import keras_layerwise
from keras_layerwise.drift.statistics import STATISTICS

ROOT = Path(__file__).parents[1]
# The demonstration on digits has a test of its own, the guide is executed as a notebook.
EXAMPLES = sorted(
    path.stem
    for path in ROOT.glob("examples/*.py")
    if path.stem != "finetune_digits" and not path.stem.startswith("guide_")
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_holds_what_it_claims(name, scripts):
    if name == "rules_after_reload" and not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("shows what MultiOptimizer does, which this Keras does not have")
    if name.endswith("_sink") and not importlib.util.find_spec(name.removesuffix("_sink")):
        pytest.skip(f"needs {name.removesuffix('_sink')}")
    path = ROOT / "examples" / f"{name}.py"
    # One that sets what the backend reads when it starts needs a process of its own.
    if "os.environ[" not in path.read_text() and not name.endswith("_sink"):
        runpy.run_path(str(path), run_name="__main__")
        return
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    (done,) = scripts.run((code, path))
    assert done.returncode == 0, done.stderr


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCKS = {
    str(path.relative_to(ROOT)): re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    for path in PAGES
}


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Its blocks in order, as a reader runs them: later ones use names of earlier ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(BLOCKS[page], 1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


def private_imports(code):
    """What code takes from the package beside its public names."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        public = {"keras_layerwise", *(f"keras_layerwise.{n}" for n in keras_layerwise.__all__)}
        yield from (n for n in names if n.startswith("keras_layerwise") and n not in public)


def test_examples_and_docs_use_public_names_only():
    code = {path.name: [path.read_text()] for path in ROOT.glob("examples/*.py")} | BLOCKS
    assert len(code) > 20
    found = {
        name: [private for block in blocks for private in private_imports(block)]
        for name, blocks in code.items()
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_every_guide_has_code():
    guides = {page for page in BLOCKS if page.startswith("docs/guides/")}
    assert guides
    assert {page for page in guides if not BLOCKS[page]} == set()


def test_the_api_has_the_names_of_every_folder_once():
    text = "".join(path.read_text() for path in ROOT.glob("docs/api/*.md"))
    shown = re.findall(r"<!-- public names of (.+) -->", text)
    folders = [folder for line in shown for folder in line.split(", ")]
    assert len(folders) == len(set(folders))
    assert {module.partition(".")[0] for module in keras_layerwise._MODULES.values()} <= {*folders}


def test_the_docs_table_of_statistics_is_the_code_s():
    table = (ROOT / "docs" / "runs.md").read_text()
    rows = [
        f"| `{found.name}` | {found.formula.replace('|', chr(92) + '|')} | {found.unit} |"
        for found in STATISTICS.values()
    ]
    assert [row for row in rows if row not in table] == []
