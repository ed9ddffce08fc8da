"""For mkdocs: the site is this folder alone, so a link to what is above it becomes its text.

On the forge, where people read the same pages, such a link leads to the file.
"""

from __future__ import annotations

import re

OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./[^)\s]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page as the site has it."""
    return OUTSIDE.sub(r"\1", markdown)
