"""Commands that change an adapter's stage, and the log of all such changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service import promotion
from service.arms import adapter_label, find_adapter
from service.commands.adapters import Name, adapters
from service.commands.jobs import moment
from service.commands.session import (
    FAILED,
    Collection,
    Json,
    cli_actor,
    print_fields,
    print_json,
    print_line,
    session,
)
from service.lineage import stale_because
from service.policy import Decision, load_policy
from service.views import adapter_view

commands = adapters
"""The group ``ragtune adapters``, with the commands below in it."""

Reason = Annotated[str, typer.Option("--reason", help="Why, for the log.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="A TOML file; RAGTUNE_PROMOTION_POLICY, else the packaged one.")
]


@adapters.command("promote")
def promote_adapter(
    ctx: typer.Context,
    *,
    name: Name,
    policy: PolicyFile = None,
    force: Annotated[bool, typer.Option("--force", help="Though the policy says no; say why with --reason.")] = False,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the policy decides.")] = False,
    as_json: Json = False,
) -> None:
    """Let an adapter serve if the policy lets it; the one before it is retired."""
    with session(ctx).workspace(mutates=not dry_run, promotion_policy=policy) as workspace:
        rules = load_policy(workspace.settings.promotion_policy)
        workspace.ensure_starter_adapters()
        if dry_run:
            adapter = find_adapter(workspace.store, name)
            _show_decision(promotion.decision_on(workspace.store, adapter, rules), as_json)
            return
        stale = workspace.settings.refuse_stale_adapters
        gate = promotion.Gate(rules, refuse_stale=stale, force=force, actor=cli_actor(), reason=reason)
        done = promotion.promote(workspace.store, workspace.model, name, gate=gate)
        is_it = stale_because(workspace.store, done.live)
    _tell(done, is_it, as_json)


def _show_decision(decision: Decision, as_json: bool) -> None:
    if as_json:
        print_json(decision.view())
    else:
        verdict = "may serve" if decision.promote else "may not serve"
        print_line(f"{decision.candidate} {verdict} in place of {decision.incumbent}.")
        _print_reasons(decision)
    if not decision.promote:
        raise typer.Exit(FAILED)


def _print_reasons(decision: Decision) -> None:
    for reason in decision.reasons:
        print_line(f"  {reason}")


def _tell(done: promotion.Promotion, stale: Sequence[str], as_json: bool) -> None:
    before = adapter_label(done.before) if done.before else None
    if as_json:
        decision = done.decision.view() if done.decision else None
        print_json({**adapter_view(done.live, stale=stale), "before": before, "decision": decision})
        return
    print_line(f"{adapter_label(done.live)} is live{f', in place of {before}' if before else ''}.")
    if done.decision is not None:
        _print_reasons(done.decision)


@adapters.command("rollback")
def rollback_adapter(
    ctx: typer.Context, collection: Collection = "default", reason: Reason = "", as_json: Json = False
) -> None:
    """Let the adapter answer again that answered in the collection before."""
    with session(ctx).workspace(mutates=True) as workspace:
        done = promotion.rollback(workspace.store, workspace.model, collection, actor=cli_actor(), reason=reason)
        stale = stale_because(workspace.store, done.live)
    _tell(done, stale, as_json)


@adapters.command("shadow")
def shadow_adapter(ctx: typer.Context, name: Name, reason: Reason = "", as_json: Json = False) -> None:
    """Let an adapter answer a share of the real questions in the shadow: nobody sees it, it is compared."""
    with session(ctx).workspace(mutates=True) as workspace:
        workspace.ensure_starter_adapters()
        done = promotion.shadow(workspace.store, workspace.model, name, actor=cli_actor(), reason=reason)
        share = load_policy(workspace.settings.promotion_policy).shadow.share
    if as_json:
        print_json(adapter_view(done))
    else:
        print_line(
            f"{adapter_label(done)} answers {share:.0%} of the questions in the shadow while ragtune serve runs."
        )


@adapters.command("retire")
def retire_adapter(ctx: typer.Context, name: Name, reason: Reason = "", as_json: Json = False) -> None:
    """Take an adapter out of service; if it was live, answers come without one afterwards."""
    with session(ctx).workspace(mutates=True) as workspace:
        done = promotion.retire(workspace.store, name, actor=cli_actor(), reason=reason)
    if as_json:
        print_json(adapter_view(done))
    else:
        print_line(f"{adapter_label(done)} is retired.")


@adapters.command("log")
def show_log(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only of this NAME, NAME@VERSION or collection.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
) -> None:
    """Show who let what serve or refused it, and why: adapters, index generations, tuned retrievers."""
    with session(ctx).workspace() as workspace:
        rows = workspace.store.stages.list(subject=name, limit=limit)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    for row in rows:
        stages = f"{row.before or 'none'} → {row.after or 'none'}"
        print_line(
            f"{moment(row.created_at)}  {row.kind} {row.subject} {row.event} ({stages}) by {row.actor or 'ragtune'}"
        )
        if row.reason:
            print_line(f"    {row.reason}")
    if not rows:
        print_line("Nothing was promoted yet.")


@adapters.command("policy")
def show_policy(ctx: typer.Context, policy: PolicyFile = None, as_json: Json = False) -> None:
    """Show the promotion policy that applies."""
    settings = session(ctx).settings(promotion_policy=policy)
    rules = asdict(load_policy(settings.promotion_policy))
    if as_json:
        # JSON has no infinity: a bound that is none is null, as over HTTP.
        print_json({s: {k: None if v == math.inf else v for k, v in keys.items()} for s, keys in rules.items()})
    else:
        print_fields({f"{section}.{key}": value for section, keys in rules.items() for key, value in keys.items()})
