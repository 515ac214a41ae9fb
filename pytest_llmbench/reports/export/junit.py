"""JUnit XML as CI servers read it: a test case per row, its verdict and metrics as properties."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from pytest_llmbench.reports.export.values import series
from pytest_llmbench.store.results import Result

__all__ = ["export"]

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""What XML 1.0 has no way to write."""


def export(results: Sequence[Result]) -> str:
    """One test suite; a row that failed has a `failure`, one that was skipped a `skipped`."""
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name="llmbench",
        tests=str(len(results)),
        failures=str(sum(result.decision == "fail" for result in results)),
        errors="0",
        skipped=str(sum(result.decision == "skip" for result in results)),
        time=f"{sum(result.seconds or 0.0 for result in results):.3f}",
    )
    for result in results:
        _add(suite, result)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=_clean(result.table), name=_clean(result.row), time=f"{result.seconds or 0.0:.3f}"
    )
    properties = ET.SubElement(case, "properties")
    told = {
        "llmbench_verdict": result.told,
        "llmbench_outcome": result.measurement.outcome,
        **{f"llmbench_{one.name}": repr(statistics.median(one.values)) for one in series(result)},
    }
    if result.verdict.package_changes:
        told["llmbench_package_changes"] = "; ".join(map(str, result.verdict.package_changes))
    environment = result.measurement.environment
    if environment is not None and environment.repository is not None:
        told["llmbench_repository"] = str(environment.repository)
    if environment is not None and environment.ci is not None:
        told["llmbench_ci_run"] = str(environment.ci)
    for name, value in told.items():
        ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    if result.decision != "pass":
        text = result.message or result.verdict.reason
        tag = "failure" if result.decision == "fail" else "skipped"
        element = ET.SubElement(case, tag, message=_clean(text.partition("\n")[0]))
        element.text = _clean(text)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
