"""Write docs/explorer-*.png, the explorer at a wrong image: `make readme-pictures`.

The explorer is the real one: its state is computed by Python, its own JavaScript draws it in
Chromium, wide and narrow, light and dark, without a kernel. What the picture shows in words is
stored in it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WIDTHS = {"": 900, "-narrow": 400}
GROUNDS = {"light": ("#ffffff", "#1f2328"), "dark": ("#0d1117", "#e6edf3")}


def explorer() -> Any:
    """The explorer on the README's batch, at the wrong image."""
    import vlmdebug as vd

    _, processor = vd.tiny.build("gemma4")
    inputs = vd.tiny.batch("gemma4", images_per_sample=[2, 1, 1], sizes=(160, 160))
    batch = vd.read_batch(inputs, processor=processor)
    return vd.explore(vd.slicers.by_sample, batch)


def page_of(shown: str, scheme: str) -> str:
    """A page with the explorer and nothing else."""
    ground, ink = GROUNDS[scheme]
    style = f"body{{margin:0;padding:10px;color:{ink};background:{ground}}}"
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style>{shown}'


def words_of(state: Mapping[str, Any]) -> str:
    """What the picture shows, in words: the verdict, the lanes, the sentence, rows and images."""
    judged = state["_judged"]
    lanes = ", ".join(lane["name"] for lane in state["_batch"]["lanes"])
    said = " ".join(unescape(re.sub(r"<[^>]*>", " ", state["_details"])).split())
    cut = state["_cut"]
    parts = (judged["verdict"], judged["subject"], lanes, cut["sentence"], cut["said"], said)
    return " | ".join(parts)


def main() -> None:
    """Write the four pictures."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from playwright.sync_api import sync_playwright

    from vlmdebug.views.without_kernel import fragment

    shown, words = explorer(), PngInfo()
    words.add_text("Description", words_of(shown.get_state()))
    drawn = fragment(shown)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in GROUNDS:
            for name, width in WIDTHS.items():
                page = browser.new_page(
                    color_scheme=scheme,  # pyright: ignore[reportArgumentType]
                    viewport={"width": width, "height": 400},
                    device_scale_factor=2,
                )
                page.set_content(page_of(drawn, scheme))
                images = page.wait_for_selector(".vlmdebug-images")
                box = images.bounding_box()
                part = {"x": 0, "y": 0, "width": width, "height": box["y"] + box["height"] + 4}
                taken = Image.open(BytesIO(page.screenshot(full_page=True, clip=part)))
                path = ROOT / "docs" / f"explorer-{scheme}{name}.png"
                taken.convert("RGB").quantize(128).save(path, optimize=True, pnginfo=words)
                print(f"wrote {path} ({path.stat().st_size // 1000} KB)")
        browser.close()


if __name__ == "__main__":
    main()
