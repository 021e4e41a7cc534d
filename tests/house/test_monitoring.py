"""The rules and the dashboard name only metrics and labels that there are. What there is stands in docs/operations.md,
whose table is compared with a running service elsewhere.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

docs = Path(__file__).parents[2] / "docs"
target_labels = {"instance", "job"}
# What Prometheus makes of a histogram, and the labels that each part has beside the histogram's own.
parts_of_histogram = {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}


def documented() -> dict[str, set[str]]:
    """Return the labels of every time series that the service exposes."""
    series: dict[str, set[str]] = {}
    for row in re.findall(
        r"^\| `(hyperact_\w+)` \| (.*?) \| .*\((\w+)\) \|$", (docs / "operations.md").read_text(), re.MULTILINE
    ):
        name, labels, kind = row[0], set(re.findall(r"`(\w+)`", row[1])) | target_labels, row[2]
        if kind == "histogram":
            series |= {name + part: labels | extra for part, extra in parts_of_histogram.items()}
        else:
            series[name] = labels
    return series


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    groups = yaml.safe_load((docs / "monitoring/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return every panel of the dashboard."""
    dashboard: dict[str, Any] = json.loads((docs / "monitoring/dashboard.json").read_text())
    return list(dashboard["panels"])


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield the metrics that an expression selects, with the labels that it matches, and groups them by."""
    if isinstance(node, promql_parser.MatrixSelector):
        node = node.vector_selector
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name or "", {matcher.name for matcher in node.matchers.matchers}
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.AggregateExpr):
        grouped = set(node.modifier.labels) if node.modifier else set()
        for name, labels in selectors(node.expr):
            yield name, labels | grouped


expressions = {
    **{f"rule {rule.get('record') or rule['alert']}": rule["expr"] for rule in rules()},
    **{
        f"panel {panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
    },
}


@pytest.mark.parametrize("name", expressions)
def test_it_names_only_what_there_is(name: str) -> None:
    """No rule is silent, and no panel empty, because somebody misspelt a metric or a label."""
    known = documented() | {
        rule["record"]: {"model", "stage", "version", "code"} for rule in rules() if "record" in rule
    }
    # Grafana fills its variables in before Prometheus sees them.
    found = list(selectors(promql_parser.parse(expressions[name].replace("$model", "default"))))

    assert found
    for metric, labels in found:
        assert metric in known
        assert labels <= known[metric], metric


def test_a_misspelt_metric_would_be_found() -> None:
    """The check above can fail."""
    (found,) = selectors(promql_parser.parse("sum by (colour) (rate(hyperact_decision_total[1m]))"))

    assert ("hyperact_decision_total", {"colour"}) == found
    assert found[0] not in documented()


def test_every_alert_tells_a_person_what_it_is() -> None:
    """Whoever is woken reads what is wrong, and whether it could have waited."""
    alerts = [rule for rule in rules() if "alert" in rule]

    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]


def test_a_template_uses_only_labels_that_its_alert_has() -> None:
    """A summary never says "<no value>"."""
    for rule in rules():
        used = set(re.findall(r"\$labels\.(\w+)", rule.get("annotations", {}).get("summary", "")))
        for _, labels in selectors(promql_parser.parse(rule["expr"])):
            is_grouped = "by" in rule["expr"]
            name = next(iter(selectors(promql_parser.parse(rule["expr"]))))[0]
            has = labels if is_grouped else documented().get(name, {"model", "stage"})
            assert used <= has, rule.get("alert")


def test_the_dashboard_shows_every_part_of_a_decision() -> None:
    """What a person looks for first is there: rate, errors, latency by stage, batches, pins, swaps, the log."""
    shown = " ".join(expressions.values())

    for metric in documented():
        if metric.endswith(("_sum", "_count")) or metric in {"hyperact_log_removed_records", "hyperact_log_set_aside"}:
            continue
        if metric.startswith(
            ("hyperact_decision", "hyperact_pinned", "hyperact_swap", "hyperact_log", "hyperact_ready")
        ):
            assert metric in shown
