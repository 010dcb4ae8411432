// The model behind the explorer where there is no kernel: every state was computed before, and
// touching a control looks up another one. It judges nothing, and asks no server for anything.

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function modelOf({ values, batches, reports, images }) {
  const listeners = new Map();
  const past = [];
  const report = () => reports[values.slicer][values.chunk_size - 1];
  const shown = (text) => text.replace(/\0(\d+)\0/g, (_, image) => images[image]);

  function set(changed) {
    for (const [name, value] of Object.entries(changed)) {
      if (JSON.stringify(values[name]) === JSON.stringify(value)) continue;
      values[name] = value;
      for (const listener of [...(listeners.get(name) ?? [])]) listener();
    }
  }

  function show(chunk) {
    const found = report();
    if (found.message) return set({ message: found.message }); // the rest stays
    const at = Math.min(chunk, Math.max(found.cuts.length - 1, 0));
    const { lane, index } = values.selection;
    const picked = batches[found.batch].picked[lane]?.[index] ?? "";
    set({
      chunk: at,
      message: "",
      _batch: batches[found.batch].drawn,
      _judged: found.judged,
      _cut: found.cuts[at] ?? {},
      _details: shown(picked + (found.details[at] ?? "")),
    });
  }

  // Where a changed report opens, as the explorer does in Python.
  const first = () => (report().ok === false ? report().opening : values.chunk);
  const kept = () => ({ slicer: values.slicer, chunk_size: values.chunk_size, chunk: values.chunk });
  let pending = {};
  Object.assign(values, { chunk: 0, message: "", _batch: {}, _judged: {}, _cut: {}, _details: "" });
  show(first());
  return {
    get: (name) => values[name],
    set: (name, value) => { pending[name] = value; },
    save_changes() {
      const changed = pending;
      pending = {};
      const moves = Object.entries(changed).some(([name, one]) => name in kept() && one !== values[name]);
      if (moves) past.push(kept());
      set(changed);
      const judged = "slicer" in changed || "chunk_size" in changed;
      show(judged ? first() : values.chunk);
    },
    send(message) {
      const wrong = (values._judged.chunks ?? []).flatMap((one, index) => (one === "ok" ? [] : [index]));
      if (message === "undo" && past.length) {
        const { chunk, ...controls } = past.pop();
        set(controls);
        show(chunk);
      } else if (message === "next" && wrong.length) {
        past.push(kept());
        show(wrong.find((index) => index > values.chunk) ?? wrong[0]);
      }
    },
    on(event, listener) {
      const name = event.replace("change:", "");
      listeners.set(name, [...(listeners.get(name) ?? []), listener]);
    },
    off(event, listener) {
      const name = event.replace("change:", "");
      listeners.set(name, (listeners.get(name) ?? []).filter((one) => one !== listener));
    },
  };
}

for (const place of document.querySelectorAll(".vlmdebug-without-kernel")) {
  const data = await unpacked(place.querySelector("script").textContent);
  render({ model: modelOf(data), el: place });
}
