"""The documentation as a site: ``tox -e docs``. The same pages can be read as Markdown where the repository is.

Links between pages are those of Markdown. What is outside of this folder is linked to in the repository, except the
pages in :data:`OUTSIDE`, of which the site has the text.
"""

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"))

project = "channels-admission"
author = project
version = release = re.search(r'__version__ = "(.+)"', (ROOT / project.replace("-", "_") / "__init__.py").read_text())[
    1
]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
# Text as GitHub shows it, without other quotation marks and dashes.
smartquotes = False
# Code that is only a part, such as one line of a dict or of a class, cannot be coloured.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"{project} {release}"
html_theme_options = {
    "source_repository": SETUP["repository"](),
    "source_branch": "HEAD",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}

LIST = re.compile(r"^\*\*([^*]+)\*\*: (\[.*?)\n\n", re.MULTILINE | re.DOTALL)
"""A list of pages on the first page: a part of the site's contents."""
OUTSIDE = {
    "install": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}
"""Pages in the root of the repository, by their names here."""
TITLES = {"install": "Install <install>"}
"""Entries of the contents for pages whose own title says something else."""
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s#:]+)(#[\w-]+)?\)")


def whole(link: re.Match[str], folder: Path) -> str:
    """The link of a page in ``folder`` as it leads from a page of the site."""
    text, path, anchor = link[1], link[2], link[3] or ""
    target = (folder / path).resolve()
    inside = {ROOT / outside: f"{name}.md" for name, outside in OUTSIDE.items()}
    if target in inside:
        return f"{text}({inside[target]}{anchor})"
    if target.is_relative_to(DOCS) and target.suffix in {".md", ".png"}:
        return f"{text}({target.relative_to(DOCS)}{anchor})"
    return f"{text}({SETUP['repository']()}/blob/HEAD/{target.relative_to(ROOT)}{anchor})"


def contents(index: str) -> str:
    """The contents of the site, from the lists of pages on the first page."""
    parts = [(name, re.findall(r"\(([\w-]+)\.md\)", pages)) for name, pages in LIST.findall(index)]
    parts = [(name, [TITLES.get(page, page) for page in pages]) for name, pages in parts]
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {name}", "", *pages, "```", ""]) for name, pages in parts
    )


def read(app, docname: str, source: list[str]) -> None:
    """Give the page its text, with the links of the site."""
    folder = DOCS
    if docname in OUTSIDE:
        folder = ROOT
        source[0] = (ROOT / OUTSIDE[docname]).read_text()
    source[0] = LINK.sub(lambda link: whole(link, folder), source[0])
    if docname == "index":
        source[0] += contents(source[0])


def setup(app) -> None:
    app.connect("source-read", read)
