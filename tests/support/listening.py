"""The test project with receivers of its verdicts, that write each to the log; one of them always fails."""

from django.dispatch import receiver

from channels_admission.signals import connection_admitted, connection_refused

from project.asgi import application as application


@receiver(connection_admitted)
@receiver(connection_refused)
def fail(**details):
    raise RuntimeError("as ever")


@receiver(connection_admitted)
def note(pool, worker, **details):
    print(f"admitted to {pool} by {worker}", flush=True)


@receiver(connection_refused)
async def anote(pool, reason, retry_after, **details):
    print(f"refused by {pool} for {reason}, for {retry_after:.0f} s", flush=True)
