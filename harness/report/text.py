"""Escapes texts for Markdown.

Pure.
"""

from __future__ import annotations

import re


def escaped(text: str) -> str:
    """Return a text escaped for Markdown, on one line; also valid in a table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@" would notify users of that name.
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", plain).replace("@", "@\u200b")


def code(text: str) -> str:
    """Return a text as code in Markdown; also valid in a table."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"
