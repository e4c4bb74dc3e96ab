"""Hook of mkdocs: fills each page of the API with the public names of some folders."""

import re

import keras_layerwise

MARK = re.compile(r"<!-- public names of (.+) -->")


def on_page_markdown(markdown, **_):
    """Puts an entry for each name where a page says ``<!-- public names of a, b -->``."""
    return MARK.sub(lambda found: entries(found[1].split(", ")), markdown)


def entries(folders):
    """An entry of mkdocstrings for each public name that is defined in one of `folders`."""
    names = [
        name
        for name, module in keras_layerwise._MODULES.items()
        if module.partition(".")[0] in folders
    ]
    return "\n\n".join(f"::: keras_layerwise.{name}" for name in names)
