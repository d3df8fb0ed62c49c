"""What the documents say of the code, what the README is for PyPI, and what the site of the documentation holds."""

import re
import runpy
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import suppress
from pathlib import Path

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.dispatch import Signal

from channels_admission import signals
from channels_admission.core.counters import Reason
from channels_admission.status.words import NAMED_REASONS, NAMES

from support import ROOT
from support.reference import ADDRESSED, BLOCK, PAGES, REPOSITORY, SCHEMA_FILE, addressed, written_schema

DOCS = ROOT / "docs"
SETUP = runpy.run_path(str(ROOT / "setup.py"))
URL = SETUP["repository"]()
INSIDE = rf"{re.escape(URL)}/(?:blob|raw)/HEAD/([\w./-]+\w)(?:#([\w-]+))?"
"""An address of a file of the repository, and of a place in it."""
COMMANDS = sorted(path.stem for path in (ROOT / "channels_admission/management/commands").glob("ws_*.py"))


def texts_of_the_repository() -> Iterator[tuple[str, str]]:
    """The name and the text of each file that is kept."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        with suppress(UnicodeDecodeError, FileNotFoundError):
            yield name, (ROOT / name).read_text(encoding="utf-8")


# The reference


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_from_the_code_is_up_to_date(page):
    (block,) = BLOCK.findall((DOCS / page).read_text())
    assert block == PAGES[page](), "python -m support.reference in tests/ writes it"


def test_the_schema_is_up_to_date():
    assert SCHEMA_FILE.read_text() == written_schema(), "python -m support.reference in tests/ writes it"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_commands_tells_every_option(name):
    parser = load_command_class("channels_admission", name).create_parser("manage.py", name)
    everywhere = set(BaseCommand().create_parser("manage.py", name)._option_string_actions)
    options = [names for action in parser._actions if (names := set(action.option_strings) - everywhere)]
    row = "\n".join(re.findall(rf"^\| (?=.*`{name}\b).*$", (DOCS / "commands.md").read_text(), re.MULTILINE))
    told = set(re.findall(r"(?<![\w-])--?[\w-]+", row))
    assert [names for names in options if not names & told] == []


def test_the_page_of_signals_tells_each_with_what_it_is_sent_with():
    names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}
    told = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", (DOCS / "signals.md").read_text(), re.MULTILINE)
    assert {name for row in told for name in re.findall(r"\w+", row)} == names


def test_the_page_of_symptoms_has_every_reason_in_the_words_that_are_shown():
    page = (DOCS / "troubleshooting.md").read_text()
    kinds = [*Reason, "lag", "memory", "descriptors"]
    assert [kind for kind in kinds if f"`{kind}`, *{NAMES['reason'][kind]}*" not in page] == []
    for prefix, words in NAMED_REASONS.items():
        assert f"`{prefix}NAME`, *{words.format(name='NAME')}*" in page


# The README on PyPI


def test_every_link_of_the_long_description_is_whole():
    text = SETUP["absolute"]((ROOT / "README.md").read_text(), URL)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
    within = [(picture, link.removeprefix(URL)) for picture, link in links if link.startswith(URL)]
    assert len(within) > 20
    assert [link for _, link in links if not link.startswith(("https://", "#"))] == []
    for picture, link in within:
        kind, path = re.fullmatch(r"/(raw|blob)/HEAD/([^#]+)(?:#[\w-]+)?", link).groups()
        assert kind == ("raw" if picture else "blob")
        assert (ROOT / path).is_file()
    assert f"]({URL}/blob/HEAD/docs/clients.md#in-the-browser)" in text


def test_the_address_of_the_repository_is_told_from_one_place():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    addresses = re.findall(r"https://\S+", config["metadata"]["project_urls"])
    assert [address for address in addresses if not address.startswith(URL)] == []
    assert len(addresses) == 4
    assert (ROOT / "setup.cfg").read_text().count(URL) == 1
    telling = {name: text for name, text in texts_of_the_repository() if REPOSITORY.search(text) or URL in text}
    assert sorted(telling) == sorted([*ADDRESSED, "setup.cfg"])
    for name in ADDRESSED:
        assert telling[name] == addressed(telling[name], URL), "python -m support.reference in tests/ writes it"
        assert URL not in addressed(telling[name], "https://example.org/it"), f"{name} would keep the old address"
    assert f"pip install 'git+{URL}'" in telling["README.md"]


def test_every_address_within_the_repository_leads_to_a_file_and_a_place_in_it():
    found = {link for name, text in texts_of_the_repository() for link in re.findall(INSIDE, text)}
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    found |= set(re.findall(INSIDE, config["metadata"]["project_urls"]))
    assert len(found) > 20
    for path, anchor in found:
        assert (ROOT / path).is_file(), path
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"\W", "-", heading.lower()) for heading in headings}, (path, anchor)


# The site


def test_the_first_page_lists_every_page():
    pages = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    lists = runpy.run_path(str(DOCS / "conf.py"))["LIST"].findall((DOCS / "index.md").read_text())
    listed = [page for _, pages in lists for page in re.findall(r"\(([\w-]+\.md)\)", pages)]
    assert sorted(listed) == sorted(pages)
    assert [name for name, _ in lists] == ["Start", "How to", "Reference", "Explanation", "Project"]


def test_tox_builds_the_site_with_the_extra_docs():
    setup, tox = ConfigParser(interpolation=None), ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    tox.read(ROOT / "tox.ini")
    assert tox["testenv:docs"]["deps"].split() == setup["options.extras_require"]["docs"].split()


def test_the_site_has_the_links_of_the_markdown():
    conf = runpy.run_path(str(DOCS / "conf.py"))

    def led(markdown: str, folder: Path = DOCS) -> str:
        return conf["LINK"].sub(lambda link: conf["whole"](link, folder), markdown)

    assert (
        led("[a](docs/clients.md#in-python), ![b](docs/demo.png)", ROOT) == "[a](clients.md#in-python), ![b](demo.png)"
    )
    assert (
        led("[a](../CHANGELOG.md) and [b](../SECURITY.md#tickets)") == "[a](changelog.md) and [b](security.md#tickets)"
    )
    assert led("[a](../tests/oldest.txt)") == f"[a]({URL}/blob/HEAD/tests/oldest.txt)"
    assert led("[a](https://example.org/a.md), [b](#here)") == "[a](https://example.org/a.md), [b](#here)"
