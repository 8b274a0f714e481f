"""How the reference reads the docstrings of fluxkeras."""

import re
from textwrap import dedent
from typing import Any

import griffe

SECTION = re.compile(r"^ *(Args:|Returns:|Example:|>>> )", re.MULTILINE)
SESSION = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
RETURNS = re.compile(r"^Returns:\n((?: +.*\n?|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Makes of them what mkdocstrings shows well."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if not obj.docstring:
            return
        if obj.parent and obj.parent.is_class and not SECTION.search(obj.docstring.value):
            obj.docstring = None  # a line for those who read the code
            return
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        text = SESSION.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
        # What is returned has no type before a colon, as mkdocstrings expects.
        obj.docstring.value = RETURNS.sub(
            lambda found: f"**Returns:**\n\n{dedent(found[1])}\n", text
        )

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        for parameter in func.parameters:
            if str(parameter.annotation) == "Any":
                parameter.annotation = None
            if parameter.kind in (
                griffe.ParameterKind.var_positional,
                griffe.ParameterKind.var_keyword,
            ):
                parameter.default = None

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        for name in mod.exports or ():
            other = str(getattr(mod.members[str(name)], "value", ""))
            if other in mod.members:  # ADAM = Adam
                mod.members[str(name)].docstring = griffe.Docstring(
                    f"Another name of [`{other}`][{mod.path}.{other}]."
                )
