"""Prints the lower bounds of the dependencies and of one extra as constraints for pip.

python .ci/oldest.py tensorflow > constraints.txt
"""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w-]+)>=([\d.]+)")


def bounds(project, extra):
    """The lower bound of each name; the highest, where the extra raises the package's own."""
    found = {}
    for requirement in project["dependencies"] + project["optional-dependencies"][extra]:
        if bound := BOUND.match(requirement):
            found[bound[1]] = max(found.get(bound[1], ""), bound[2], key=_numbers)
    return found


def _numbers(version):
    return tuple(int(part) for part in version.split(".") if part)


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(path.read_text())["project"]
    for name, version in bounds(project, sys.argv[1]).items():
        print(f"{name}=={version}")
