"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { emotions, labels, messages } = data;
  $("choices").reset(); // some browsers keep what was chosen before a reload

  /** An array as `pack` wrote it: a function from indices (i, j, k) to a number. */
  const unpack = (packed) => {
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed.values), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const [, points, columns] = packed.shape;
    const read = `getInt${8 * packed.size}`;
    return (i, j, k) => view[read](packed.size * ((i * points + j) * columns + k), true) * packed.step;
  };
  const [own, control, raw, rawControl, token] = ["own", "control", "raw", "raw_control", "tokens"].map((k) => unpack(data[k]));
  const points = data.own.shape[1];
  const starts = [0];
  for (const m of messages) starts.push(starts[starts.length - 1] + m.tokens.length);

  const last = messages.length - 1;
  const state = { raw: false, emotion: 0, label: 0, point: data.point, message: data.generated ? last : 0, token: 0 };
  const corrected = (m, p, e) => own(m, p, e) - (control ? control(m, p, e) : 0);
  const ofToken = (m, t, p, e) => token(starts[m] + t, p, e) - (control ? control(m, p, e) : 0);
  const shown = (m, p) => (state.raw ? raw(m, p, state.label) : corrected(m, p, state.emotion));

  const digits = data.limits.scores < 0.5 ? 3 : data.limits.scores < 20 ? 2 : 1;
  const signed = (x, n = digits) => (Math.abs(x) < 0.5 * 10 ** -n ? "0" : (x > 0 ? "+" : "−") + Math.abs(x).toFixed(n));
  const edge = (x) => (x > 0 ? "+" : "−") + Math.abs(x);
  /** As many digits as tell the cosines of a layer apart, 4 to 8. */
  const places = Array.from({ length: points }, (_, p) => {
    const all = messages.flatMap((_, m) => labels.map((_, k) => raw(m, p, k)));
    return Math.min(8, Math.max(4, 1 - Math.floor(Math.log10(Math.max(...all) - Math.min(...all)))));
  });
  const cosine = (x, n = 4) => x.toFixed(n).replace("-", "−");
  const written = (x, p = state.point) => (state.raw ? cosine(x, places[p]) : signed(x) + " SD");
  const layerName = (p) => `${p} of ${points - 1}`;
  const messageName = (m) => [m, messages[m].role, messages[m].stage].filter((x) => x !== "").join(" · ");

  /** Colours are mixed by the style sheet, so that they follow its theme. */
  const paint = (what, tone, strength) => {
    what.dataset.tone = tone;
    what.style.setProperty("--t", Math.min(1, Math.abs(strength)).toFixed(3));
  };
  const paintSigned = (what, x) => paint(what, x < 0 ? "neg" : "pos", x);

  const cosines = () => {
    let low = Infinity, high = -Infinity;
    for (let m = 0; m < messages.length; m++)
      for (let p = 0; p < points; p++) {
        low = Math.min(low, raw(m, p, state.label));
        high = Math.max(high, raw(m, p, state.label));
      }
    return [low, high];
  };

  const element = (tag, text = "", parent = null) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const draw = (parent, tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, typeof v === "number" ? +v.toFixed(2) : v);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  };

  // --- the messages as columns -------------------------------------------------------------------------------------

  const stages = [];
  messages.forEach((m, n) => {
    const before = stages[stages.length - 1];
    if (before && before.name === m.stage) before.stop = n + 1;
    else stages.push({ name: m.stage, start: n, stop: n + 1 });
  });
  const staged = stages.some((s) => s.name);
  const designed = messages.some((m, n) => m.stage && !(data.generated && n === last));
  const cut = (text, n) => { const all = [...text]; return all.length > n ? all.slice(0, n - 1).join("") + "…" : text; };

  const frame = () => {
    const width = Math.max(240, Math.floor($("main").clientWidth));
    const left = 50, right = 8;
    const step = (width - left - right) / messages.length;
    const upright = stages.some((s) => cut(s.name, 18).length * 6.6 > (s.stop - s.start) * step - 4);
    const longest = Math.max(0, ...stages.map((s) => [...cut(s.name, 18)].length));
    return { width, left, step, upright, x: (m) => left + step * m, below: 24 + (staged ? (upright ? longest * 6 + 14 : 26) : 0) };
  };

  /** Message numbers and, under them, the stages. */
  const axis = (svg, f, y) => {
    const every = Math.max(1, Math.ceil(20 / f.step));
    for (let m = 0; m < messages.length; m += every)
      draw(svg, "text", { x: f.x(m + 0.5), y: y + 16, "text-anchor": "middle", "data-message": m }, String(m));
    if (!staged) return;
    for (const s of stages) {
      if (!s.name) continue;
      const [a, b] = [f.x(s.start) + 1.5, f.x(s.stop) - 1.5];
      draw(svg, "line", { x1: a, x2: b, y1: y + 24, y2: y + 24, class: "zero" });
      const place = f.upright
        ? { transform: `translate(${((a + b) / 2 + 4).toFixed(1)} ${y + 30}) rotate(-90)`, "text-anchor": "end" }
        : { x: (a + b) / 2, y: y + 40, "text-anchor": "middle" };
      draw(svg, "text", { ...place, class: "stage" }, cut(s.name, 18));
    }
  };

  const canvas = (id, f, height, label) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${f.width} ${Math.ceil(height)}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    $(id).replaceChildren(svg);
    return svg;
  };

  // --- messages by layers ------------------------------------------------------------------------------------------

  const cells = [];
  let marks = {};
  const drawHeat = () => {
    const f = frame();
    const row = Math.max(9, Math.min(26, 400 / points));
    const top = 6, y = (p) => top + row * (points - 1 - p), bottom = top + row * points;
    const focused = document.activeElement && $("heat").contains(document.activeElement);
    const svg = canvas("heat", f, bottom + f.below, "");
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", move);
    cells.length = 0;
    for (let m = 0; m < messages.length; m++)
      for (let p = 0; p < points; p++) {
        const cell = draw(svg, "rect", { x: f.x(m), y: y(p), width: f.step - (f.step > 8 ? 1 : 0), height: row - (row > 16 ? 1 : 0), class: "cell" });
        cell.dataset.place = `${m} ${p}`;
        cells.push(cell);
      }
    svg.addEventListener("click", (event) => {
      const place = event.target.dataset && event.target.dataset.place;
      if (!place) return;
      const [m, p] = place.split(" ").map(Number);
      choose({ message: m, point: p, token: 0 });
    });
    const every = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 50].find((n) => n * row >= 18) || 100;
    for (let p = 0; p < points; p += every)
      draw(svg, "text", { x: f.left - 16, y: y(p) + row / 2 + 4, "text-anchor": "end" }, String(p));
    draw(svg, "text", { transform: `translate(9 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "layer");
    const middle = y(data.point) + row / 2;
    draw(svg, "path", { class: "fitted", d: `M${f.left - 3} ${middle} l-8 -5 v10 z` }).append(title("the layer that was chosen on other texts"));
    axis(svg, f, bottom);
    marks = {
      row: draw(svg, "rect", { class: "row", x: f.left - 1, width: f.step * messages.length + 1, height: row + 1 }),
      column: draw(svg, "rect", { class: "row", y: top - 1, width: f.step + 1, height: row * points + 1, "stroke-dasharray": "2 3" }),
      y, f,
    };
    if (focused) svg.focus({ preventScroll: true });
    paintHeat();
  };
  const title = (text) => { const made = document.createElementNS("http://www.w3.org/2000/svg", "title"); made.textContent = text; return made; };

  const paintHeat = () => {
    const name = state.raw ? labels[state.label] : emotions[state.emotion];
    const [low, high] = state.raw ? cosines() : [0, data.limits.scores];
    for (const cell of cells) {
      const [m, p] = cell.dataset.place.split(" ").map(Number);
      const value = shown(m, p);
      if (state.raw) paint(cell, "cos", (value - low) / (high - low || 1));
      else paintSigned(cell, value / high);
      cell.replaceChildren(title(`${messageName(m)}\nlayer ${p}: ${name} ${written(value, p)}`));
    }
    $("ramp").className = state.raw ? "sequential" : "diverging";
    $("low").textContent = state.raw ? cosine(low) : edge(-high);
    $("high").textContent = state.raw ? cosine(high) : edge(high);
    $("unit").textContent = state.raw ? "cosine" : "neutral SD";
    $("heat-note").textContent = state.raw
      ? `The cosine of the state after each message with the state after the reference text “${name}”. Nothing is taken away: what all texts share, the role and the place in the conversation are still in it.`
      : control
        ? `How much more ${name} each message reads than the message in its place in a neutral conversation of the same roles and lengths. ▶ marks the layer that was chosen on other texts.`
        : `How much ${name} each message reads against neutral text of the same role. There is no control conversation: what the place in a conversation does is not taken away. ▶ marks the layer that was chosen on other texts.`;
    $("heat").firstChild.setAttribute("aria-label",
      `Heat map of ${messages.length} messages by ${points} layers, ${name}. The arrow keys choose message and layer; the numbers are in the table below.`);
  };

  const paintMarks = () => {
    marks.row.setAttribute("y", marks.y(state.point) - 1);
    marks.column.setAttribute("x", (marks.f.x(state.message) - 1).toFixed(2));
    const name = state.raw ? labels[state.label] : emotions[state.emotion];
    $("readout").textContent = `Message ${messageName(state.message)}, layer ${layerName(state.point)}: ${name} ${written(shown(state.message, state.point))}`;
  };

  const move = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    choose({
      message: Math.max(0, Math.min(last, state.message + step[0])),
      point: Math.max(0, Math.min(points - 1, state.point + step[1])),
      token: step[0] ? 0 : state.token,
    });
  };

  // --- the trajectory at a layer -----------------------------------------------------------------------------------

  const ticks = (low, high, wanted) => {
    const span = high - low || 1;
    const power = 10 ** Math.floor(Math.log10(span / wanted));
    const step = [1, 2, 5, 10].map((n) => n * power).find((s) => span / s <= wanted);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= Math.floor(high / step + 1e-9); n++) found.push(n * step);
    return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  };

  const drawCurve = () => {
    const f = frame();
    const name = state.raw ? labels[state.label] : emotions[state.emotion];
    const mine = (m, p) => (state.raw ? raw(m, p, state.label) : own(m, p, state.emotion));
    const neutral = state.raw ? rawControl && ((m, p) => rawControl(m, p, state.label)) : control && ((m, p) => control(m, p, state.emotion));
    let low = state.raw ? Infinity : 0, high = state.raw ? -Infinity : 0;
    for (let m = 0; m < messages.length; m++)
      for (let p = 0; p < points; p++)
        for (const value of [mine, neutral]) {
          if (!value || (state.raw && p !== state.point)) continue;
          low = Math.min(low, value(m, p));
          high = Math.max(high, value(m, p));
        }
    const room = Math.max(0.06 * (high - low), state.raw ? 0.002 : 0.02);
    [low, high] = [low - room, high + room];
    const top = 10, tall = 250, y = (v) => top + (tall * (high - v)) / (high - low);
    const svg = canvas("curve", f, top + tall + f.below,
      `${name} message by message at layer ${layerName(state.point)}${neutral ? ", with the neutral control" : ""}; the numbers are in the table below.`);
    const tone = emotions.includes(name.split(".")[0]) ? name.split(".")[0] : "other";
    svg.style.setProperty("--tone", `var(--${tone})`);
    const [marksAt, places] = ticks(low, high, 8);
    for (const v of marksAt) {
      draw(svg, "line", { x1: f.left, x2: f.x(messages.length), y1: y(v), y2: y(v), class: Math.abs(v) < 1e-9 ? "zero" : "grid" });
      const text = Math.abs(v) < 1e-9 ? "0" : v.toFixed(places).replace("-", "−");
      draw(svg, "text", { x: f.left - 6, y: y(v) + 4, "text-anchor": "end" }, text);
    }
    draw(svg, "rect", { class: "column", x: f.x(state.message), y: top, width: f.step, height: tall });
    const line = (value) => messages.map((_, m) => `${f.x(m + 0.5).toFixed(1)} ${y(value(m, state.point)).toFixed(1)}`);
    if (neutral) {
      draw(svg, "path", { class: "gap", d: `M${line(mine).join("L")}L${line(neutral).reverse().join("L")}z` });
      draw(svg, "path", { class: "control", d: "M" + line(neutral).join("L") });
    }
    draw(svg, "path", { class: "own", id: "own", d: "M" + line(mine).join("L") });
    const size = Math.max(2.5, Math.min(4.5, f.step / 4));
    messages.forEach((m, n) => {
      const dot = draw(svg, "circle", { class: `dot ${m.role === "user" ? "user" : ""}`, cx: f.x(n + 0.5), cy: y(mine(n, state.point)), r: size });
      const beside = neutral ? `, control ${written(neutral(n, state.point))}` : "";
      dot.append(title(`${messageName(n)}: ${written(mine(n, state.point))}${beside}`));
    });
    axis(svg, f, top + tall);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const m = Math.floor(((event.clientX - box.left) * (f.width / box.width) - f.left) / f.step);
      if (m >= 0 && m < messages.length) choose({ message: m, token: 0 });
    });
    $("curve-title").textContent = `${state.raw ? "Cosine with " + name : name[0].toUpperCase() + name.slice(1)}, message by message`;
    $("curve-note").textContent = `At layer ${layerName(state.point)}, in ${state.raw ? "cosine" : "neutral SD"}.` +
      (!neutral ? "" : state.raw
        ? " Where the control moves with the conversation, the cosine follows roles and places, not what is said."
        : " The distance between the two lines is the corrected score.") +
      (designed ? " Under the axis: what each message was written to carry." : "");
    const keys = [["own", "conversation"], ...(neutral ? [["control", "neutral control"]] : [])].map(([kind, text]) => {
      const item = element("li"), sample = draw(item, "svg", { viewBox: "0 0 35 12", "aria-hidden": "true" });
      sample.style.setProperty("--tone", `var(--${tone})`);
      const stroke = draw(sample, "path", { d: "M0 7H35" });
      Object.assign(stroke.style, kind === "own" ? { stroke: `var(--${tone})`, strokeWidth: "2.5" } : { stroke: "var(--soft)", strokeWidth: "1.8", strokeDasharray: "5 4" });
      item.append(text);
      return item;
    });
    for (const role of ["user", "assistant"]) {
      const item = element("li"), sample = draw(item, "svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
      sample.style.width = ".8rem";
      const dot = draw(sample, "circle", { cx: 6, cy: 7, r: 4.5 });
      Object.assign(dot.style, { stroke: `var(--${tone})`, strokeWidth: "2", fill: role === "user" ? "var(--paper)" : `var(--${tone})` });
      item.append(role);
      keys.push(item);
    }
    $("keys").replaceChildren(...keys);
  };

  // --- token by token ----------------------------------------------------------------------------------------------

  const tokenName = (t) => {
    const text = messages[state.message].tokens[t];
    return text.trim() === "" ? JSON.stringify(text) : text.trim();
  };
  const drawStrip = () => {
    $("strip").replaceChildren(...messages[state.message].tokens.map((text, t) => {
      const span = element("span", text);
      span.className = "token";
      span.setAttribute("role", "option");
      span.tabIndex = t === state.token ? 0 : -1;
      span.dataset.token = t;
      return span;
    }));
    $("strip").setAttribute("aria-label", `Tokens of message ${messageName(state.message)}; the arrow keys go from token to token`);
    $("message").value = String(state.message);
    $("before").disabled = state.message === 0;
    $("after").disabled = state.message === last;
    hideTip();
    paintStrip();
  };
  const paintStrip = () => {
    const e = state.emotion, end = data.limits.tokens;
    for (const span of $("strip").children) {
      const t = Number(span.dataset.token), value = ofToken(state.message, t, state.point, e);
      paintSigned(span, value / end);
      span.setAttribute("aria-label", `${tokenName(t)}: ${emotions[e]} ${signed(value)} SD`);
      span.setAttribute("aria-selected", String(t === state.token));
    }
    $("token-low").textContent = edge(-end);
    $("token-high").textContent = edge(end);
    const generated = data.generated && state.message === last ? " The model wrote this message itself." : "";
    $("strip-note").textContent = `Each token by its own ${emotions[e]} at layer ${layerName(state.point)}` +
      (control ? ", minus the control's message" : "") + `; their mean is the message's score.${generated}` +
      (state.raw ? " Raw cosines are of whole messages only, so tokens keep their corrected scores." : "");
  };
  const showTip = (span) => {
    const t = Number(span.dataset.token), tip = $("tip");
    const lines = emotions.map((name, e) => `${name} ${signed(ofToken(state.message, t, state.point, e))} SD`);
    tip.textContent = `“${tokenName(t)}”, token ${t}\n${lines.join("\n")}`;
    tip.hidden = false;
    const box = span.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const above = box.top - own.height - 8;
    tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, box.left))}px`;
    tip.style.top = `${above > 60 ? above : box.bottom + 8}px`;
  };
  const hideTip = () => { $("tip").hidden = true; };
  $("strip").addEventListener("mouseover", (event) => event.target.dataset.token && showTip(event.target));
  $("strip").addEventListener("mouseout", hideTip);
  $("strip").addEventListener("focusin", (event) => {
    if (!event.target.dataset.token) return;
    const old = $("strip").children[state.token];
    if (old) { old.tabIndex = -1; old.setAttribute("aria-selected", "false"); }
    state.token = Number(event.target.dataset.token);
    event.target.tabIndex = 0;
    event.target.setAttribute("aria-selected", "true");
    showTip(event.target);
  });
  $("strip").addEventListener("focusout", hideTip);
  $("strip").addEventListener("click", (event) => event.target.dataset.token && event.target.focus());
  $("strip").addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hideTip();
    const all = $("strip").children, end = all.length - 1;
    const to = { ArrowRight: state.token + 1, ArrowDown: state.token + 1, ArrowLeft: state.token - 1, ArrowUp: state.token - 1, Home: 0, End: end }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(end, to))].focus();
  });
  addEventListener("scroll", () => {
    const at = $("strip").querySelector(".token:hover") || $("strip").querySelector(".token:focus");
    if (at && !$("tip").hidden) showTip(at);
    else hideTip();
  }, { passive: true });

  // --- the numbers -------------------------------------------------------------------------------------------------

  const drawTable = () => {
    const head = $("main").querySelector("thead"), body = $("main").querySelector("tbody");
    const row = (parent, tag, cells) => {
      const line = element("tr", "", parent);
      cells.forEach((text, n) => { element(tag, text, line).className = n > 2 && n < 3 + emotions.length ? "number" : ""; });
    };
    head.replaceChildren();
    body.replaceChildren();
    row(head, "th", ["message", "role", "stage", ...emotions, ...(labels.length ? ["nearest reference, raw"] : [])]);
    messages.forEach((m, n) => {
      let best = 0;
      labels.forEach((_, k) => { if (raw(n, state.point, k) > raw(n, state.point, best)) best = k; });
      const nearest = labels.length ? [`${labels[best]} ${cosine(raw(n, state.point, best), places[state.point])}`] : [];
      row(body, "td", [String(n), m.role, m.stage, ...emotions.map((_, e) => signed(corrected(n, state.point, e))), ...nearest]);
    });
    $("table-summary").textContent = `All messages at layer ${layerName(state.point)}, corrected, in neutral SD`;
  };

  // --- choosing ----------------------------------------------------------------------------------------------------

  const choose = (change) => {
    const before = { ...state };
    Object.assign(state, change);
    const changed = (...names) => names.some((n) => before[n] !== state[n]);
    if (changed("raw", "emotion", "label")) paintHeat();
    if (changed("raw", "emotion", "label", "point", "message")) { drawCurve(); paintMarks(); }
    if (changed("message")) drawStrip();
    else if (changed("raw", "emotion", "point")) paintStrip();
    if (changed("point")) { paintLayer(); drawTable(); hideTip(); }
    if (changed("raw")) $("reference").hidden = !state.raw;
  };
  const paintLayer = () => {
    $("layer").value = String(state.point);
    const chosen = state.point === data.point;
    $("layer").setAttribute("aria-valuetext", `layer ${layerName(state.point)}${chosen ? ", chosen on other texts" : ""}`);
    $("layer-name").textContent = layerName(state.point) + (chosen ? " (chosen)" : "");
    $("back").disabled = chosen;
  };

  $("layer").max = String(points - 1);
  $("layer").addEventListener("input", () => choose({ point: Number($("layer").value) }));
  $("back").addEventListener("click", () => choose({ point: data.point }));
  emotions.forEach((name, e) => {
    const label = element("label", "", $("emotions")), input = element("input", "", label);
    Object.assign(input, { type: "radio", name: "emotion", value: name, defaultChecked: e === 0 });
    element("span", name, label);
    input.addEventListener("change", () => {
      const twin = labels.indexOf(name);
      choose({ emotion: e, label: twin < 0 ? state.label : twin });
      $("label").value = String(state.label);
    });
  });
  labels.forEach((name, k) => { element("option", name, $("label")).value = String(k); });
  $("label").addEventListener("change", () => choose({ label: Number($("label").value) }));
  state.label = Math.max(0, labels.indexOf(emotions[0]));
  $("label").value = String(state.label);
  $("modes").hidden = labels.length === 0;
  for (const input of $("modes").querySelectorAll("input")) input.addEventListener("change", () => choose({ raw: input.value === "raw" }));
  messages.forEach((_, m) => { element("option", messageName(m), $("message")).value = String(m); });
  $("message").addEventListener("change", () => choose({ message: Number($("message").value), token: 0 }));
  $("before").addEventListener("click", () => choose({ message: Math.max(0, state.message - 1), token: 0 }));
  $("after").addEventListener("click", () => choose({ message: Math.min(last, state.message + 1), token: 0 }));

  $("about").textContent = `${data.model} · ${messages.length} messages · ${starts[messages.length]} tokens · ${points} layer boundaries` +
    (control ? " · with a neutral control" : " · without a control");
  $("choices").addEventListener("submit", (event) => event.preventDefault());
  $("bar").hidden = $("main").hidden = false;
  let width = 0;
  const redraw = () => {
    if ($("main").clientWidth === width) return;
    width = $("main").clientWidth;
    drawHeat();
    drawCurve();
    paintMarks();
  };
  redraw();
  drawStrip();
  paintLayer();
  drawTable();
  new ResizeObserver(redraw).observe($("main"));
})();
