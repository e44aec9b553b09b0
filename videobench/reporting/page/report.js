"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const percent = (value) => `${value.toFixed(1)} %`;
  // Names come from files: nothing in them may become markup in a tooltip.
  const text = (value) => echarts.format.encodeHTML(String(value));

  const frame = () => ({
    animation: false,
    aria: { enabled: true },
    textStyle: { color: colour("text"), fontFamily: "system-ui, sans-serif" },
    color: [1, 2, 3, 4].map((n) => colour(`series-${n}`)),
    grid: { left: 12, right: 20, top: 40, bottom: 12, outerBoundsMode: "same", outerBoundsContain: "all" },
    legend: { top: 4, type: "scroll", textStyle: { color: colour("text") } },
    tooltip: {
      trigger: "axis", confine: true, className: "tip", backgroundColor: colour("card"), borderColor: colour("line"),
      textStyle: { color: colour("text") },
    },
  });
  const axis = (type, name, more) => ({
    type, name, nameLocation: "middle", nameTextStyle: { color: colour("soft") },
    axisLabel: { color: colour("soft"), hideOverlap: true },
    axisLine: { lineStyle: { color: colour("line") } }, splitLine: { lineStyle: { color: colour("line") } },
    ...more,
  });

  // Of so many names in view, those that have room.
  const thinned = (count) => {
    const step = Math.ceil(count / (document.documentElement.clientWidth < 640 ? 14 : 32));
    return (index) => index % step === 0;
  };

  const draw = {
    curves({ panel, unit, low, high }) {
      return {
        ...frame(),
        xAxis: axis("value", "epoch", {
          minInterval: 1, splitLine: { show: false },
          // The only epoch stands in the middle.
          min: ({ min, max }) => (min < max ? min : min - 1), max: ({ min, max }) => (min < max ? max : max + 1),
        }),
        yAxis: axis("value", unit, { scale: true, min: low, max: high }),
        // More curves than colours are told apart by their dashes.
        series: Object.entries(panel).map(([name, points], n) => ({
          name, type: "line", data: points, symbolSize: 5, showSymbol: points.length < 60,
          lineStyle: { type: ["solid", "dashed", "dotted"][Math.floor(n / 4) % 3] },
        })),
      };
    },
    bars({ names, values, unit, across, stack, percentages }) {
      const base = frame();
      const many = Object.keys(values).length > 1;
      return {
        ...base,
        legend: { ...base.legend, show: many },
        grid: { ...base.grid, top: many ? 40 : 16 },
        xAxis: axis("category", across, { data: names, splitLine: { show: false } }),
        yAxis: axis("value", unit, percentages ? { min: 0, max: 100 } : { minInterval: stack ? undefined : 1 }),
        series: Object.entries(values).map(([name, numbers]) => ({ name, type: "bar", stack: stack && "all", data: numbers })),
      };
    },
    calibration({ bins }) {
      const base = frame();
      return {
        ...base,
        tooltip: {
          ...base.tooltip,
          formatter: (items) => {
            const bin = bins[items[0].dataIndex];
            const range = `confidence ${bin.low} to ${bin.high} %`;
            if (!bin.videos) return `${range}: no videos`;
            return `${range}<br>${bin.videos} videos, ${percent(bin.confidence)} on average<br>right: ${percent(bin.accuracy)}`;
          },
        },
        xAxis: axis("category", "confidence (%)", { data: bins.map((bin) => `${bin.low}–${bin.high}`), splitLine: { show: false } }),
        yAxis: axis("value", "right (%)", { min: 0, max: 100 }),
        series: [
          { name: "videos that are right", type: "bar", barCategoryGap: "10%", data: bins.map((bin) => bin.accuracy ?? "-") },
          { name: "as sure as right", type: "line", symbol: "none", lineStyle: { type: "dashed" }, data: bins.map((bin) => bin.confidence ?? (bin.low + bin.high) / 2) },
        ],
      };
    },
    agreement({ levels }) {
      const base = frame();
      return {
        ...base,
        tooltip: {
          ...base.tooltip,
          formatter: (items) => {
            const level = levels[items[0].dataIndex];
            return `${text(level.views)} of the views agree<br>${level.videos} videos<br>right: ${percent(level.accuracy)}`;
          },
        },
        xAxis: axis("category", "views that agree with the result", { data: levels.map((level) => level.views), splitLine: { show: false } }),
        yAxis: [axis("value", "videos", { minInterval: 1 }), axis("value", "right (%)", { min: 0, max: 100, splitLine: { show: false } })],
        series: [
          { name: "videos", type: "bar", data: levels.map((level) => level.videos) },
          { name: "right (%)", type: "line", yAxisIndex: 1, symbolSize: 7, data: levels.map((level) => level.accuracy) },
        ],
      };
    },
    matrix({ names, cells, totals }) {
      const base = frame();
      const few = names.length <= 30;
      const narrow = document.documentElement.clientWidth < 640;
      const label = {
        interval: thinned(names.length), fontSize: 10, width: narrow ? 64 : 130, overflow: "truncate", color: colour("soft"), hideOverlap: true,
      };
      const zoom = { filterMode: "none", brushSelect: false, showDetail: false, textStyle: { color: colour("soft") } };
      return {
        ...base,
        legend: { show: false },
        grid: { ...base.grid, top: 12, right: few ? 20 : 44, bottom: few ? 50 : 90 },
        tooltip: {
          ...base.tooltip, trigger: "item",
          formatter: ({ data: [column, row, share, videos] }) =>
            `${text(names[row])}${row === column ? ", right" : `<br>taken for ${text(names[column])}`}<br>${videos} of ${totals[row]} videos (${percent(100 * share)})`,
        },
        xAxis: axis("category", "predicted", { data: names, axisLabel: { ...label, rotate: 50 }, splitLine: { show: few } }),
        yAxis: axis("category", "true", { data: names, inverse: true, axisLabel: label, splitLine: { show: few } }),
        dataZoom: few ? [] : [
          { type: "slider", xAxisIndex: 0, bottom: 44, height: 22, ...zoom },
          { type: "slider", yAxisIndex: 0, right: 4, width: 22, ...zoom },
        ],
        visualMap: {
          min: 0, max: 1, dimension: 2, calculable: false, orient: "horizontal", left: "center", bottom: 0, itemHeight: 120,
          text: ["100 % of the class", "0 %"], textStyle: { color: colour("soft") }, inRange: { color: [colour("cell-low"), colour("cell-high")] },
        },
        series: [{
          type: "heatmap", data: cells.map(([row, column, videos]) => [column, row, videos / totals[row], videos]), progressive: 0,
          itemStyle: few ? { borderColor: colour("card"), borderWidth: 1 } : {},
          emphasis: { itemStyle: { borderColor: colour("series-2"), borderWidth: 2 } },
        }],
      };
    },
  };

  const redraw = () => charts.forEach(({ chart, option }) => chart.setOption(draw[option.kind](option), true));
  for (const element of document.querySelectorAll("[data-chart]")) {
    const [chart, option] = [echarts.init(element), data[element.dataset.chart]];
    charts.push({ chart, option });
    chart.on("datazoom", () => {
      const [x, y] = chart.getOption().dataZoom.map(({ start, end }) => ({
        axisLabel: { interval: thinned((option.names.length * (end - start)) / 100) },
      }));
      chart.setOption({ xAxis: x, yAxis: y });
    });
  }
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { charts.forEach(({ chart }) => chart.resize()); redraw(); }, 100);
  });

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const up = head.ariaSort ? head.ariaSort !== "ascending" : !numbers;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sign = up ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      // What has no number comes last, whichever way.
      rows.sort(([a], [b]) => numbers
        ? Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0
        : sign * a.localeCompare(b, undefined, { numeric: true }));
      body.append(...rows.map(([, row]) => row));
    }));
  }
  for (const input of document.querySelectorAll("input[data-table]")) {
    const table = document.getElementById(input.dataset.table);
    const status = document.getElementById(`${input.dataset.table}-count`);
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
        shown += !row.hidden;
      }
      status.textContent = `${shown} of ${table.tBodies[0].rows.length}`;
    });
  }
})();
