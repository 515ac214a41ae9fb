"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const filter = document.getElementById("filter");
  const chips = all(".chips .chip");
  const bodies = all("tbody.row");

  const told = (count) => `${count} ${count === 1 ? "row" : "rows"}`;

  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.status));
    const matches = (element) => wanted.has(element.dataset.status) && words.every((word) => element.dataset.search.includes(word));
    let shown = 0;
    for (const table of all("section.table")) {
      const rows = all("tbody.row", table);
      const here = rows.filter((row) => !(row.hidden = !matches(row))).length;
      table.hidden = here === 0;
      table.querySelector(".tally").textContent = here === rows.length ? told(here) : `${here} of ${told(rows.length)}`;
      shown += here;
    }
    for (const row of all(".trend tbody tr")) row.hidden = !matches(row);
    document.getElementById("nothing").hidden = shown > 0 || bodies.length === 0;
    document.getElementById("shown").textContent = `${told(shown)} shown`;
  };
  filter.addEventListener("input", show);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      show();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      filter.focus();
    }
  });

  const open = (body, wanted) => {
    const button = body.querySelector(".open");
    if (!button) return;
    button.setAttribute("aria-expanded", String(wanted));
    const detail = body.querySelector(".detail");
    const late = detail.querySelector("noscript");
    if (wanted && late) late.parentNode.innerHTML = late.textContent; // escaped as the rest of the page
    detail.hidden = !wanted;
  };
  for (const body of bodies) {
    const button = body.querySelector(".open");
    if (button) button.addEventListener("click", () => open(body, button.getAttribute("aria-expanded") !== "true"));
  }
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.matches("tbody.row")) return;
    target.hidden = false;
    target.closest("section").hidden = false;
    open(target, true);
    target.scrollIntoView();
    target.querySelector(".open")?.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", follow);

  const key = (body, column) => body.querySelector(".line").children[column].dataset.sort;
  const compare = (one, other) => {
    if (one === other) return 0;
    if (one === "" || other === "") return one === "" ? 1 : -1;
    const numbers = [Number(one), Number(other)];
    return numbers.some(Number.isNaN) ? one.localeCompare(other, "en", { numeric: true }) : numbers[0] - numbers[1];
  };
  for (const button of all(".rows .sort")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const table = header.closest("table");
      const column = [...header.parentNode.children].indexOf(header);
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of all("th", header.parentNode)) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = all("tbody.row", table).sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        const order = compare(a, b);
        return down && a !== "" && b !== "" ? -order : order; // what has no value stays last
      });
      table.append(...sorted);
    });
  }
  show();
  follow();

  // Nothing of the trend is read before it is opened, so that the page opens as fast without it.
  const trend = () => {
    const data = JSON.parse(document.getElementById("trend-data").textContent);
    const pick = { metric: "trend-metric", table: "trend-table", row: "trend-row" };
    for (const name of Object.keys(pick)) pick[name] = document.getElementById(pick[name]);
    const fill = (select, texts) => select.replaceChildren(...texts.map((text, index) => new Option(text, index)));
    const tables = [...new Set(data.rows.map((row) => row.table))];
    const rowsOf = () => data.rows.filter((row) => row.table === tables[pick.table.value]);
    fill(pick.metric, data.metrics.map((metric) => metric.label));
    fill(pick.table, tables);
    const fillRows = () => fill(pick.row, ["all, against the first run", ...rowsOf().map((row) => row.id)]);
    fillRows();

    const script = async () => {
      const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const element = document.createElement("script");
      element.textContent = await new Response(stream).text();
      document.head.append(element);
    };
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const marks = { regressed: "diamond", improved: "triangle-up", unmeasured: "square", undecided: "square", "not comparable": "square" };
    const trace = (row, index, metric, relative) => {
      const values = row.values[metric];
      const first = values.find((value) => value !== null);
      return {
        type: "scatter", mode: "lines+markers", name: row.id, connectgaps: true,
        x: data.runs.map((_, index) => index),
        y: values.map((value) => value === null ? null : relative ? (value / first - 1) * 100 : value / data.metrics[metric].scale),
        line: { dash: ["solid", "dash", "dot", "dashdot", "longdash"][Math.floor(index / 10) % 5] },
        marker: { size: 9, symbol: row.status.map((status) => marks[status] || "circle") },
        customdata: values.map((value, run) => [
          value === null ? "" : (value / data.metrics[metric].scale).toPrecision(5),
          row.status[run] || "",
          data.runs[run].new.join("<br>") || "nothing new",
        ].map((text) => String(text).replace(/[&<>]/g, (sign) => sign === "<" ? "&lt;" : sign === ">" ? "&gt;" : "&amp;").replace(/&lt;br&gt;/g, "<br>"))),
        hovertemplate: `%{fullData.name}<br>${data.metrics[metric].label} %{customdata[0]}, %{customdata[1]}<br>%{customdata[2]}<extra></extra>`,
      };
    };
    const draw = () => {
      const metric = Number(pick.metric.value);
      const relative = pick.row.value === "0";
      const rows = relative ? rowsOf() : [rowsOf()[Number(pick.row.value) - 1]];
      const label = data.metrics[metric].label;
      const narrow = innerWidth < 760;
      const every = Math.ceil(data.runs.length / (narrow ? 5 : 12));
      const ticks = data.runs.map((run, index) => ({ index, text: narrow ? run.when.slice(5, 10) : run.when.replace(" ", "<br>") })).filter(({ index }) => index % every === 0);
      const news = data.runs.map((run, index) => ({ run, index })).filter(({ run }) => run.new.length);
      Plotly.react("plot", rows.map((row, index) => trace(row, index, metric, relative)), {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
        margin: { l: 60, r: 15, t: 20, b: 60 }, hovermode: "closest", showlegend: rows.length > 1 && !narrow,
        xaxis: { tickvals: ticks.map(({ index }) => index), ticktext: ticks.map(({ text }) => text), tickangle: 0, range: [-0.3, data.runs.length - 0.7], gridcolor: colour("--line"), zeroline: false },
        yaxis: { title: { text: relative ? `${label}, % against the first run` : label }, gridcolor: colour("--line"), zerolinecolor: colour("--line-strong"), rangemode: relative ? "normal" : "tozero" },
        shapes: news.map(({ index }) => ({ type: "line", x0: index - 0.5, x1: index - 0.5, yref: "paper", y0: 0, y1: 1, line: { dash: "dot", width: 1, color: colour("--doubt") } })),
      }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
    };
    pick.metric.addEventListener("change", draw);
    pick.row.addEventListener("change", draw);
    pick.table.addEventListener("change", () => { fillRows(); draw(); });
    return { script, draw };
  };
  const chart = document.getElementById("chart");
  chart?.addEventListener("toggle", async () => {
    if (!chart.open || chart.dataset.started) return;
    chart.dataset.started = "yes";
    try {
      const { script, draw } = trend();
      await script();
      draw();
      chart.dataset.drawn = "yes";
    } catch (error) {
      document.getElementById("plot").hidden = true;
      document.getElementById("plot-trouble").hidden = false;
      console.error(error);
    }
  });
})();
