"""Logs users of a fresh database of the test project in, and prints their session cookies; run as a program."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(users: int) -> None:
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    cookies = []
    for number in range(users):
        user = get_user_model().objects.create_user(f"user{number}")
        client = Client()
        client.force_login(user)
        cookies.append(client.cookies["sessionid"].value)
    print(json.dumps(cookies))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "testproject")]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    main(int(sys.argv[1]))
