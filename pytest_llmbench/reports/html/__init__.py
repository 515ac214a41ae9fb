"""
The report as one HTML file that needs no network: tables, every row in detail, environments, trend.
"""

from __future__ import annotations

import base64
import datetime as dt
import gzip
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from pytest_llmbench import __version__
from pytest_llmbench.reports.html.held import held
from pytest_llmbench.reports.html.overview import counts, environments, failures, movements
from pytest_llmbench.reports.html.tables import table_views
from pytest_llmbench.reports.html.trend import ResultFile, in_order, trend
from pytest_llmbench.store.baselines import Baselines
from pytest_llmbench.store.published import PublishedTable
from pytest_llmbench.store.results import latest

__all__ = ["HtmlReportUnavailable", "ResultFile", "html_report", "why_unavailable"]

_MISSING = "the HTML report needs {}; pip install 'pytest-llmbench[report]'"


class HtmlReportUnavailable(ImportError):
    """A library that the report needs is not installed; the message says how to get it."""


def html_report(
    files: Sequence[ResultFile],
    *,
    store: Baselines | None,
    published: Mapping[str, PublishedTable],
    title: str = "LLM fine-tuning benchmark",
) -> str:
    """
    One page for a run, or for many: of results for the same row the newest counts, and all make the trend.

    Args:
        files: in any order.
        store: where the processes of the baselines are looked up; None to show medians only.
        published: by table, as `load_published` gives them; may be empty.

    Raises:
        HtmlReportUnavailable: jinja2 is not installed, or for a trend plotly.
    """
    files = in_order(files)
    results = latest(result for file in files for result in file.results)
    if told := why_unavailable():
        raise HtmlReportUnavailable(told)
    rows = list(held(results, store, published))
    tables = table_views(rows, published)
    surroundings = environments(rows)
    history = trend(files)
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_llmbench.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    dates = sorted(result.measurement.measured_at for result in results)
    return environment.get_template("report.html.j2").render(
        title=title,
        version=__version__,
        written=f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        first=dates[0][:10] if dates else "",
        last=dates[-1][:16].replace("T", " ") if dates else "",
        devices=sorted({now.device for result in results if (now := result.measurement.environment)}),
        scales=sorted({result.measurement.workload.scale for result in results}),
        files=files,
        counts=counts(tables),
        failures=failures(rows),
        movements=movements(rows),
        tables=tables,
        environments=surroundings,
        news=tuple(dict.fromkeys(one for environment in surroundings for one in environment.changed)),
        trend=history,
        plotly=_packed_plotly() if history else "",
    )


def _packed_plotly() -> str:
    """Plotly's script, compressed, in base64: the page unpacks it once somebody opens the chart."""
    if find_spec("plotly") is None:
        raise HtmlReportUnavailable(_MISSING.format("plotly"))
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode()


def why_unavailable() -> str | None:
    """Why no report can be made, known before there is anything to report; None if one can."""
    return None if find_spec("jinja2") else _MISSING.format("jinja2")
