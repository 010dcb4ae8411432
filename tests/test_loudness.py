"""Loud, silent or unknown, of each mistake by itself: what is said is what the model does.

Random calls in which a single thing is wrong go through every model. VLMDEBUG_CALLS says how many
for each; `make test` takes a few.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import architectures

import vlmdebug as vd

CALLS = int(os.environ.get("VLMDEBUG_CALLS", "30"))
SIZES = [(200, 100), (100, 200), (160, 160), (100, 300), (300, 100)]
NUMBERS = [(2, 0, 1), (1, 1, 2), (0, 2, 1), (1, 1, 1), (3, 1, 0), (0, 0, 2), (1, 2, 1)]

Change = Callable[[torch.Tensor, int, int, random.Random], torch.Tensor]


@pytest.fixture(params=architectures())
def family(request):
    return request.param


def batch_of(family, built, dice):
    images = dice.choice(NUMBERS)
    sizes = [dice.choice(SIZES[: dice.choice([1, 3, 5])]) for _ in range(sum(images))]
    side = dice.choice(["left", "right"])
    inputs = vd.tiny.batch(family, images, sizes=sizes, seed=dice.randint(0, 9), padding_side=side)
    model, processor = built[family]
    return vd.read_batch(inputs, processor=processor, config=model.config, num_images=images)


def some(tensor, start, stop, dice):
    """As many rows, from elsewhere."""
    begin = dice.randint(0, len(tensor) - (stop - start))
    return tensor[begin : begin + stop - start]


def more(tensor, start, stop, dice):
    return torch.cat([tensor[start:stop], tensor[: dice.randint(1, len(tensor))]])


def fewer(tensor, start, stop, dice):
    return tensor[start : max(start, stop - dice.randint(1, max(1, stop - start)))]


ROWS: dict[str, Change] = {
    "other rows": some,
    "more rows": more,
    "fewer rows": fewer,
    "one row": lambda t, a, b, dice: t[a : a + 1],
    "first rows": lambda t, a, b, dice: t[: dice.randint(1, len(t))],
    "no rows": lambda t, a, b, dice: t[:0],
    "all rows": lambda t, a, b, dice: t,
    "reversed": lambda t, a, b, dice: t[a:b].flip(0),
    "doubled": lambda t, a, b, dice: torch.cat([t[a:b], t[a:b]]),
    "one row again and again": lambda t, a, b, dice: t[a : a + 1].repeat(
        b - a, *[1] * (t.ndim - 1)
    ),
    "rows before": lambda t, a, b, dice: t[max(0, a - 1) : b],
    "rows after": lambda t, a, b, dice: t[a : b + 1],
}


def bounds(batch, key, first, last):
    offsets = batch.counts[batch.layout[key].unit].offsets
    return offsets[first], offsets[last]


def groups(batch):
    """Keys of tokens one by one, media keys one by one and all together."""
    media = list(batch.image.keys)
    tokens = [key for key in batch.layout if key not in media and key != "input_ids"]
    return [[key] for key in [*tokens, *media]] + [media] * 3


def changed(batch, chunk, first, last, dice, keys=None) -> tuple[str, dict[str, Any]] | None:
    """The chunk with one thing wrong, and what it is; None where the change is none."""
    keys, name = keys or dice.choice(groups(batch)), dice.choice([*ROWS, "dropped"])
    made = dict(chunk)
    seed = dice.random()
    for key in keys:
        if name == "dropped":
            made.pop(key, None)
        elif batch.layout[key].dim == 0:
            rows = ROWS[name](
                batch.inputs[key], *bounds(batch, key, first, last), random.Random(seed)
            )
            made[key] = rows
    same = made.keys() == chunk.keys() and all(
        made[key].shape == chunk[key].shape and torch.equal(made[key], chunk[key]) for key in made
    )
    return None if same else (f"{' and '.join(keys)}: {name}", made)


def with_videos(model, processor, dice):
    """A batch of videos of patches, laid out by hand: their processors need torchvision."""
    tokenizer, config = processor.tokenizer, model.config
    grids, rows = [], []
    for number, count in enumerate(dice.choice([(1, 0, 1), (2, 1, 0), (1, 1, 1), (2, 0, 2)])):
        row = [tokenizer.bos_token_id or 1, 50 + number]
        for _ in range(count):
            grids.append(dice.choice([(1, 4, 4), (1, 4, 8), (1, 8, 4)]))
            row += [60, *[config.video_token_id] * (grids[-1][1] * grids[-1][2] // 4), 61]
        rows.append([*row, 62])
    width, pad = max(map(len, rows)), tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    like = vd.tiny.batch(model.config.model_type, [1])
    inputs = {"input_ids": ids, "attention_mask": (ids != pad).long()}
    if "mm_token_type_ids" in like:
        inputs["mm_token_type_ids"] = 2 * (ids == config.video_token_id).long()
    inputs["video_grid_thw"] = torch.tensor(grids)
    patches = int(inputs["video_grid_thw"].prod(1).sum())
    noise = torch.Generator().manual_seed(0)
    shape = like["pixel_values"].shape[1:]
    inputs["pixel_values_videos"] = torch.randn(patches, *shape, generator=noise)
    return vd.read_batch(inputs, processor=processor, config=config)


def judged(batch, chunks, index, call):
    """The mismatches of a call that came in place of a right chunk."""

    def slicer(inputs, chunk_size):
        for place, chunk in enumerate(chunks):
            yield call if place == index else chunk

    size = len(chunks[0]["input_ids"])
    report = vd.check(slicer, batch, chunk_size=size, pictures=False)
    return [m for m in report.mismatches if m.chunk == index]


def wrong_calls(family, built, seed, calls):
    dice = random.Random(f"{family} {seed}")
    made = 0
    while made < calls:
        batch = batch_of(family, built, dice)
        size = dice.randint(1, 3)
        chunks = [dict(chunk) for chunk in batch.chunks(size)]
        for _ in range(8):
            index = dice.randrange(len(chunks))
            first = index * size
            last = min(first + size, len(batch))
            change = changed(batch, chunks[index], first, last, dice)
            if change is not None:
                yield batch, chunks, index, *change
                made += 1


def runs(model, call):
    try:
        with torch.no_grad():
            model(**call)
    except Exception:
        return False
    return True


def test_each_mistake_is_as_loud_as_the_model_or_not_known(family, built):
    model = built[family][0]
    said = Counter()
    wrong = []
    for batch, chunks, index, name, call in wrong_calls(family, built, 0, CALLS):
        does = runs(model, call)
        for m in judged(batch, chunks, index, call):
            said[m.silent] += 1
            if m.silent is not None and m.silent is not does:
                wrong.append((name, m.code, m.key, m.silent, m.message.split("\n")[0]))

    assert not wrong
    assert said[None] <= sum(said.values()) / 3, said


def test_a_mistake_keeps_its_loudness_beside_another(family, built):
    found = 0
    seen = wrong_calls(family, built, 1, CALLS)
    for batch, chunks, index, name, call in seen:
        media = set(batch.image.keys)
        right = chunks[index]
        tokens = [k for k in right if k not in media and k != "input_ids" and k in batch.layout]
        beside = next((k for k in tokens if k != "attention_mask"), "attention_mask")
        if beside in name:
            continue
        alone = {(m.key, m.code): m.silent for m in judged(batch, chunks, index, call)}
        both = judged(batch, chunks, index, {k: v for k, v in call.items() if k != beside})
        together = {(m.key, m.code): m.silent for m in both}
        found += len(alone)

        assert {key: together.get(key, "missing") for key in alone} == alone, name

    assert found > CALLS / 10


SHAPES = [
    ("mllama", "aspect_ratio_mask", lambda t: t[:, None]),
    ("mllama", "aspect_ratio_ids", lambda t: t[None]),
    ("gemma3n", "pixel_values", lambda t: t[0]),
    ("gemma4_unified", "image_position_ids", lambda t: t[..., 1:]),
    ("gemma4", "input_ids", torch.Tensor.bool),
    ("llava", "input_ids", lambda t: t[None]),
    ("lighton_ocr", "image_sizes", lambda t: t[..., None]),
    ("llava_onevision", "image_sizes", lambda t: t[:, :1]),
    ("lfm2_vl", "pixel_attention_mask", lambda t: torch.nn.functional.pad(t[:, 1:], (0, 1))),
    ("idefics3", "pixel_attention_mask", lambda t: t[:1].expand(t.shape)),
    ("qwen3_5", "attention_mask", lambda t: t.roll(t.shape[1] // 2, 1)),
    ("qwen4_exp", "attention_mask", lambda t: t.repeat(2, 1)),
    ("inkling2", "attention_mask", lambda t: t.repeat(2, 1)),
]


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in SHAPES if row[0] in architectures()],
)
@pytest.mark.parametrize("images", [(0, 1, 2), (1, 1), (2, 0, 1)], ids=str)
def test_change_of_shape_or_values_is_as_loud_as_the_model_or_not_known(
    name, key, change, images, built
):
    model, processor = built[name]
    inputs = vd.tiny.batch(name, images, sizes=[SIZES[n % 3] for n in range(sum(images))])
    batch = vd.read_batch(inputs, processor=processor, config=model.config, num_images=images)
    found = []
    for size in range(1, len(images) + 1):
        chunks = [dict(chunk) for chunk in batch.chunks(size)]
        for index, chunk in enumerate(chunks):
            if key in chunk:
                call = {**chunk, key: change(chunk[key])}
                does = runs(model, call)
                found += [(does, m.silent) for m in judged(batch, chunks, index, call)]

    assert found
    assert all(said in (does, None) for does, said in found)


def makes_the_same(model, call, chunk):
    """Whether the model gives the text of the call the same logits as that of the right chunk."""
    if not runs(model, call):
        return False
    shown = chunk["attention_mask"].bool() if "attention_mask" in chunk else ...
    with torch.no_grad():
        made, right = model(**call).logits, model(**chunk).logits
    if made.shape != right.shape:  # a decoder that makes a text of its own
        return False
    return torch.allclose(made[shown], right[shown], atol=1e-5, rtol=1e-4)


def is_unmasked(family, name):
    """PaliGemma makes no mask for one full row, and then attends to all of it (5.23)."""
    return family == "paligemma" and name == "no token_type_ids"


def with_and_without(batch, chunk):
    """The chunk without each of its keys, and with zero rows of each media key that it lacks."""
    for key in batch.layout:
        if key in chunk and key != "input_ids":
            yield f"no {key}", {name: value for name, value in chunk.items() if name != key}
        elif key in batch.layout.media and key not in chunk:
            yield f"zero rows of {key}", {**chunk, key: batch.inputs[key][:0]}


def test_key_is_needed_exactly_where_the_model_makes_something_else_without_it(family, built):
    model = built[family][0]
    dice = random.Random(family)
    wrong = []
    for _ in range(max(1, CALLS // 30)):
        batch = batch_of(family, built, dice)
        chunks = [dict(chunk) for chunk in batch.chunks(2)]
        for index, chunk in enumerate(chunks):
            for name, call in with_and_without(batch, chunk):
                found = judged(batch, chunks, index, call)
                same = makes_the_same(model, call, chunk)
                if bool(found) is same and not (found and is_unmasked(family, name)):
                    wrong.append((name, index, [m.message for m in found]))

    assert not wrong


@pytest.mark.parametrize("family", architectures(["apertus1p5", "emu3", "lighton_ocr", "mistral3"]))
@pytest.mark.parametrize("of", [(0, 0, 1), (0, 1, 1), (0, 1, 0)], ids=str)
def test_surplus_sizes_are_as_loud_as_the_model(family, of, built):
    """Apertus 1.5 pairs sizes with pixels, and ignores the rest; the others raise."""
    model, processor = built[family]
    inputs = vd.tiny.batch(family, [2, 1], sizes=[(96, 64), (160, 128), (96, 64)])
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    chunks = [dict(chunk) for chunk in batch.chunks(1)]
    call = {**chunks[0], "image_sizes": chunks[0]["image_sizes"][list(of)]}

    (said,) = {m.silent for m in judged(batch, chunks, 0, call) if m.key == "image_sizes"}
    assert said is runs(model, call)


VIDEOS = ("qwen2_5_vl", "qwen3_vl", "cosmos3_omni", "exaone4_5")


@pytest.mark.parametrize("family", [name for name in VIDEOS if name in architectures()])
def test_each_mistake_with_videos_is_as_loud_as_the_model_or_not_known(family, built):
    model = built[family][0]
    said, wrong = Counter(), []
    dice = random.Random(family)
    for _ in range(CALLS // 4):
        batch = with_videos(*built[family], dice)
        chunks = [dict(chunk) for chunk in batch.chunks(1)]
        index = dice.randrange(len(chunks))
        stream = [*batch.modalities["video"].keys]
        keys = dice.choice([[key] for key in stream] + [stream])
        change = changed(batch, chunks[index], index, index + 1, dice, keys)
        if change is None:
            continue
        name, call = change
        does = runs(model, call)
        for m in judged(batch, chunks, index, call):
            said[m.silent] += 1
            if m.silent is not None and m.silent is not does:
                wrong.append((name, m.code, m.key, m.silent, m.message.split("\n")[0]))

    assert not wrong
    assert said[None] <= sum(said.values()) / 3, said


@pytest.mark.parametrize("key", ["cross_attention_mask", "aspect_ratio_mask"])
def test_mask_of_mllama_with_two_dimensions_swapped_is_not_called_loud(built, key):
    """Its model reshapes the mask, so that as many numbers do."""
    model, processor = built["mllama"]
    inputs = vd.tiny.batch("mllama", [1, 1])
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    def slicer(_, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, key: chunk[key].transpose(-1, -2)}

    report = vd.check(slicer, batch, chunk_size=2)
    with torch.no_grad():
        assert len(model(**next(iter(slicer(None, 2)))).logits) == 2
    assert report.verdict == "MISMATCH"
    assert {one.silent for one in report.mismatches} == {None}


COLUMNS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "fewer": lambda value: value[..., :-3],
    "more": lambda value: torch.nn.functional.pad(value, (0, 2)),
    "other": lambda value: value.roll(1, -1),
}


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("of", ["qwen2_5_vl", "llava", "ernie4_5_vl_moe"])
def test_other_columns_of_a_key_are_as_loud_as_the_model_or_not_known(of, placed, built):
    """With positions M-RoPE reads no types; what a trainer adds is read by no model."""
    model, processor = built[of]
    inputs = dict(vd.tiny.batch(of, [1, 0, 2]))
    if placed:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    inputs["loss_weight"] = torch.rand(inputs["input_ids"].shape)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    chunks, said, wrong = [dict(chunk) for chunk in batch.chunks(1)], Counter(), []
    for key in batch.token_dims:
        for name, change in COLUMNS.items():
            if key == "input_ids":
                continue
            for index, chunk in enumerate(chunks):
                call = chunk | {key: change(chunk[key])}
                does = runs(model, call)
                for m in judged(batch, chunks, index, call):
                    said[key, m.silent] += 1
                    if m.silent not in (None, does):
                        wrong.append((key, name, index, m.code, m.silent))

    assert not wrong
    assert said["loss_weight", None]
    assert placed or of == "llava" or said["mm_token_type_ids", False]


@pytest.mark.parametrize("of", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "hy_v4_vl"])
@torch.no_grad()
def test_wrong_types_next_to_positions_of_the_model_are_said_to_change_nothing(of, built):
    model, processor = built[of]
    inputs = dict(vd.tiny.batch(of, [1, 1]))
    key, marks = "mm_token_type_ids", inputs["mm_token_type_ids"]
    names = ("input_ids", "image_grid_thw", "attention_mask", key)
    placed = model.model.get_rope_index(**{name: inputs[name] for name in names})[0]
    one_less = marks.clone()
    one_less[0, int(marks[0].argmax())] = 0
    unread = f"it does not read {key} next to position_ids, and computes the same."

    def said(given, cut=None):
        batch = vd.read_batch(given, processor=processor, config=model.config)
        report = vd.check(batch) if cut is None else vd.check(lambda *_: [cut], batch, chunk_size=2)
        assert report.verdict == "MISMATCH"
        return {(one.silent, unread in one.message) for one in report.mismatches if one.key == key}

    with_places = inputs | {"position_ids": placed}
    right = model(**with_places).logits
    for wrong in (one_less, marks.flip(0), torch.zeros_like(marks)):
        assert torch.equal(model(**with_places | {key: wrong}).logits, right)
        assert said(with_places, with_places | {key: wrong}) == {(True, True)}
        assert all(not same for _, same in said(inputs, inputs | {key: wrong}))
        assert runs(model, inputs | {key: wrong}) is False or not torch.equal(
            model(**inputs | {key: wrong}).logits, right
        )
    assert said(with_places | {key: one_less}) == {(True, True)}
    assert said(inputs | {key: one_less}) == {(None, False)}
