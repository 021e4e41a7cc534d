"""The deployment ledger: one entry per alias move, kept as tags of the registered model.

An entry is the tag "hyperact.deployment.NNNNNN" with the JSON form of hyperact.v1.Deployment. Whoever moves the alias
writes it; whoever finds the alias moved without one (the service, after a move by the MLflow page) writes it as
"observed". Writers compute the entry from the tags alone, so two of them that see the same tags write the same number
and the later one only adds detail.
"""

from collections.abc import Mapping
from datetime import datetime

from google.protobuf import json_format

from hyperact.v1.deployment_pb2 import Deployment

tag_prefix = "hyperact.deployment."
observed = "observed"


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


def entry_for(ledger: list[Deployment], to_version: str, actor: str, time: datetime) -> Deployment:
    """Return the entry of the alias standing at `to_version`: the last one if it says so already, else a new one.

    A last entry that was only observed takes on the name of the actor who claims it.
    """
    last = ledger[-1] if ledger else Deployment()
    entry = Deployment()
    if last.number and last.to_version == to_version:
        entry.CopyFrom(last)
        if last.actor == observed:
            entry.actor = actor
        return entry
    entry.number = last.number + 1
    entry.from_version = last.to_version
    entry.to_version = to_version
    entry.actor = actor
    entry.time.FromDatetime(time)
    return entry


def _tag_name(entry: Deployment) -> str:
    return f"{tag_prefix}{entry.number:06d}"
