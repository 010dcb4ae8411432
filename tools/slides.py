"""Figures for slides: `make slides` writes each as SVG and PNG, for light and dark slides.

They show the batches of notebooks 01 and 03: which row is which sample, what a slicer by samples
passes, and the image that a sample sees instead of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import vlmdebug as vd

FOLDER = Path(__file__).parent.parent / "slides"
THEMES = {"light": ("white", "#1a1a1a"), "dark": ("#111111", "#f2f2f2")}
"""Background and ink."""
IMAGES, SIZE = [2, 1, 1], (160, 160)


def figures() -> Iterator[tuple[str, Any]]:
    """Name and figure, drawn in the theme that is set."""
    for family, images in (("gemma4", IMAGES), ("qwen2_5_vl", [1, 0, 2]), ("idefics3", [1, 0, 2])):
        inputs = vd.tiny.batch(family, images, sizes=SIZE)
        batch = vd.read_batch(inputs, processor=vd.tiny.build(family)[1])
        yield f"layout_{family}", vd.plot_layout(batch).figure
        report = vd.check(vd.slicers.by_sample, batch, chunk_size=1, pictures=True)
        yield f"chunks_{family}", report.plot().figure
        yield f"chunk_1_{family}", report.plot_layout(chunk=1).figure
    yield "silent", wrong_image()


def wrong_image() -> Figure:
    """The image of sample B in notebook 01, and the one that it gets."""
    samples = vd.tiny.images(IMAGES, SIZE)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    shown = (("sample B should see B1", samples[1][0]), ("it sees A2", samples[0][1]))
    for ax, (title, image) in zip(figure.subplots(1, 2), shown, strict=True):
        ax.imshow(image)
        ax.set_title(title)
        ax.axis("off")
    return figure


def theme(background: str, ink: str) -> dict[Any, Any]:
    """Settings of matplotlib: words stay text in the SVG."""
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    grounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return {
        **dict.fromkeys(inks, ink),
        **dict.fromkeys(grounds, background),
        "svg.fonttype": "none",
        "svg.hashsalt": "vlmdebug",  # the same file each time
    }


def main(folder: Path = FOLDER) -> None:
    """Write all figures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (background, ink) in THEMES.items():
        with mpl.rc_context(theme(background, ink)):
            for stem, figure in figures():
                path = folder / f"{stem}_{name}"
                figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
                figure.savefig(path.with_suffix(".png"), dpi=200)
    print(f"{len([*folder.iterdir()])} files in {folder}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
