"""The layout families, and `read_batch`, which finds the family of a batch.

Adding a family is one file here, one line in `FAMILIES`, one tiny model and its test.
"""

from __future__ import annotations

from vlmdebug.core.given import described
from vlmdebug.errors import BadInput
from vlmdebug.families.base import Family
from vlmdebug.families.fuyu import Fuyu
from vlmdebug.families.gemma4 import Gemma4
from vlmdebug.families.granite_docling import GraniteDocling
from vlmdebug.families.idefics import Idefics
from vlmdebug.families.idefics2 import Idefics2
from vlmdebug.families.idefics3 import Idefics3
from vlmdebug.families.internvl import InternVL, Patches
from vlmdebug.families.lfm2_vl import Lfm2VL
from vlmdebug.families.llava import Llava
from vlmdebug.families.llava_next import LlavaNext
from vlmdebug.families.llava_onevision import LlavaOnevision
from vlmdebug.families.local_tiles import LocalTiles
from vlmdebug.families.mistral3 import Mistral3
from vlmdebug.families.mllama import Mllama
from vlmdebug.families.one_image import OneImage, OnePage, OneVideo
from vlmdebug.families.perception_lm import PerceptionLM
from vlmdebug.families.qwen2_5_vl import NemotronHOmni, Qwen2_5VL
from vlmdebug.families.synthesize import BatchSpec
from vlmdebug.safe import one_line

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Gemma4(),
        Qwen2_5VL(),
        NemotronHOmni(),
        GraniteDocling(),
        Idefics3(),
        Idefics2(),
        Mllama(),
        Idefics(),
        InternVL(),
        Patches(),
        Lfm2VL(),
        LlavaNext(),
        LlavaOnevision(),
        LocalTiles(),
        Mistral3(),
        PerceptionLM(),
        Llava(),
    )
}

ONE_IMAGE: Family = OneImage()
"""A slice by sample is right for it, so `falsify` draws no batches of it unless asked."""
EVERY: tuple[Family, ...] = (*FAMILIES.values(), ONE_IMAGE, OnePage(), OneVideo(), Fuyu())


def find_family(name: str) -> Family | None:
    """The family of that name, or the family that reads batches of that model type."""
    if name in FAMILIES:
        return FAMILIES[name]
    return next((f for f in EVERY if name in (f.name, *f.models, *f.processors)), None)


def family_named(name: str) -> Family:
    """As `find_family`, but an unknown name raises `BadInput` with the known names."""
    if not isinstance(name, str):
        raise BadInput(
            f"A family is {described(name)}, but it is a name, such as 'gemma4'. "
            "`vlmdebug families` lists them."
        )
    family = find_family(name)
    if family is None:
        from difflib import get_close_matches

        known = sorted({name for f in EVERY for name in (f.name, *f.models)})
        near = get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else f". Known are {', '.join(known)}."
        raise BadInput(
            f"{one_line(repr(name), 80)} is not a layout family{meant} "
            "Or pass layout={key: unit} for your own."
        )
    return family


__all__ = ["EVERY", "FAMILIES", "ONE_IMAGE", "BatchSpec", "Family", "family_named", "find_family"]
