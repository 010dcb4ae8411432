"""The details next to the explorer's drawing: the selected images and the findings, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from vlmdebug.core.mismatch import Finding, Mismatch, group
from vlmdebug.core.record import Record
from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import letter
from vlmdebug.safe import escaped, one_line
from vlmdebug.views import picture, rows
from vlmdebug.views.sentences import named, sentence, slices

MOST_FINDINGS = 6
MOST_IMAGES = 6


class Thumbnail(Protocol):
    """The URI of an image of the batch, of some of its rows where given; None without one."""

    def __call__(self, image: int, rows: Rows | None = None) -> str | None: ...


@dataclass(frozen=True)
class Details:
    """The parts of a report that the explorer shows for what is on screen."""

    report: Record
    thumbnail: Thumbnail

    def of_selection(self, lanes: Sequence[picture.Lane], selection: Mapping[str, Any]) -> str:
        """The images of the picked box; empty where nothing is picked."""
        lane = next((one for one in lanes if one.name == selection.get("lane")), None)
        index, scene = selection.get("index"), self.report.scene
        if lane is None or not isinstance(index, int) or not 0 <= index < len(lane.boxes):
            return ""
        if scene is None:
            return ""
        box = lane.boxes[index]
        name = scene.name(box.image) if box.image >= 0 else f"sample {letter(box.sample)}"
        where = "" if lane.name in ("samples", "images") else f"{lane.name}[{box.start}:{box.stop}]"
        first = sum(scene.images[: box.sample])
        every = range(first, first + scene.images[box.sample])
        images = [box.image] if box.image >= 0 else list(every)
        said = f"<strong>{escaped(name)}</strong> {escaped(one_line(where, 80))}"
        return f"<p>{said}</p>{self._thumbnails(images, named=len(images) > 1)}"

    def sentence(self, chunk: int) -> str:
        """What happened in a chunk, or that all is right there; empty where nothing is known."""
        found = self._findings(chunk)
        return sentence(self.report, found[0].worst) if found else self._right(chunk)

    def of_chunk(self, chunk: int) -> str:
        """The findings of a chunk; where there are none, the images of the samples."""
        found = self._findings(chunk)
        parts = [] if found else [self._relief(chunk)]
        for finding in found[:MOST_FINDINGS]:
            if finding is not found[0]:
                said = one_line(sentence(self.report, finding.worst), 600)
                parts.append(f"<p><strong>{escaped(said)}</strong></p>")
            parts.append(self._pair(finding.worst) if finding is found[0] else "")
            lines = slices(self.report, finding)
            code = "\n".join(escaped(one_line(f"{sign} {text}", 200)) for sign, text in lines)
            parts.append(f"<pre>{code}</pre>" if code else "")
            text = escaped(finding.message).replace("\n", "<br>")
            parts.append(f"<p>✗ <strong>{escaped(finding.code)}</strong> {text}</p>")
        if len(found) > MOST_FINDINGS:
            parts.append(f"<p>… {len(found) - MOST_FINDINGS} more in explorer.report</p>")
        return "".join(parts)

    def doubts(self) -> str:
        """What was not compared."""
        every = self.report.ambiguities
        said = [f"<p>? {escaped(text)}</p>" for text in every[:MOST_FINDINGS]]
        left = len(every) - MOST_FINDINGS
        more = f"<p>… {left} more in explorer.report</p>" if left > 0 else ""
        return "".join(said) + more

    def _findings(self, chunk: int) -> tuple[Finding, ...]:
        made = len(self.report.chunks)  # a slicer that raised made no chunk there
        own = [m for m in self.report.mismatches if m.chunk in (chunk, None, made)]
        media = rows.media(self.report)
        return group(own, media=media, layout=self.report.layout)

    def _pair(self, mismatch: Mismatch) -> str:
        """Images that the chunk should see, next to those that it got."""
        scene, key = self.report.scene, mismatch.key
        if scene is None or key is None or mismatch.actual is None or mismatch.expected is None:
            return ""
        right, given = (scene.images_in(key, r) for r in (mismatch.expected, mismatch.actual))
        if not right and not given:
            return ""
        who = escaped(named(mismatch.samples))
        return (
            f"<table><tr><th scope='col'>{who} should see</th>"
            "<th scope='col'>was passed</th></tr><tr>"
            f"<td>{self._thumbnails(right)}</td>"
            f"<td>{self._thumbnails(given, key, mismatch.actual)}</td></tr></table>"
        )

    def _right(self, index: int) -> str:
        """`Every row of chunk 1 belongs to sample B.` where the chunk is right."""
        report = self.report
        if (
            report.chunk_size is None
            or not report.chunks
            or not rows.chunk_verdicts(report)[index].ok
        ):
            return ""
        samples = report.chunks[index].samples
        who = named(samples).replace("S", "s", 1) if samples else "no sample"
        several = len(report.chunks) > 1
        every = f" All {len(report.chunks)} chunks are right." if report.ok and several else ""
        return f"Every row of chunk {index} belongs to {who}.{every}"

    def _relief(self, index: int) -> str:
        """The proof that a right chunk is right: its samples and their own images.

        Where all chunks are right, those of every sample; if they are many, the chunk's first.
        """
        scene, report = self.report.scene, self.report
        if scene is None or not self._right(index):
            return ""
        own = list(report.chunks[index].samples)
        others = [s for s in range(report.samples) if s not in own] if report.ok else []
        samples = [s for s in (*own, *others) if scene.images[s]]
        if sum(scene.images[s] for s in samples) <= MOST_IMAGES:
            samples.sort()
        ends, parts, left = (0, *accumulate(scene.images)), list[str](), MOST_IMAGES
        while samples and left > 0:
            sample = samples.pop(0)
            images = self._thumbnails(range(ends[sample], ends[sample + 1]))
            parts.append(f"<div><strong>{named((sample,))}</strong>{images}</div>")
            left -= scene.images[sample]
        if samples:
            more = "sample" if len(samples) == 1 else "samples"
            parts.append(f"<p>and {len(samples)} more {more}</p>")
        return f"<div class='vlmdebug-images'>{''.join(parts)}</div>" if parts else ""

    def _thumbnails(
        self,
        images: Iterable[int],
        key: str = "",
        given: Rows | None = None,
        *,
        named: bool = True,
    ) -> str:
        scene, every = self.report.scene, list(images)
        if scene is None:
            return ""
        found = []
        for image in every[:MOST_IMAGES]:
            name = scene.share(key, image, given)
            part = None
            if name != scene.name(image) and key == "pixel_values":
                part = self.thumbnail(image, given)
            uri = part or self.thumbnail(image)
            faded = " style='opacity:.25'" if name != scene.name(image) and part is None else ""
            alt = "" if named else escaped(name)
            shown = f'<img alt="{alt}"{faded} src="{escaped(uri, 100_000)}">' if uri else ""
            caption = f"<figcaption>{escaped(name)}</figcaption>" if named or not shown else ""
            found.append(f"<figure>{shown}{caption}</figure>")
        left = len(every) - MOST_IMAGES
        more = f"<p>and {left} more</p>" if left > 0 else ""
        return f"<div class='vlmdebug-images'>{''.join(found) or 'no image'}{more}</div>"
