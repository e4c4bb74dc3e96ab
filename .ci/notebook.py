"""Makes a guide a notebook and executes it.

A guide is a script in the form of Keras's own: a text in triple quotes at the
top level is a cell of Markdown, what stands between two of them is one of code.

    python .ci/notebook.py examples/guide_finetune_pretrained.py build/guide.ipynb
"""

import ast
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def cells(source):
    """The cells of a guide in order."""
    lines = source.splitlines(keepends=True)
    code_from = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from code("".join(lines[code_from : node.lineno - 1]))
            yield nbformat.v4.new_markdown_cell(node.value.value.strip())
            code_from = node.end_lineno
    yield from code("".join(lines[code_from:]))


def code(text):
    """A cell of code, or none where the text is empty."""
    if text.strip():
        yield nbformat.v4.new_code_cell(text.strip())


def main():
    """Writes the executed notebook."""
    guide, target = map(Path, sys.argv[1:])
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=list(cells(guide.read_text())), metadata=kernel)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Where the guide writes its logs.
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": target.parent}})
    client.execute()
    nbformat.write(notebook, target)
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if not shown:
        sys.exit(f"{target} shows no picture")
    print(f"{target}: {len(notebook.cells)} cells executed, {len(shown)} pictures")


if __name__ == "__main__":
    main()
