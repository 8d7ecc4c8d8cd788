"""Commands about webhooks: who is told when a job ends."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from service.commands.jobs import moment
from service.commands.session import Json, print_json, print_line, print_rows, session

webhooks = typer.Typer(help="Who is told when a job ends.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="ID")]


@webhooks.command("add")
def add_webhook(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Where the end of a job is posted, http or https.")],
    collection: Annotated[list[str] | None, typer.Option(help="Only jobs of this one; repeatable.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only jobs of this kind; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Register a URL. Its secret, which signs what is posted, is shown once."""
    from data.state import check_name
    from service.addresses import check_url, resolve
    from service.jobs import WORK
    from service.webhooks import webhook_view

    for name in kind or ():
        if name not in WORK:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(WORK)}", param_hint="--kind")
    bound = [check_name(name, "collection name") for name in collection or ()]
    # Without the lock, so that one can be added while the server runs.
    with session(ctx).workspace() as workspace:
        host, port = check_url(url)
        resolve(host, port, workspace.settings.webhook_networks)
        made, secret = workspace.store.webhooks.add(url, bound, kind or ())
    if as_json:
        print_json({**webhook_view(made), "secret": secret})
    else:
        print_line(f"{made.id}  {secret}")


@webhooks.command("list")
def list_webhooks(ctx: typer.Context, as_json: Json = False) -> None:
    """List the webhooks, without their secrets."""
    from service.webhooks import webhook_view

    with session(ctx).workspace() as workspace:
        found = workspace.store.webhooks.list()
    if as_json:
        print_json([webhook_view(each) for each in found])
        return
    rows = [(w.id, w.url, ", ".join(w.collections) or "all", ", ".join(w.kinds) or "all") for w in found]
    print_rows(("id", "url", "collections", "kinds"), rows, "No webhooks: ragtune webhooks add URL")


@webhooks.command("delete")
def delete_webhook(ctx: typer.Context, webhook_id: WebhookId) -> None:
    """Forget a webhook and what was still to be delivered to it."""
    with session(ctx).workspace() as workspace:
        workspace.store.webhooks.delete(webhook_id)
    print_line(f"Webhook {webhook_id} is gone.")


@webhooks.command("log")
def show_notices(
    ctx: typer.Context,
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
) -> None:
    """Show what was delivered, what is tried again, and what was given up."""
    with session(ctx).workspace() as workspace:
        found = workspace.store.webhooks.notices(webhook_id, limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [(moment(n.created_at), n.event["type"], n.job_id, n.status, n.attempts, n.reply) for n in found]
    print_rows(("when", "what", "job", "status", "tries", "last reply"), rows, "Nothing to tell yet.")
