"""One mistake in many words, all of them seen; and right functions, none of them accused."""

from __future__ import annotations

import textwrap
import time

import pytest

from vlmdebug import review

HEAD = """\
def cut(model, inputs, size, num_images=None):
    ids = inputs["input_ids"]
    pixels = inputs["pixel_values"]
    count = len(ids)
"""


def read(body: str) -> review.Review:
    """The review of a function with this body, for a batch `inputs` of `count` samples."""
    return review.source(HEAD + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n")


def in_chunks(body: str) -> str:
    """A loop over chunks, from `a` up to `b`."""
    loop = textwrap.indent(body, "    ")
    return f"for a in range(0, count, size):\n    b = min(a + size, count)\n{loop}"


def in_samples(body: str) -> str:
    """A loop over samples, `i`."""
    return f"for i in range(count):\n{textwrap.indent(body, '    ')}"


CALL = "model(input_ids=x, pixel_values=p)"
CUT = {
    "slice": in_chunks("model(input_ids=ids[a:b], pixel_values=pixels[a:b])"),
    "slice of all dimensions": in_chunks("model(ids[a:b, :], pixel_values=pixels[a:b, ...])"),
    "slice object": in_chunks("part = slice(a, b)\nmodel(ids[part], pixel_values=pixels[part])"),
    "end in a name": in_chunks("end = a + size\nmodel(ids[a:end], pixel_values=pixels[a:end])"),
    "one row": in_samples("model(ids[i], pixel_values=pixels[i])"),
    "one row with its dimension": in_samples("model(ids[i : i + 1], pixel_values=pixels[i][None])"),
    "one row, unsqueezed": in_samples(
        'yield {"input_ids": ids[i].unsqueeze(0), "pixel_values": pixels[i].unsqueeze(0)}'
    ),
    "list of indices": in_chunks(
        "rows = list(range(a, b))\nmodel(ids[rows], pixel_values=pixels[rows])"
    ),
    "tensor of indices": in_chunks(
        "rows = torch.arange(a, b)\nmodel(ids[rows], pixel_values=pixels[rows])"
    ),
    "random order": in_chunks(
        "rows = torch.randperm(count)[:size]\nmodel(ids[rows], pixel_values=pixels[rows])"
    ),
    "mask": in_chunks(
        "mask = torch.zeros(count, dtype=torch.bool)\nmask[a:b] = True\n"
        "model(ids[mask], pixel_values=pixels[mask])"
    ),
    "index_select": in_chunks(
        "rows = torch.arange(a, b)\n"
        "model(ids.index_select(0, rows), pixel_values=pixels.index_select(0, rows))"
    ),
    "narrow": in_chunks("model(ids.narrow(0, a, b - a), pixel_values=pixels.narrow(0, a, b - a))"),
    "split": f"for x, p in zip(ids.split(size), pixels.split(size)):\n    {CALL}",
    "torch.split": f"for x, p in zip(torch.split(ids, size), pixels.split(size)):\n    {CALL}",
    "np.array_split": f"""
        for x, p in zip(np.array_split(ids, count), np.array_split(pixels, count)):
            {CALL}
    """,
    "chunk": f"for x, p in zip(ids.chunk(count), pixels.chunk(count)):\n    {CALL}",
    "unbind": f"for x, p in zip(ids.unbind(0), torch.unbind(pixels)):\n    {CALL}",
    "iteration": "for x, p in zip(ids, pixels):\n    model(x[None], pixel_values=p[None])",
    "stack of rows": in_chunks(
        "x = torch.stack([ids[i] for i in range(a, b)])\n"
        f"p = torch.stack([pixels[i] for i in range(a, b)])\n{CALL}"
    ),
    "repeat": """
        p = pixels.repeat(2, *[1] * (pixels.ndim - 1))
        model(ids.repeat_interleave(2, dim=0), pixel_values=p)
    """,
    "repeat_interleave": """
        return {key: value.repeat_interleave(2, dim=0) for key, value in inputs.items()}
    """,
    "cat with itself": """
        model(ids.repeat_interleave(2, dim=0), pixel_values=torch.cat([pixels] * 2))
    """,
    "halves": """
        half = count // 2
        model(ids[:half], pixel_values=pixels[:half])
        model(ids[half:], pixel_values=pixels[half:])
    """,
    "all items": in_chunks("yield {key: value[a:b] for key, value in inputs.items()}"),
    "all tensors": in_chunks(
        "yield {k: v[a:b] if torch.is_tensor(v) else v for k, v in inputs.items()}"
    ),
    "loop over keys": in_chunks(
        'chunk = {}\nfor key in ("input_ids", "pixel_values"):\n    chunk[key] = inputs[key][a:b]\n'
        "model(**chunk)"
    ),
    "tree_map": in_chunks("yield tree_map(lambda value: value[a:b], inputs)"),
    "attributes": in_chunks(
        "model(input_ids=inputs.input_ids[a:b], pixel_values=inputs.pixel_values[a:b])"
    ),
    "lambda": """
        take = lambda value, a: value[a : a + size]
        for a in range(0, count, size):
            model(take(ids, a), pixel_values=take(pixels, a))
    """,
    "local function": """
        def take(value, a, *, more=size):
            return value[a : a + more]

        for a in range(0, count, size):
            model(take(ids, a), pixel_values=take(pixels, a))
    """,
    "decorated function": """
        @torch.no_grad()
        def take(value):
            return value[:size]

        model(take(ids), pixel_values=take(pixels))
    """,
    "walrus": in_chunks(
        'if (p := inputs.get("pixel_values")) is not None:\n'
        "    model(input_ids=ids[a:b], pixel_values=p[a:b])"
    ),
    "while": """
        a = 0
        while a < count:
            model(ids[a : a + size], pixel_values=pixels[a : a + size])
            a += size
    """,
    "enumerate": """
        for turn, _ in enumerate(range(0, count, size)):
            a = turn * size
            model(ids[a : a + size], pixel_values=pixels[a : a + size])
    """,
    "starts and stops": """
        for a, b in zip(range(0, count, size), range(size, count + size, size)):
            model(ids[a:b], pixel_values=pixels[a:b])
    """,
    "batched": """
        for rows in batched(range(count), size):
            rows = list(rows)
            model(ids[rows], pixel_values=pixels[rows])
    """,
    "try and finally": in_chunks(
        "try:\n    model(ids[a:b], pixel_values=pixels[a:b])\nfinally:\n    cleared = True"
    ),
    "keywords in a dict": in_chunks(
        'given = {"input_ids": ids[a:b]}\ngiven["pixel_values"] = pixels[a:b]\nmodel(**given)'
    ),
    "list of chunks": (
        "return [{key: value[a : a + size] for key, value in inputs.items()}"
        " for a in range(0, count, size)]"
    ),
    "partial model": """
        call = partial(model, use_cache=False)
        for a in range(0, count, size):
            call(input_ids=ids[a : a + size], pixel_values=pixels[a : a + size])
    """,
    "whole pixels": in_chunks('yield {"input_ids": ids[a:b], "pixel_values": pixels}'),
    "the same count for each sample": """
        each = pixels.shape[0] // count
        for i in range(count):
            model(ids[i : i + 1], pixel_values=pixels[i * each : (i + 1) * each])
    """,
    "images counted from the start": in_samples(
        "model(ids[i : i + 1], pixel_values=pixels[: num_images[i]])"
    ),
    "an offset too far": """
        ends = [0, *accumulate(num_images)]
        for i in range(count):
            model(ids[i : i + 1], pixel_values=pixels[ends[i] + 1 : ends[i + 1] + 1])
    """,
    "an unknown list beside it": (
        "seen = []\nseen += model.names()\n"
        + in_chunks("model(ids[a:b], pixel_values=pixels[a:b])")
    ),
    "strides of ranks": """
        rank, world = dist.get_rank(), dist.get_world_size()
        return {"input_ids": ids[rank::world], "pixel_values": pixels[rank::world]}
    """,
    "stretches of ranks": """
        n, m = count // self.world_size, len(pixels) // self.world_size
        r = self.rank
        return {
            "input_ids": ids[self.rank * n : (self.rank + 1) * n],
            "pixel_values": pixels[self.rank * m : (self.rank + 1) * m],
        }
    """,
    "rearranged by einops": in_chunks(
        'x = einops.rearrange(pixels, "(b n) c h w -> b n c h w", b=count)[a:b]\n'
        'yield {"input_ids": ids[a:b], "pixel_values": rearrange(x, "b n ... -> (b n) ...")}'
    ).replace("rearrange(x", "einops.rearrange(x"),
    "repeated by einops": """
        model(
            ids.repeat_interleave(size, dim=0),
            pixel_values=einops.repeat(pixels, "n ... -> (g n) ...", g=size),
        )
    """,
}
"""pixel_values, with other rows than one per sample, cut per sample or by a wrong offset."""


@pytest.mark.parametrize("way", CUT)
def test_wrong_cut_is_found_however_it_is_written(way):
    found = read(CUT[way])

    assert any("pixel_values" in one.message for one in found.findings), str(found)


PICKED = {
    "by rank": ("rank, world", "", "rank::world", "rank::world"),
    "by a stretch of its rank": (
        "rank, world_size",
        "n = len(ids) // world_size",
        "rank * n : (rank + 1) * n",
        "rank * n : (rank + 1) * n",
    ),
    "by truth values": ("keep", "", "keep", "keep"),
    "by an index": ("idx", "", "idx", "idx"),
    "by all dimensions of an index": ("order", "", "order, :", "order, ..."),
}
LLAVA = "It is right in gemma4, llava_next, llava_onevision, deepseek_ocr2, mistral3"
IMAGES = """ends = [0, *accumulate(num_images)]
    images = [row for i in {} for row in range(ends[i], ends[i + 1])]"""
FOLLOWED = {
    "by rank": ("rank, world", IMAGES.format("range(rank, len(ids), world)"), "rank::world"),
    "by a stretch of its rank": (
        "rank, world_size",
        "n = len(ids) // world_size\n    " + IMAGES.format("range(rank * n, (rank + 1) * n)"),
        "rank * n : (rank + 1) * n",
    ),
    "by truth values": (
        "keep",
        "images = keep.repeat_interleave(torch.tensor(num_images))",
        "keep",
    ),
    "by an index": ("idx", IMAGES.format("idx.tolist()"), "idx"),
}


def picked(names: str, body: str, rows: str, of_pixels: str, call: str = "{}[{}]") -> str:
    ids, pixels = call.format("ids", rows), call.format("pixels", of_pixels)
    return (
        f"def pick(inputs, {names}, num_images):\n"
        '    ids, pixels = inputs["input_ids"], inputs["pixel_values"]\n'
        f"    {body or 'pass'}\n"
        f'    return {{"input_ids": {ids}, "pixel_values": {pixels}}}\n'
    )


@pytest.mark.parametrize("way", PICKED)
def test_rows_that_a_parameter_picks_alike_are_found(way):
    found = review.source(picked(*PICKED[way]))

    per_sample = way in ("by a stretch of its rank", "by truth values")
    said = "is cut per sample, but" if per_sample else "does not get the rows of its samples. It"
    (one,) = found.findings
    assert one.message.startswith(f"pixel_values {said} has one row per ")
    assert "image in perception_lm, llava, gemma4" in one.message


@pytest.mark.parametrize("call", ["torch.index_select({}, 0, {})", "{}.index_select(0, {})"])
def test_rows_that_index_select_picks_alike_are_found(call):
    found = review.source(picked("order", "", "order", "order", call))

    (one,) = found.findings
    assert one.message.startswith(
        "pixel_values does not get the rows of its samples. It has one row"
    )


@pytest.mark.parametrize("way", FOLLOWED)
def test_rows_that_follow_the_images_of_what_a_parameter_picks_are_right(way):
    names, body, rows = FOLLOWED[way]
    found = review.source(picked(names, body, rows, "images"))

    assert "With one row per image, that is right" not in str(found)
    assert LLAVA in " ".join(str(found).split())


@pytest.mark.parametrize(
    "source",
    [
        picked("keep, kept_images", "", "keep", "kept_images"),
        "def pick(inputs, keep, rows):\n    return {k: v[rows] if k in MEDIA else v[keep]"
        " for k, v in inputs.items()}\n",
        "def fill(inputs, where, embeds):\n"
        '    inputs["input_ids"][where] = 0\n'
        '    return {**inputs, "pixel_values": inputs["pixel_values"][where]}\n',
    ],
    ids=["an index of its own", "an index for each kind", "tokens that are written"],
)
def test_rows_that_an_unknown_index_picks_are_accused_of_nothing(source):
    assert not review.source(source).findings


def test_both_sides_of_a_condition_on_a_rank_are_read():
    """The first rank logs, the others do not; both cut."""
    for wrong, right in (("pixels[rank::world]", "pixels"), ("pixels", "pixels[rank::world]")):
        source = (
            "def pick(inputs, rank, world):\n"
            '    ids, pixels = inputs["input_ids"], inputs["pixel_values"]\n'
            f"    pixels = {wrong} if rank == 0 else {right}\n"
            '    return {"input_ids": ids[rank::world], "pixel_values": pixels}\n'
        )
        assert any("pixels[rank::world]" in str(one) for one in review.source(source).findings)


GRID = """
def cut(model, inputs, size, num_images):
    ids, grid, pixels = inputs["input_ids"], inputs["image_grid_thw"], inputs["pixel_values"]
    images = [0, *accumulate(num_images)]
    patches = [0, *accumulate(grid.prod(-1).tolist())]
    for a in range(0, len(ids), size):
        b = min(a + size, len(ids))
        {call}
"""
PAIR = """
def cut(model, inputs, size, num_images):
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    {guard}
    for a in range(0, len(ids), size):
        model(ids[a : a + size], pixel_values=pixels[a : a + size])
"""
RIGHT = {
    "patches of a grid": GRID.format(
        call="model(ids[a:b], image_grid_thw=grid[images[a] : images[b]],"
        " pixel_values=pixels[patches[images[a]] : patches[images[b]]])"
    ),
    "patches of a grid in one dict": GRID.format(
        call='yield {"input_ids": ids[a:b], "image_grid_thw": grid[images[a] : images[b]],'
        ' "pixel_values": pixels[patches[images[a]] : patches[images[b]]]}'
    ),
    "the whole batch": "def step(model, inputs):\n    return model(**inputs, pixel_mask=None)\n",
    "all keys moved": """
def move(inputs, device):
    ids = inputs["input_ids"]
    return {key: value.to(device) for key, value in inputs.items() if key != "pixel_values"}
""",
    "refuses other counts": PAIR.format(
        guard='if any(n != 1 for n in num_images):\n        raise ValueError("one image each")'
    ),
    "asserts one image per sample": PAIR.format(guard="assert all(n == 1 for n in num_images)"),
    "asserts one row per sample": PAIR.format(
        guard='assert len(pixels) == len(ids) and "image_grid_thw" not in inputs'
    ),
    "classifier without texts": """
def evaluate(model, pixel_values, labels, size):
    for a in range(0, len(labels), size):
        model(pixel_values=pixel_values[a : a + size], labels=labels[a : a + size])
""",
    "two towers": """
def embed(model, batch, size):
    ids, pixels = batch["input_ids"], batch["pixel_values"]
    for a in range(0, len(ids), size):
        model.get_text_features(input_ids=ids[a : a + size])
        model.get_image_features(pixel_values=pixels[a : a + size])
""",
    "list of one tensor per sample": """
def cut(samples, size):
    ids = torch.stack([sample["input_ids"] for sample in samples])
    pixels = [sample["pixel_values"] for sample in samples]
    for a in range(0, len(ids), size):
        yield {"input_ids": ids[a : a + size], "pixel_values": torch.cat(pixels[a : a + size])}
""",
    "collated samples": """
def collate(examples):
    ids = pad_sequence([one["input_ids"] for one in examples], batch_first=True)
    return {"input_ids": ids, "pixel_values": torch.cat([one["pixel_values"] for one in examples])}
""",
    "micro-batches of dicts per sample": """
def update(self, data, size):
    for micro_batch in data.split(size):
        media = {}
        for key in micro_batch["multi_modal_inputs"][0].keys():
            parts = [one[key] for one in micro_batch["multi_modal_inputs"]]
            media[key] = torch.cat(parts, dim=0)
        self.actor(input_ids=micro_batch["input_ids"], **media)
""",
    "columns of a dataset": """
def rows(dataset, size):
    ids, pixels = dataset["input_ids"], dataset["pixel_values"]
    for a in range(0, len(ids), size):
        yield collate(ids[a : a + size], pixels[a : a + size])
""",
    "rows for a log": """
def log(inputs):
    print(inputs["input_ids"][:4], inputs["pixel_values"][:4])
""",
    "columns of the text": """
def shift(model, inputs):
    ids = inputs["input_ids"][:, :-1]
    return model(input_ids=ids, pixel_values=inputs["pixel_values"])
""",
    "tokens without padding in one row": """
def unpad(model, inputs):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    flat = ids[mask.bool()].unsqueeze(0)
    places = torch.cat([torch.arange(n) for n in mask.sum(-1).tolist()]).unsqueeze(0)
    model(input_ids=flat, position_ids=places, pixel_values=inputs["pixel_values"])
""",
    "rows of tokens joined to one": """
def pack(model, inputs):
    ids = torch.cat([row for row in inputs["input_ids"]])[None]
    model(input_ids=ids, position_ids=model.places, pixel_values=inputs["pixel_values"])
""",
    "counts of tokens alone": """
def lengths(inputs):
    return [int(row.sum()) for row in inputs["attention_mask"]], inputs["pixel_values"].dtype
""",
    "a step of generation": """
def prepare(self, input_ids, pixel_values=None, cache_position=None, **kwargs):
    made = {"input_ids": input_ids, "pixel_values": pixel_values}
    if cache_position[0] != 0:
        made["pixel_values"] = None
    return made
""",
    "prompts twice for pairs": """
def concatenated(self, batch):
    ids = torch.cat([batch["chosen_input_ids"], batch["rejected_input_ids"]])
    pixels = torch.cat([batch["pixel_values"], batch["pixel_values"]], dim=0)
    return {"input_ids": ids, "pixel_values": pixels}
""",
    "split by the counts and joined": """
def cut(inputs, size, num_images):
    ids = inputs["input_ids"]
    if "image_position_ids" in inputs:
        pixels = torch.split(inputs["pixel_values"], num_images)
        places = torch.split(inputs["image_position_ids"], num_images)
        for i in range(len(ids)):
            yield {
                "input_ids": ids[i : i + 1],
                "pixel_values": pixels[i],
                "image_position_ids": places[i],
            }
""",
    "other keys": """
def cut(inputs, size):
    pixels = inputs["pixel_values"]
    for a in range(0, len(inputs["input_ids"]), size):
        yield inputs["input_ids"][a : a + size], inputs["advantages"][a : a + size]
""",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_function_is_not_accused(name):
    found = review.source(RIGHT[name])

    assert found.ok, str(found)


@pytest.mark.parametrize(
    "name", ["tokens without padding in one row", "rows of tokens joined to one"]
)
def test_call_with_packed_tokens_is_listed_as_not_judged(name):
    assert "its tokens are not rows of the batch" in str(review.source(RIGHT[name]).not_judged)


COSTLY = {
    "endless loop": "while True:\n    model(ids[:1], pixel_values=pixels)",
    "recursion": "def again(x):\n    return [again(x), again(x)]\nagain(pixels)",
    "large range": "rows = [i for i in range(10**12)]\nfor i in range(10**9):\n    pixels[i]",
    "text in a range": 'found = "a" in range(10**12)',
    "large tensor": "x = torch.zeros(10**9)\ny = torch.arange(10**10)\nz = pixels.repeat(10**6, 1)",
    "outer sum": "x = torch.arange(60000)\ny = x[:, None] + x[None, :]\nz = x.unsqueeze(1).eq(x)",
    "joined with itself": "x = pixels\nfor i in range(60):\n    x = torch.cat([x, x])",
    "list doubled": "x = [0]\nfor i in range(60):\n    x = x + x\n    x += x",
    "lists in lists": "x = (1,)\nfor i in range(60):\n    x = (x, x)\ntorch.tensor(x)\nmodel(x)",
    "list in itself": "x = []\nx.append(x)\ntorch.tensor(x)\nsum(x)\nmodel(*x)",
    "dicts in dicts": "x = {}\nfor i in range(60):\n    x = {0: x, 1: x}\ntree_map(lambda t: t, x)",
    "sum of lists": "x = sum([[1, 2]] * 5000, [])\ny = sum([x] * 5000, [])",
    "large text": 'x = "a" * 10**10\ny = [0] * 10**10',
    "large number": "x = 3\nfor i in range(60):\n    x = x * x\ny = 10**10**10",
    "division by zero": "x = pixels / 0\ny = pixels % 0\nz = 1 / 0",
    "wrong arguments": "pixels.view(7, 11)\nlen()\nrange(0, 9, 0)\npixels.sum(dim=9)\nmin([])",
    "an unknown target": "x = 5\nx.y += 1\nx[0] += 1\nx += self.more()",
    "many conditions": "\n".join(f"if model.c{i}:\n    pixels = pixels[:{i}]" for i in range(40)),
    "many calls": (
        "for a in range(200):\n    for b in range(200):\n"
        "        model(ids[:1], pixel_values=pixels[a:b])"
    ),
}


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.filterwarnings("error")
def test_no_function_raises_or_takes_long(name):
    start = time.process_time()
    read(COSTLY[name])

    assert time.process_time() - start < 5
