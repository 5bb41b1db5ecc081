"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.querySelector("table.matrix");
  const search = document.getElementById("search");
  const tally = document.getElementById("tally");
  const rows = [...table.querySelectorAll("tr[data-row]")];
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function make(name, content, className) {
    const element = document.createElement(name);
    if (content !== undefined) element.textContent = content;
    if (className) element.className = className;
    return element;
  }

  // Filters: words, what a row shows, which kernels are shown.
  function chosen() {
    return document.querySelector("input[name=show]:checked").value;
  }

  // A column less for each kernel that is not shown, in the rows that span all of them too.
  let columns = String(data.kernels.map(() => true));

  function showColumns(shown) {
    shown.forEach((visible, column) => {
      for (const cell of table.querySelectorAll(`[data-column="${column}"]`)) cell.hidden = !visible;
      table.querySelectorAll("col")[column + 1].hidden = !visible;
    });
    const count = shown.filter(Boolean).length;
    table.style.setProperty("--columns", count);
    for (const wide of table.querySelectorAll("tr.group th, tr.detail td")) wide.colSpan = count + 1;
    return String(shown);
  }

  function refresh() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = chosen();
    const shown = [...document.querySelectorAll("input[name=kernel]")].map((box) => box.checked);
    let count = 0;
    for (const row of rows) {
      const cells = [...row.cells].slice(1);
      const fits = words.every((word) => text.get(row).includes(word)) &&
        (show === "all" || cells.some((cell, column) => shown[column] && cell.dataset.is?.split(" ").includes(show)));
      row.hidden = !fits || row.parentElement.dataset.folded === "yes";
      count += fits;
      const detail = row.nextElementSibling;
      if (detail?.classList.contains("detail")) detail.hidden = row.hidden;
    }
    for (const group of table.tBodies) {
      const any = [...group.querySelectorAll("tr[data-row]")].some((row) => !row.hidden);
      group.hidden = !any && group.dataset.folded !== "yes";
    }
    if (String(shown) !== columns) columns = showColumns(shown);
    tally.textContent = `${count} of ${rows.length} behaviours`;
  }

  search.addEventListener("input", refresh);
  for (const input of document.querySelectorAll("input[name=show], input[name=kernel]")) {
    input.addEventListener("change", refresh);
  }

  // Details of one cell, below its row.
  function close(focus) {
    const open = table.querySelector("td > button[aria-expanded=true]");
    if (!open) return;
    open.setAttribute("aria-expanded", "false");
    open.removeAttribute("aria-controls");
    document.getElementById("detail")?.remove();
    if (focus) open.focus();
  }

  function pair(list, name, value) {
    if (value === undefined || value === null || value === "") return;
    list.append(make("dt", name), make("dd", value));
  }

  function shown(value) {
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  function seconds(value) {
    return value === undefined ? undefined : `${value.toFixed(value < 1 ? 3 : 2)} s`;
  }

  function command(row, column) {
    const cell = row.cells[column];
    const id = cell.id ?? row.id.replace("\u0000", data.kernels[column].label);
    const quote = (word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
    return `pytest --kernel=${quote(data.kernels[column].label)} ${quote(id)}`;
  }

  function panel(number, column) {
    const row = data.rows[number];
    const cell = row.cells[column];
    const kernel = data.kernels[column];
    const string = (index) => index === undefined ? undefined : data.strings[index];
    const box = make("div");
    const shut = make("button", "Close", "plain close");
    shut.type = "button";
    shut.addEventListener("click", () => close(true));
    const title = make("h3", `${row.title} on ${kernel.label} `);
    title.append(make("em", data.states[cell.state].word, data.states[cell.state].name));
    box.append(shut, title);
    if (row.sentence) box.append(make("p", row.sentence));
    const list = make("dl");
    pair(list, "Kernel", `${kernel.version} ${kernel.release}`);
    for (const one of cell.seen ?? []) {
      pair(list, "Contract", one.contract !== row.title ? one.contract : undefined);
      pair(list, "Observed", shown(one.observed));
      pair(list, "Expected", one.expected === undefined ? "nothing is known for this kernel" : shown(one.expected));
      pair(list, "Source", string(one.source));
      pair(list, "Note", string(one.note));
    }
    if (cell.before !== undefined) pair(list, "Boundary", `${data.kernels[cell.before].label} answers otherwise: ` +
      `${data.states[row.cells[cell.before].state].word} ${answers(row.cells[cell.before])}`);
    pair(list, "Reason", string(cell.reason));
    pair(list, "Time", cell.call === undefined ? undefined : `${seconds(cell.call)}, and ${seconds(cell.setup)} until it began`);
    pair(list, "Attempts", cell.attempts);
    pair(list, "Run", cell.run === undefined ? undefined : data.runs[cell.run]);
    pair(list, "Test", row.test);
    box.append(list);
    for (const leak of cell.leaks ?? []) box.append(make("p", `Leak: ${string(leak)}`));
    for (const fault of cell.faults ?? []) {
      box.append(make("p", `The kernel complained: ${string(fault.title)}`));
      if (fault.excerpt !== undefined) box.append(make("pre", string(fault.excerpt)));
    }
    for (const [name, index] of [["Failure", cell.failure], ["Output", cell.output]]) {
      if (index === undefined) continue;
      box.append(make("p", `${name}:`), make("pre", string(index)));
    }
    if (row.id || cell.id) {
      const repro = make("div", undefined, "repro");
      const code = make("code", command(row, column));
      const copy = make("button", "Copy", "plain");
      copy.type = "button";
      copy.addEventListener("click", async () => {
        getSelection().selectAllChildren(code);
        try {
          await navigator.clipboard.writeText(code.textContent);
          copy.textContent = "Copied";
        } catch {
          copy.textContent = "Selected: press Ctrl+C";
        }
      });
      repro.append(make("span", "Reproduce: ", "muted"), copy, code);
      box.append(repro);
    }
    return box;
  }

  function answers(cell) {
    return (cell.seen ?? []).map((one) => shown(one.observed)).join(", ");
  }

  function open(button) {
    const cell = button.parentElement;
    const row = cell.parentElement;
    const again = button.getAttribute("aria-expanded") === "true";
    close(false);
    if (again) return;
    const line = make("tr", undefined, "detail");
    line.id = "detail";
    const place = make("td");
    place.colSpan = [...row.cells].filter((one) => !one.hidden).length;
    place.append(panel(Number(row.dataset.row), Number(cell.dataset.column)));
    line.append(place);
    row.after(line);
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-controls", "detail");
    history.replaceState(null, "", `#r${row.dataset.row}-${cell.dataset.column}`);
  }

  // One stop for the Tab key in the whole table; the arrow keys move in it.
  const buttons = [...table.querySelectorAll("td > button")];
  for (const button of buttons) {
    button.tabIndex = -1;
    button.setAttribute("aria-expanded", "false");
  }
  let stop = buttons[0];
  if (stop) stop.tabIndex = 0;

  function visit(button) {
    stop.tabIndex = -1;
    stop = button;
    stop.tabIndex = 0;
  }

  table.addEventListener("focusin", (event) => {
    if (event.target.matches("td[data-column] > button")) visit(event.target);
  });

  table.addEventListener("click", (event) => {
    const fold = event.target.closest("tr.group button");
    if (fold) {
      const group = fold.closest("tbody");
      group.dataset.folded = group.dataset.folded === "yes" ? "no" : "yes";
      fold.setAttribute("aria-expanded", String(group.dataset.folded !== "yes"));
      refresh();
      return;
    }
    const button = event.target.closest("td[data-column] > button");
    if (button) open(button);
  });

  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  table.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      close(true);
      return;
    }
    const step = steps[event.key];
    const cell = event.target.closest("td[data-column]");
    if (!step || !cell || event.target.tagName !== "BUTTON") return;
    event.preventDefault();
    const [down, right] = step;
    let row = cell.parentElement;
    let column = Number(cell.dataset.column);
    for (;;) {
      if (down) {
        const seen = rows.filter((one) => !one.hidden);
        row = seen[seen.indexOf(row) + down];
      }
      column += right;
      const next = row?.querySelector(`td[data-column="${column}"]`);
      if (!next) return;
      const button = next.querySelector("button");
      if (button && !next.hidden) {
        button.focus();
        return;
      }
    }
  });

  function follow() {
    const found = /^#r(\d+)-(\d+)$/.exec(location.hash);
    const button = found && rows[Number(found[1])]?.querySelector(`td[data-column="${found[2]}"] > button`);
    if (!button) return;
    search.value = "";
    document.querySelector("input[name=show][value=all]").checked = true;
    const group = button.closest("tbody");
    group.dataset.folded = "no";
    group.querySelector("tr.group button").setAttribute("aria-expanded", "true");
    for (const box of document.querySelectorAll("input[name=kernel]")) box.checked = true;
    refresh();
    if (button.getAttribute("aria-expanded") !== "true") open(button);
    button.scrollIntoView({ block: "center", inline: "center" });
    button.focus({ preventScroll: true });
  }

  addEventListener("hashchange", follow);
  refresh();
  follow();
})();
