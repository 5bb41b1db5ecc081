"""Words of tests and kernels inside Markdown, where their own signs mean nothing.

Pure. Imports the standard library alone.
"""

from __future__ import annotations

import re


def escaped(text: str) -> str:
    """Return a text as Markdown shows it: on one line, in a table too."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@" would call people of that name.
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", plain).replace("@", "@\u200b")


def code(text: str) -> str:
    """Return a text as code in Markdown, in a table too."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"
