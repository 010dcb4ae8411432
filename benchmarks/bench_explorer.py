"""Response times of the explorer: from a slider step until it is painted, in JupyterLab.

Budgets: 50 ms at 64 samples and 150 ms at 512, through the kernel and back; first display, from
running the cell until it is painted, at most twice the processor time of an `ipywidgets.IntSlider`
in the same notebook, at 64 samples: that of kernel, server and browser together, on Linux. Needs
Chromium and what `make test` installs.

The explorer's own part is measured without a browser, in processor time, which other programs on
the machine do not change: a step may cost 15 ms more than a click at 64 samples, 60 ms at 512.

Jupyter Server leaves Nagle's algorithm on for its websockets, so the second of two small messages
waits about 40 ms for the browser to acknowledge the first (tornado's documentation of `set_nodelay`
says so). Both are measured: Jupyter's default, and without Nagle's algorithm.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import getsource
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import lab
import psutil

import vlmdebug as vd
from vlmdebug import slicers

STEPS = 15
ROUNDS = 9


def batch_of(samples: int) -> vd.Batch:
    """As many samples, with up to three images of three sizes each."""
    images = [(2, 0, 3, 1, 2)[sample % 5] for sample in range(samples)]
    return vd.make_batch("qwen2_5_vl", images, sizes=[1 + i % 3 for i in range(sum(images))])


MAKE = f"""import vlmdebug as vd
from ipywidgets import IntSlider
from vlmdebug import slicers
from vlmdebug.views import explorer as _  # imports are not what is measured
{getsource(batch_of)}
small, large = batch_of(64), batch_of(512)
first = vd.explore(slicers.by_sample, batch_of(2)), IntSlider()"""
JUDGED = ".vlmdebug-verdict[data-verdict]:not([data-verdict=''])"
# What is displayed, and the element that is there once it is.
SHOW = {
    "slider": ("IntSlider(min=1, max=64)", ".widget-hslider"),
    "64": ("vd.explore(slicers.by_sample, small)", JUDGED),
    "512": ("vd.explore(slicers.by_sample, large)", JUDGED),
}
# From the input event until the frame after the words on screen have changed.
STEP = """([index, size]) => new Promise(done => {
  const root = document.querySelectorAll(".vlmdebug")[index];
  const slider = root.querySelector("input[type=range]");
  const said = root.querySelector(".vlmdebug-bar span:nth-child(2)");
  const begin = performance.now();
  const seen = new MutationObserver(() => {
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
  });
  seen.observe(said, {childList: true, characterData: true, subtree: true});
  slider.value = size;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""
# The same for a click that computes almost nothing: the notebook's own round trip.
CLICK = """([index, chunk]) => new Promise(done => {
  const root = document.querySelectorAll(".vlmdebug")[index];
  const begin = performance.now();
  const seen = new MutationObserver(() => {
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
  });
  seen.observe(root.querySelectorAll("svg g")[1], {childList: true});
  root.querySelectorAll(".vlmdebug-chunks button")[chunk].click();
})"""
NO_DELAY = """from tornado.websocket import WebSocketProtocol13 as Protocol
loop = Protocol._receive_frame_loop
async def without_delay(self):
    self.stream.set_nodelay(True)
    await loop(self)
Protocol._receive_frame_loop = without_delay"""
# From running the cell until one more of these elements is painted.
DISPLAY = """element => new Promise(done => {
  const before = document.querySelectorAll(element).length;
  const begin = performance.now();
  const wait = () => document.querySelectorAll(element).length > before
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)))
    : setTimeout(wait, 2);
  window.jupyterapp.commands.execute("notebook:run-cell-and-select-next");
  wait();
})"""


def main() -> None:
    """Print the table."""
    print("explorer, its own part (ms of processor time)")
    for samples, budget in ((64, 15), (512, 60)):
        print(f"    {samples:4} samples  {computed(samples, budget)}")
    if lab.CHROMIUM is None:
        print("Chromium is not installed; nothing was measured")
        return
    print("explorer (ms; budgets: a step 50 and 150, first display twice that of a slider)")
    for title, config in (("as Jupyter serves it", ""), ("without Nagle's delay", NO_DELAY)):
        print(f"  {title}")
        folder = Path(tempfile.mkdtemp())
        cells = [code for code, _ in SHOW.values()] * ROUNDS
        lab.write_notebook(folder / "a.ipynb", MAKE, *cells)
        with lab.browser() as chromium, lab.lab(folder, config) as address:
            page = chromium.new_page(viewport={"width": 1280, "height": 1400})
            lab.open_notebook(page, address, "a.ipynb")
            page.locator(".jp-CodeCell .jp-InputArea-editor").first.click()
            lab.command(page, "notebook:run-cell-and-select-next")
            prompt = page.query_selector(".jp-CodeCell .jp-InputPrompt")
            page.wait_for_function("p => /\\d/.test(p.textContent)", arg=prompt)
            report_on(page)


def report_on(page: Any) -> None:
    """First displays, interleaved, and steps of the first explorer of each size."""
    times: dict[str, list[float]] = {name: [] for name in SHOW}
    work: dict[str, list[float]] = {name: [] for name in SHOW}
    for name in [*SHOW] * ROUNDS:
        before = work_so_far()
        times[name].append(page.evaluate(DISPLAY, SHOW[name][1]))
        work[name].append(work_so_far() - before)
        page.wait_for_timeout(500)
        if name != "slider" and len(times[name]) == 1:
            index, budget = {"64": (0, 50), "512": (1, 150)}[name]
            print(f"    {name:>4} samples  {stepped(page, index, budget)}")
    for name in ("64", "512"):
        longer, ratio = (median(of[name]) / median(of["slider"]) for of in (times, work))
        print(
            f"    {name:>4} samples  first display {median(times[name]):4.0f}, {longer:.1f} times a"
            f" slider   processor time {median(work[name]):4.0f}, {ratio:.1f} times a slider"
            f" {'OK' if ratio <= 2 else 'OVER'}"
        )


def work_so_far() -> float:
    """Processor time of kernel, server and browser since they began, in ms."""
    spent = 0
    for process in psutil.Process().children(recursive=True):
        for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # it has ended
                spent += int(thread.read_text().split()[0])
    return spent / 1e6


def computed(samples: int, budget: int) -> str:
    """Each chunk size once, then clicks on chunks, which compute nothing."""
    explorer = vd.explore(slicers.by_sample, batch_of(samples))
    steps = [spent(partial(setattr, explorer, "chunk_size", size)) for size in range(2, 12)]
    clicks = [spent(partial(setattr, explorer, "chunk", chunk)) for chunk in range(1, 6)]
    above = median(steps) - median(clicks)
    verdict = "OK" if above <= budget else "OVER"
    return (
        f"step {median(steps):4.0f} (worst {max(steps):.0f})   click {median(clicks):4.1f}"
        f"   above a click {above:4.0f} of {budget} {verdict}"
    )


def spent(action: Callable[[], None]) -> float:
    """Processor time of an action, in ms."""
    begin = process_time()
    action()
    return (process_time() - begin) * 1e3


def stepped(page: Any, index: int, budget: int) -> str:
    """Steps of the slider over small and large chunk sizes."""
    sizes = [2 + step % 7 for step in range(STEPS)]
    steps = [page.evaluate(STEP, [index, size]) for size in sizes]
    clicks = [page.evaluate(CLICK, [index, chunk]) for chunk in range(1, 8)]
    verdict = "OK" if median(steps) <= budget else "OVER"
    return (
        f"step {median(steps):4.0f} (worst {max(steps):.0f}) {verdict}"
        f"   a click that computes nothing {median(clicks):4.0f}"
    )


if __name__ == "__main__":
    main()
