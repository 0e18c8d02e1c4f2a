// The interactive curves: what is chosen in the form -> data sets of the chart and rows of the table of ends.
(() => {
  const families = JSON.parse(document.getElementById("curve-data").textContent);
  const form = document.getElementById("controls");
  const holder = document.querySelector(".chart");
  const AXES = { effective: "effective tokens", raw: "raw tokens", seconds: "training time" };
  const COUNTS = [[1e9, "billion"], [1e6, "million"], [1e3, "thousand"], [1, ""]];
  const TIMES = [[3600, "hours"], [60, "minutes"], [1, "seconds"]];
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [14, 4]];
  const chosen = { family: 0, data: new Set(), variants: new Set(), axis: "effective", seeds: "band", part: "late" };
  let chart = null;

  const family = () => families[chosen.family];
  const hasTime = () => family().groups.some((group) => group.runs.some((run) => run.x.seconds));

  function startWith(index) {
    chosen.family = index;
    chosen.data = new Set(family().data.slice(0, 1));
    chosen.variants = new Set(family().chosen);
    if (chosen.axis === "seconds" && !hasTime()) chosen.axis = "effective";
  }

  // The form.
  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function fieldset(legend, type, entries, isChosen, choose) {
    const made = element("fieldset", {}, element("legend", { textContent: legend }));
    for (const { value, text, colour, disabled } of entries) {
      const input = element("input", { type, name: legend, value, checked: isChosen(value), disabled: Boolean(disabled) });
      input.addEventListener("change", () => { choose(value, input.checked); draw(); });
      const swatch = element("span", { className: "swatch" });
      if (colour) swatch.style.background = shade(colour);
      made.append(element("label", { className: "chip" }, input, ...(colour ? [swatch] : []), text));
    }
    return made;
  }

  const several = (set) => (value, on) => { if (on) set.add(value); else set.delete(value); };
  const single = (key) => (value) => { chosen[key] = value; };

  function fillForm() {
    form.replaceChildren();
    const of = family();
    if (families.length > 1) {
      const entries = families.map((found, index) => ({ value: String(index), text: found.title }));
      const choose = (value) => { startWith(Number(value)); fillForm(); form.querySelector("input:checked").focus(); };
      form.append(fieldset("model", "radio", entries, (value) => Number(value) === chosen.family, choose));
    }
    const axes = Object.entries(AXES).map(([value, text]) => ({ value, text, disabled: value === "seconds" && !hasTime() }));
    form.append(fieldset("against", "radio", axes, (value) => value === chosen.axis, single("axis")));
    if (of.data.length > 1) {
      const data = of.data.map((value) => ({ value, text: value }));
      form.append(fieldset("data", "checkbox", data, (value) => chosen.data.has(value), several(chosen.data)));
    }
    const variants = Object.entries(of.variants).map(([value, look]) => ({ value, text: value, colour: look.colour }));
    const choice = fieldset("variants", "checkbox", variants, (value) => chosen.variants.has(value), several(chosen.variants));
    for (const [text, names] of [["all", variants.map(({ value }) => value)], ["none", []]]) {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => { chosen.variants = new Set(names); fillForm(); draw(); focusOn(text); });
      choice.append(button);
    }
    form.append(choice);
    if (of.groups.some((group) => group.band)) {
      const ways = [{ value: "band", text: "mean and range" }, { value: "runs", text: "each run" }];
      form.append(fieldset("seeds", "radio", ways, (value) => value === chosen.seeds, single("seeds")));
    }
    const parts = [{ value: "late", text: "second half, enlarged" }, { value: "whole", text: "whole run" }];
    form.append(fieldset("show", "radio", parts, (value) => value === chosen.part, single("part")));
  }

  const focusOn = (text) => [...form.querySelectorAll("button")].find((button) => button.textContent === text).focus();

  // What is drawn: one entry a curve, with the runs behind it.
  function curves() {
    const found = [];
    for (const group of family().groups) {
      if (!chosen.data.has(group.data) || !chosen.variants.has(group.variant)) continue;
      const look = family().variants[group.variant];
      const dash = DASHES[family().data.indexOf(group.data) % DASHES.length];
      const name = `${group.variant} ${group.data}`;
      const band = chosen.seeds === "band" ? group.band : null;
      if (band && band.x[chosen.axis]) {
        found.push({ name, look, dash, x: band.x[chosen.axis], loss: band.mean, low: band.low, high: band.high, runs: group.runs });
        continue;
      }
      for (const run of group.runs) {
        if (!run.x[chosen.axis]) continue;
        const label = group.runs.length > 1 ? `${name}, seed ${run.seed}` : name;
        found.push({ name: label, look, dash, x: run.x[chosen.axis], loss: run.loss, runs: [run] });
      }
    }
    return found;
  }

  // Colours and numbers.
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = () => (document.documentElement.dataset.theme ?? (dark() ? "dark" : "light")) === "dark";
  const ink = () => getComputedStyle(holder).color;
  const line = () => getComputedStyle(holder).borderTopColor;
  const shade = (colour) => (colour === "#000000" && isDark() ? "#f2f4f6" : colour);
  const unitOf = (largest) => (chosen.axis === "seconds" ? TIMES : COUNTS).find(([size]) => largest >= size) ?? [1, ""];
  const axisTitle = (unit) => (unit[1] ? `${AXES[chosen.axis]} (${unit[1]})` : AXES[chosen.axis]);
  const shown = (value, unit) => (value / unit[0]).toLocaleString("en", { maximumSignificantDigits: 4 });

  function dataset(curve, unit) {
    const colour = shade(curve.look.colour);
    const point = (loss, index) => ({ x: curve.x[index] / unit[0], y: loss });
    return {
      label: curve.name,
      data: curve.loss.map(point),
      low: curve.low?.map(point),
      high: curve.high?.map(point),
      borderColor: colour,
      backgroundColor: curve.look.filled ? colour : "transparent",
      borderDash: curve.dash,
      borderWidth: curve.look.colour === "#000000" ? 2.5 : 1.8,
      pointStyle: curve.look.mark,
      pointRotation: curve.look.turn,
      pointRadius: 3.5,
      pointHoverRadius: 6,
    };
  }

  // The range over seeds, behind the lines.
  const ranges = {
    id: "ranges",
    beforeDatasetsDraw({ ctx, chartArea, data, scales }) {
      ctx.save();
      ctx.beginPath();
      ctx.rect(chartArea.left, chartArea.top, chartArea.width, chartArea.height);
      ctx.clip();
      ctx.globalAlpha = 0.16;
      for (const { low, high, borderColor } of data.datasets) {
        if (!low) continue;
        ctx.fillStyle = borderColor;
        ctx.beginPath();
        for (const { x, y } of [...low, ...high.toReversed()]) ctx.lineTo(scales.x.getPixelForValue(x), scales.y.getPixelForValue(y));
        ctx.fill();
      }
      ctx.restore();
    },
  };

  function limits(found, unit) {
    const end = Math.max(...found.map((curve) => curve.x.at(-1))) / unit[0];
    if (chosen.part === "whole") return { x: { min: 0 }, y: {} };
    const start = end / 2;
    const late = found.flatMap((curve) => {
      const from = curve.x.map((value) => value / unit[0] >= start);
      return [curve.loss, curve.low ?? [], curve.high ?? []].flatMap((losses) => losses.filter((_, index) => from[index]));
    });
    // Short runs (less data) may end before: then all of them is shown.
    const ends = found.every((curve) => curve.x.at(-1) / unit[0] >= start);
    if (!ends) return { x: { min: 0 }, y: {} };
    const margin = 0.05 * Math.max(Math.max(...late) - Math.min(...late), 1e-3);
    return { x: { min: start, max: end * 1.02 }, y: { min: Math.min(...late) - margin, max: Math.max(...late) + margin } };
  }

  function options(found, unit) {
    const of = limits(found, unit);
    const scale = (text, range) => ({ type: "linear", ...range, title: { display: true, text, color: ink() }, ticks: { color: ink(), maxTicksLimit: 8, includeBounds: false }, grid: { color: line() }, border: { color: line() } });
    return {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "nearest", axis: "xy", intersect: false },
      scales: { x: scale(axisTitle(unit), of.x), y: scale(`held-out loss (${family().unit})`, of.y) },
      plugins: { legend: { display: false }, tooltip: { callbacks: { title: ([item]) => item.dataset.label, label: (item) => says(item, unit) } } },
    };
  }

  function says(item, unit) {
    const { low, high } = item.dataset;
    const lines = [`loss ${item.parsed.y.toFixed(4)}`];
    if (low) lines.push(`over seeds ${low[item.dataIndex].y.toFixed(4)} to ${high[item.dataIndex].y.toFixed(4)}`);
    lines.push(`${shown(item.parsed.x * unit[0], unit)} ${unit[1]} ${chosen.axis === "seconds" ? "of training" : AXES[chosen.axis]}`);
    return lines;
  }

  function fillEnds(found, unit) {
    const table = document.getElementById("ends");
    document.getElementById("ends-x").textContent = axisTitle(unit);
    for (const heading of table.tHead.rows[0].cells) heading.removeAttribute("aria-sort");
    const cell = (value, text, className = "") => {
      const made = element("td", { className }, text);
      made.dataset.value = value;
      return made;
    };
    const rows = found.map((curve) => {
      const end = curve.loss.at(-1);
      const range = curve.low ? `${curve.low.at(-1).toFixed(4)} to ${curve.high.at(-1).toFixed(4)}` : "–";
      const runs = curve.runs.flatMap((run) => [element("a", { href: `#run-${run.name}`, textContent: run.seed }), " "]);
      return element("tr", {}, cell(curve.name, curve.name), cell(curve.x.at(-1), shown(curve.x.at(-1), unit), "number"), cell(end, end.toFixed(4), "number"), cell(range, range), element("td", { className: "behind" }, ...runs));
    });
    table.tBodies[0].replaceChildren(...rows);
  }

  function draw() {
    const found = curves();
    const unit = unitOf(Math.max(0, ...found.map((curve) => curve.x.at(-1))));
    const data = { datasets: found.map((curve) => dataset(curve, unit)) };
    const says = found.length ? `${found.length} curve${found.length === 1 ? "" : "s"}, with a mark at each probe. Point at one for its values.` : "Nothing is chosen: take at least one variant and one amount of data.";
    const missing = hasTime() ? "" : " These runs' timings hold no seconds at the probes: there is no axis of time.";
    document.getElementById("chart-says").textContent = says + missing;
    chart?.destroy();
    chart = found.length ? new Chart(document.getElementById("chart"), { type: "line", data, options: options(found, unit), plugins: [ranges] }) : null;
    fillEnds(found, unit);
  }

  document.addEventListener("colours", () => { fillForm(); draw(); });
  startWith(0);
  fillForm();
  draw();
})();
