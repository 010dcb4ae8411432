// Draws what Python has judged, and tells Python what was touched. It computes no plan and no
// verdict: lanes, pieces, words and details all come as values of the model.

const PITCH = 46;
const BAR = 22;
const WIDTH = 1000;
// Jupyter Server holds an answer back until the message before it, "busy", is acknowledged (Nagle's
// algorithm). A browser does that after 40 ms or with whatever it sends next: send something, then.
const ACKNOWLEDGED = 12; // ms
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function path(d, attributes) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", d);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// As `letter` in Python: A to Z, then AA.
const letter = (sample) =>
  (sample >= 26 ? letter(Math.floor(sample / 26) - 1) : "") + String.fromCharCode(65 + (sample % 26));

const top_of = (lane) => lane * PITCH + (PITCH - BAR) / 2;

function box(x, width, lane, around = 0) {
  return `M${x} ${top_of(lane) - around}h${width}v${BAR + 2 * around}h${-width}z`;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const set = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
    setTimeout(() => model.send("received"), ACKNOWLEDGED);
  };
  let cursor = null; // [lane, box] under the pointer or the keyboard
  let playing = null;

  // Controls
  const verdict = make("span", { class: "vlmdebug-verdict" });
  const subject = make("span");
  const sentence = make("p", { class: "vlmdebug-sentence", "aria-live": "polite" });
  const about = make("p", { class: "vlmdebug-about" });
  const counted = make("span");
  const size = make("input", { type: "range", min: 1, "aria-label": "chunk size" });
  const sized = make("output");
  const slicer = make("select", { "aria-label": "slicer" });
  const play = make("button", { type: "button", onclick: () => toggle() }, "▶ play");
  const previous = make("button", { type: "button", title: "previous chunk (key p)", onclick: () => step(-1) }, "◀");
  const following = make("button", { type: "button", title: "next chunk (key c)", onclick: () => step(1) }, "▶");
  const wrong = make("button", { type: "button", title: "key n", onclick: () => model.send("next") }, "next mismatch");
  const undo = make("button", { type: "button", title: "key u", onclick: () => model.send("undo") }, "undo");
  const chunks = make("div", { class: "vlmdebug-chunks", role: "group", "aria-label": "chunks" });
  const message = make("p", { role: "alert" });
  const asked = make("form", { class: "vlmdebug-bar", hidden: "" });

  // Picture
  const labels = make("div");
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "application");
  const drawn = document.createElementNS(SVG, "g");
  const cut = document.createElementNS(SVG, "g");
  const lit = document.createElementNS(SVG, "g");
  const litPaths = document.createElementNS(SVG, "svg"); // alone is stretched; words are not
  for (const [name, value] of Object.entries({ preserveAspectRatio: "none", width: "100%", height: "100%" })) {
    litPaths.setAttribute(name, value);
  }
  lit.append(litPaths);
  svg.append(drawn, cut, lit);
  const said = make("p", { class: "vlmdebug-said", "aria-live": "polite" });
  const legend = make("p", { class: "vlmdebug-legend" });
  const packedLabels = make("div");
  const packed = document.createElementNS(SVG, "svg");
  packed.setAttribute("role", "img");
  const packedLegend = make("p", { class: "vlmdebug-legend" });
  const packedLanes = make("div", { class: "vlmdebug-packed" }, packedLabels,
    make("div", { class: "vlmdebug-picture" }, packed));
  const details = make("div", { class: "vlmdebug-details" });

  // Code
  const source = make("code");
  const copy = make("button", { type: "button", onclick: () => copied() }, "copy");
  const save = make("button", { type: "button", onclick: () => downloaded() }, "download");
  const code = make(
    "details", { class: "vlmdebug-code" },
    make("summary", {}, "corrected slicing code for this batch"),
    make("div", { class: "vlmdebug-bar" }, copy, save),
    make("pre", { tabindex: "0" }, source),
  );

  const root = make(
    "div", { class: "vlmdebug", role: "group", "aria-label": "vlmdebug explorer", onkeydown: (event) => key(event) },
    make("div", { class: "vlmdebug-bar" }, verdict, subject),
    asked,
    make("div", { class: "vlmdebug-bar" },
      make("label", {}, "chunk size", size, sized), make("label", {}, "slicer", slicer),
      make("span", { class: "vlmdebug-steps" }, previous, play, following), wrong, undo),
    about,
    message,
    make("div", { class: "vlmdebug-bar" }, counted, chunks),
    sentence,
    make("div", { class: "vlmdebug-lanes" }, labels, make("div", { class: "vlmdebug-picture" }, svg)),
    legend, said, packedLanes, packedLegend, details, code,
  );
  el.replaceChildren(root);

  // From Python to the screen
  function showBatch() {
    const { lanes = [], svg: outlines = "", samples = 1, ambiguous, ambiguities = [] } = get("_batch");
    size.max = samples;
    labels.replaceChildren(...lanes.map((lane) =>
      make("div", { class: "vlmdebug-label" }, lane.label, make("br"), make("small", {}, lane.counts))));
    litPaths.setAttribute("viewBox", `0 0 ${WIDTH} ${Math.max(lanes.length, 1) * PITCH}`);
    svg.style.height = `${lanes.length * PITCH}px`;
    drawn.innerHTML = outlines; // numbers alone
    cursor = null;
    showAsked(ambiguous, ambiguities);
    showLit();
  }

  function showAsked(ambiguous, ambiguities) {
    const overridden = get("num_images").length || get("layout");
    asked.hidden = !ambiguous && !overridden;
    if (asked.hidden) return;
    const images = make("input", {
      type: "text", placeholder: "2, 0, 1", value: get("num_images").join(", "), "aria-label": "images per sample" });
    const layout = make("input", {
      type: "text", placeholder: "gemma4", value: get("layout"), "aria-label": "layout family" });
    asked.replaceChildren(
      make("span", {}, ambiguities.join(" ")),
      make("label", {}, "images per sample", images), make("label", {}, "layout", layout),
      make("button", { type: "submit" }, "read again"));
    asked.onsubmit = (event) => {
      event.preventDefault();
      const numbers = images.value.split(/[\s,]+/).filter(Boolean).map(Number);
      if (numbers.some((one) => !Number.isInteger(one) || one < 0)) {
        message.textContent = "Images per sample are whole numbers, one for each sample: 2, 0, 1.";
        return;
      }
      set({ num_images: numbers, layout: layout.value.trim() });
    };
  }

  function showJudged() {
    const { verdict: word = "", subject: text = "", chunks: words = [], noun = "chunk" } = get("_judged");
    const glyph = { OK: "✓", MISMATCH: "✗" }[word] ?? "?";
    verdict.textContent = `${glyph} ${word}`;
    verdict.dataset.verdict = word;
    subject.textContent = text;
    wrong.disabled = words.every((one) => one === "ok");
    chunks.setAttribute("aria-label", `${noun}s`);
    const bad = words.filter((one) => one !== "ok").length;
    counted.textContent = words.length > 1 ? `${noun}s${bad ? ` (${bad} of ${words.length} not ok)` : ""}` : noun;
    chunks.replaceChildren(...words.map((one, index) => make("button", {
      type: "button", "data-wrong": one === "ok" ? false : "", title: `${noun} ${index}: ${one}`,
      "aria-label": `${noun} ${index}: ${one}`, onclick: () => set({ chunk: index }),
    }, `${one === "ok" ? "✓" : one === "cannot tell" ? "?" : "✗"}${index}`)));
    showCut();
  }

  function showCut() {
    const { chunk = 0, svg: overlay = "", said: text = "" } = get("_cut");
    for (const [index, button] of [...chunks.children].entries()) {
      button.setAttribute("aria-pressed", index === chunk);
    }
    cut.innerHTML = overlay; // numbers, and words that are escaped in Python
    legend.textContent = get("_cut").legend ?? "";
    sentence.textContent = get("_cut").sentence ?? "";
    for (const button of [previous, play, following]) button.disabled = chunks.children.length < 2;
    svg.setAttribute("aria-label", `${text}. Arrow keys walk through the rows, Enter selects.`);
    if (!cursor) said.textContent = text;
    showPacked();
  }

  // The rows of a chunk that hold several samples.
  function showPacked() {
    const { lanes = [], svg: rows = "", said: text = "", legend: words = "" } = get("_cut").packed ?? {};
    packedLanes.hidden = packedLegend.hidden = !lanes.length;
    packedLabels.replaceChildren(...lanes.map(([name, counts, height]) => make(
      "div", { class: "vlmdebug-label", style: `height:${height}px;padding-top:${height / 2 - 18}px` },
      name, make("br"), make("small", {}, counts))));
    packed.style.height = `${lanes.reduce((sum, [, , height]) => sum + height, 0)}px`;
    packed.setAttribute("aria-label", text);
    packed.innerHTML = rows; // numbers, and words that are escaped in Python
    packedLegend.textContent = words;
  }

  // Everything that belongs to what is under the cursor, in every lane.
  function showLit() {
    const { lanes = [] } = get("_batch");
    if (!cursor) said.textContent = get("_cut").said ?? "";
    const shown = cursor ?? selected();
    if (!shown) {
      litPaths.replaceChildren();
      return;
    }
    const [at, which, run = -1] = shown;
    const [first, end, sample, own] = lanes[at].boxes[which];
    const [start, stop, image] = run < 0 ? [first, end, own] : lanes[at].runs[run];
    const partners = lanes.map((lane, index) => lane.boxes
      .filter((one) => (image >= 0 && one[3] >= 0 ? one[3] === image : one[2] === sample))
      .map(([from, to]) => box((from * WIDTH) / lane.total, ((to - from) * WIDTH) / lane.total, index))
      .join("")).join("");
    const [x, wide] = [(start * WIDTH) / lanes[at].total, ((stop - start) * WIDTH) / lanes[at].total];
    litPaths.replaceChildren(
      // Of what is only selected the marks stay visible: a frame around it, no line through them.
      path(partners, { fill: "currentColor", "fill-opacity": 0.12, stroke: cursor ? "currentColor" : "none", "stroke-width": 2 }),
      path(box(x, wide, at, cursor ? 0 : 4), { fill: "none", stroke: "currentColor", "stroke-width": cursor ? 3.5 : 2.5 }));
    if (!cursor) return;
    const before = lanes.find((lane) => lane.name === "images")?.boxes.findIndex((one) => one[2] === sample) ?? 0;
    const whose = image >= 0 ? `image ${letter(sample)}${image - before + 1}` : `sample ${letter(sample)}`;
    const rows = run < 0 ? `rows ${start}:${stop}` : "its placeholder tokens";
    said.textContent = `${lanes[at].label}: ${whose}, ${rows}`;
  }

  // What was clicked stays marked when the pointer has left.
  function selected() {
    const { lane, index } = get("selection");
    const found = (get("_batch").lanes ?? []).findIndex((one) => one.name === lane);
    return found >= 0 && get("_batch").lanes[found].boxes[index] ? [found, index] : null;
  }

  function showSimple() {
    size.value = get("chunk_size");
    sized.textContent = get("chunk_size");
    const names = get("slicers");
    if (slicer.options.length !== names.length) {
      slicer.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    }
    slicer.value = get("slicer");
    about.textContent = (get("_about") ?? {})[get("slicer")] ?? "";
    about.hidden = !about.textContent;
    size.disabled = slicer.disabled = !names.length;
    message.textContent = get("message");
    message.hidden = !get("message");
  }
  const showDetails = () => { details.innerHTML = get("_details"); }; // escaped in Python
  const showCode = () => { source.textContent = get("code"); code.hidden = !get("code"); };

  // From the screen to Python
  size.addEventListener("input", () => {
    sized.textContent = size.value;
    set({ chunk_size: Number(size.value) });
  });
  slicer.addEventListener("change", () => set({ slicer: slicer.value }));

  function step(by) {
    const count = get("_judged").chunks?.length ?? 1;
    set({ chunk: (get("chunk") + by + count) % count });
  }

  function toggle() {
    playing = playing ? clearInterval(playing) : setInterval(() => step(1), 900);
    play.textContent = playing ? "❚❚ pause" : "▶ play";
  }

  function at(event) {
    const { lanes = [] } = get("_batch");
    const bounds = svg.getBoundingClientRect();
    const lane = Math.floor((event.clientY - bounds.top) / PITCH);
    if (!lanes[lane]) return null;
    const row = ((event.clientX - bounds.left) / bounds.width) * lanes[lane].total;
    const found = lanes[lane].boxes.findIndex(([start, stop]) => start <= row && row < stop);
    if (found < 0) return null;
    const run = lanes[lane].runs.findIndex(([start, stop, image]) => image >= 0 && start <= row && row < stop);
    return run < 0 ? [lane, found] : [lane, found, run];
  }

  function moved(to) {
    if (String(to) === String(cursor)) return;
    cursor = to;
    showLit();
  }

  function select() {
    if (!cursor) return;
    const { lanes = [] } = get("_batch");
    const [lane, index, run = -1] = cursor;
    // A span of tokens is picked as the image it stands for.
    set({ selection: run < 0
      ? { lane: lanes[lane].name, index }
      : { lane: "images", index: lanes[lane].runs[run][2] } });
  }

  svg.addEventListener("pointermove", (event) => moved(at(event)));
  svg.addEventListener("pointerleave", () => moved(null));
  svg.addEventListener("blur", () => moved(null));
  svg.addEventListener("click", (event) => { moved(at(event)); select(); });

  function walk(name) {
    const { lanes = [] } = get("_batch");
    if (!lanes.length) return;
    let [lane, which] = cursor ?? [0, -1];
    const filled = (index) => lanes[lane].boxes[index] && lanes[lane].boxes[index][1] > lanes[lane].boxes[index][0];
    if (name === "ArrowRight" || name === "ArrowLeft") {
      const by = name === "ArrowRight" ? 1 : -1;
      let next = which + by;
      while (lanes[lane].boxes[next] && !filled(next)) next += by;
      if (lanes[lane].boxes[next]) which = next;
    } else {
      const to = lane + (name === "ArrowDown" ? 1 : -1);
      if (!lanes[to]) return;
      const [, , sample, image] = lanes[lane].boxes[Math.max(which, 0)];
      const partner = lanes[to].boxes.findIndex((one) =>
        one[1] > one[0] && (image >= 0 && one[3] >= 0 ? one[3] === image : one[2] === sample));
      [lane, which] = [to, partner < 0 ? lanes[to].boxes.findIndex(([start, stop]) => stop > start) : partner];
    }
    moved([lane, Math.max(which, 0)]);
  }

  function key(event) {
    if (event.target === svg && event.key.startsWith("Arrow")) walk(event.key);
    else if (event.target === svg && (event.key === "Enter" || event.key === " ")) select();
    else if (event.target.matches("input[type=text], select") || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "n") model.send("next");
    else if (event.key === "u") model.send("undo");
    else if (event.key === "c") step(1);
    else if (event.key === "p") step(-1);
    else return;
    if (event.target === svg) event.preventDefault();
    event.stopPropagation(); // the notebook has its own keys
  }

  async function copied() {
    try {
      await navigator.clipboard.writeText(get("code"));
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard here: the reader copies
      copy.textContent = "selected";
    }
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  }

  function downloaded() {
    const link = make("a", { download: "slice_inputs.py", href: URL.createObjectURL(new Blob([get("code")])) });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  const listeners = {
    _batch: showBatch, _judged: showJudged, _cut: showCut, _details: showDetails, code: showCode,
    chunk_size: showSimple, slicer: showSimple, message: showSimple, slicers: showSimple, selection: showLit,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(`change:${name}`, listener);
  showSimple();
  showBatch();
  showJudged();
  showDetails();
  showCode();
  return () => {
    clearInterval(playing);
    for (const [name, listener] of Object.entries(listeners)) model.off(`change:${name}`, listener);
  };
}
export default { render };
