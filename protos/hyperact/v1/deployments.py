"""The deployment ledger: one entry per alias move, kept as tags of the registered model.

An entry is the tag "hyperact.deployment.NNNNNN" with the JSON form of hyperact.v1.Deployment. Whoever moves the alias
writes it; whoever finds the alias moved without one (the service, after a move by the MLflow page) writes it as
"observed". Writers compute the entry from the tags alone, so two of them that see the same tags write the same number
and the later one only adds detail.

Each role has its own alias and its own chain of from and to; the numbers run over all roles. What stands is read from
the last entry of a role: a challenger's share, and whether the kill switch was thrown.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from google.protobuf import json_format

from hyperact.v1.deployment_pb2 import Deployment, DeploymentRole

tag_prefix = "hyperact.deployment."
observed = "observed"
challenger_alias, shadow_alias = "challenger", "shadow"
CHAMPION = DeploymentRole.DEPLOYMENT_ROLE_CHAMPION
CHALLENGER = DeploymentRole.DEPLOYMENT_ROLE_CHALLENGER
SHADOW = DeploymentRole.DEPLOYMENT_ROLE_SHADOW
alias_of = {CHALLENGER: challenger_alias, SHADOW: shadow_alias}
"""The aliases of the roles beside the champion, whose alias is a setting."""


def read_ledger(tags: Mapping[str, str]) -> list[Deployment]:
    """Return the ledger's entries by number. Tags that are not entries are passed over."""
    entries = []
    for name, value in tags.items():
        if name.startswith(tag_prefix):
            try:
                entry = json_format.Parse(value, Deployment(), ignore_unknown_fields=True)
            except json_format.ParseError:
                continue
            if entry.number and name == _tag_name(entry):
                entries.append(entry)
    return sorted(entries, key=lambda entry: entry.number)


def to_tag(entry: Deployment) -> tuple[str, str]:
    """Return the tag's name and value for an entry."""
    return _tag_name(entry), json_format.MessageToJson(entry, indent=None)


def role_of(entry: Deployment) -> "DeploymentRole.ValueType":
    """Return what an entry's version was deployed as."""
    return entry.role or CHAMPION


def last_of(ledger: Sequence[Deployment], role: "DeploymentRole.ValueType") -> Deployment | None:
    """Return the last entry of a role, or None."""
    return next((entry for entry in reversed(ledger) if role_of(entry) == role), None)


def entry_for(
    ledger: Sequence[Deployment],
    to_version: str,
    actor: str,
    time: datetime,
    role: "DeploymentRole.ValueType" = CHAMPION,
) -> Deployment:
    """Return the entry of a role's alias standing at `to_version`: the last one if it says so already, else a new one.

    A last entry that was only observed takes on the name of the actor who claims it.
    """
    last = last_of(ledger, role)
    if last is None or last.to_version != to_version:
        return new_entry(ledger, to_version, actor, time, role)
    entry = Deployment()
    entry.CopyFrom(last)
    if last.actor == observed:
        entry.actor = actor
    return entry


def new_entry(
    ledger: Sequence[Deployment], to_version: str, actor: str, time: datetime, role: "DeploymentRole.ValueType"
) -> Deployment:
    """Return the next entry of a ledger, whatever its last one says."""
    last = last_of(ledger, role)
    entry = Deployment(
        number=ledger[-1].number + 1 if ledger else 1,
        from_version=last.to_version if last is not None else "",
        to_version=to_version,
        actor=actor,
        role=role,
    )
    entry.time.FromDatetime(time)
    return entry


def standing_kill(ledger: Sequence[Deployment]) -> Deployment | None:
    """Return the kill switch's entry if the champion's last one is that; None if it was not thrown, or was lifted."""
    last = last_of(ledger, CHAMPION)
    return last if last is not None and last.is_immediate else None


def standing_share(ledger: Sequence[Deployment], version: str) -> float:
    """Return the share of sessions that the ledger grants the version at which the challenger's alias stands."""
    last = last_of(ledger, CHALLENGER)
    return last.share if last is not None and version and last.to_version == version else 0.0


def _tag_name(entry: Deployment) -> str:
    return f"{tag_prefix}{entry.number:06d}"
