"""The code of the README and of the documentation, taken as it stands, makes projects that do what the text says.

Each is checked and served by uvicorn with two workers. Only names and numbers of the reader's own are replaced.
"""

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support import TESTS
from support.snippets import Project, Remove, Run, Write, steps
from support.waiting import eventually

CLEAN = "System check identified no issues (0 silenced)."
REFUSAL = re.compile(r"Try Again Later; ticket=[\w-]{24}; retry-after=\d+(\.\d)?")
BEFORE = ("python3 -m venv", "pip install")
"""Commands that have been done for the tests."""


@dataclass
class Visitor:
    """One client: open once its message has come back, or refused."""

    socket: ClientConnection
    answer: str | None = None

    @property
    def code(self) -> int | None:
        return self.socket.close_code

    @classmethod
    async def enter(cls, project: Project, **headers: str) -> "Visitor":
        address = f"127.0.0.1:{project.port}"
        options = {"origin": f"http://{address}", "additional_headers": headers, "ping_interval": None}
        visitor = cls(await connect(f"ws://{address}/ws/chat/", **options))
        try:
            await visitor.socket.send("hello")
            visitor.answer = str(await asyncio.wait_for(visitor.socket.recv(), 10))
        except ConnectionClosed:
            pass
        return visitor


async def fills(project: Project, limit: int) -> None:
    """As many clients as the limit allows are served, and the next one is refused with 1013."""
    visitors = [await Visitor.enter(project) for _ in range(limit + 1)]
    *inside, outside = visitors
    assert [visitor.answer for visitor in inside] == ["hello"] * limit
    assert (outside.answer, outside.code) == (None, 1013)
    assert REFUSAL.fullmatch(outside.socket.close_reason)
    for visitor in inside:
        await visitor.socket.close()


def test_the_readme_and_the_tutorial_have_the_same_application():
    readme, tutorial = (
        [step.code for step in steps(page) if isinstance(step, Write) and step.name == "mysite/asgi.py"]
        for page in ("README.md", "docs/tutorial.md")
    )
    assert len(readme) == 1
    assert readme == tutorial


async def test_the_readme_makes_a_site_that_refuses_the_third_of_two(tmp_path):
    with Project.with_a_chat(tmp_path, {"5000": "2"}) as project:
        project.follow("README.md")
        assert '"DRY_RUN"' not in (tmp_path / "mysite" / "settings.py").read_text()
        assert project.check() == CLEAN
        project.serve()
        await fills(project, 2)


async def test_the_mixin_has_the_pool_that_the_settings_beside_it_declare(tmp_path):
    with Project.with_a_chat(tmp_path, {"500}": "1}"}) as project:
        project.follow("README.md")
        project.follow("docs/asgi.md")
        routing = tmp_path / "chat" / "routing.py"
        routing.write_text(routing.read_text().replace("Echo", "ChatConsumer"))
        consumers = tmp_path / "chat" / "consumers.py"
        echo = "\n    async def receive(self, text_data):\n        await self.send(text_data)\n"
        consumers.write_text(consumers.read_text() + echo)
        assert project.check() == CLEAN
        project.serve()
        await fills(project, 1)


def follow_the_tutorial(project: Project) -> list[str]:
    """Do what the page says, step by step, up to the last program; return the commands."""
    done = []
    for step in steps("docs/tutorial.md"):
        if isinstance(step, Write):
            project.write(step)
        elif isinstance(step, Remove):
            project.remove(step)
        elif isinstance(step, Run) and not step.command.startswith(BEFORE):
            done.append(step.command)
            if step.command.startswith("uvicorn"):
                project.serve(step.command)
            elif step.output:
                assert project.shows(step)
            else:
                project.run(step.command)
    return done


async def test_the_tutorial_goes_as_it_says(tmp_path, redis_server):
    with Project(tmp_path, redis_server) as project:
        done = await asyncio.to_thread(follow_the_tutorial, project)
        assert done.count("uvicorn mysite.asgi:application --workers 2") == 2
        assert done.count("python knock.py") == 2
        logs = [tmp_path / f"{number}.log" for number in range(3)]
        with (
            project.started("python stay.py", logs[0]),
            project.started("python stay.py", logs[1]),
            project.started("python stay.py", logs[2]),
        ):
            # A place that was promised to the last refused client may keep one of the first two waiting.
            await eventually(lambda: two_are_in_and_one_waits(logs), seconds=20)


def two_are_in_and_one_waits(logs: list[Path]) -> bool:
    texts = [log.read_text() for log in logs]
    outside = [text for text in texts if "I am in." not in text]
    return len(outside) == 1 and "Back in " in outside[0]


async def users(project: Project, number: int) -> list[str]:
    """The session cookies of users that are logged in."""
    program = f"{sys.executable} {TESTS / 'support' / 'logins.py'} {number}"
    env_of_the_site = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
    return json.loads(await asyncio.to_thread(project.run, program, env=env_of_the_site))


async def test_quotas_and_deadlines_of_the_documents_know_the_user_of_the_readmes_application(tmp_path):
    """A deadline that closed users who were logged in, and a quota of users that counted none, were in the README."""
    with Project.with_a_chat(tmp_path, {'"PENDING_DEADLINE": 10': '"PENDING_DEADLINE": 1'}) as project:
        project.follow("README.md")
        project.follow("docs/fairness.md")
        assert project.check() == CLEAN
        (cookie,) = await users(project, 1)
        project.serve()
        headers = {"Cookie": f"sessionid={cookie}"}
        unknown = await Visitor.enter(project)
        known = [await Visitor.enter(project, **headers) for _ in range(5)]
        assert [visitor.answer for visitor in known] == ["hello"] * 5

        async def one_more_comes_in() -> bool:
            return (await Visitor.enter(project, **headers)).answer == "hello"

        # Until a new pool has settled, a quota that closes the oldest connection refuses. The deadline passes by then.
        await eventually(one_more_comes_in, seconds=15, every=1)
        await eventually(lambda: (unknown.code, known[0].code) == (1008, 4409))
        assert [visitor.code for visitor in known[1:]] == [None] * 4
