"""One wrong function per rule of `review`, found or listed; and one right one, never accused."""

from __future__ import annotations

import pytest

from vlmdebug import review

HEAD = """
def cut(model, inputs, size, num_images):
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    count = len(ids)
    ends = [0, *accumulate(num_images)]
"""
GEMMA = HEAD + '    places = inputs["image_position_ids"]\n'
GRID = (
    HEAD
    + '    grid = inputs["image_grid_thw"]\n'
    + "    rows = [0, *accumulate(grid.prod(-1).tolist())]\n"
)
LOOP = "    for a in range(0, count, size):\n        b = min(a + size, count)\n"
RULES = {
    "wrong unit": (
        GRID
        + LOOP
        + "        model(input_ids=ids[a:b], image_grid_thw=grid[ends[a]:ends[b]],\n"
        + "              pixel_values=pixels[ends[a]:ends[b]])\n",
        GRID
        + LOOP
        + "        model(input_ids=ids[a:b], image_grid_thw=grid[ends[a]:ends[b]],\n"
        + "              pixel_values=pixels[rows[ends[a]]:rows[ends[b]]])\n",
        "VLM001",
    ),
    "the right count of another sample's rows": (
        GEMMA
        + "    for i in range(count):\n        n = num_images[i]\n"
        + "        model(input_ids=ids[i:i+1], pixel_values=pixels[:n],"
        + " image_position_ids=places[:n])\n",
        GEMMA
        + "    for i in range(count):\n        part = slice(ends[i], ends[i + 1])\n"
        + "        model(input_ids=ids[i:i+1], pixel_values=pixels[part],"
        + " image_position_ids=places[part])\n",
        "VLM002",
    ),
    "a heuristic by shape": (
        HEAD
        + "    by_image = pixels.size(0) == sum(num_images)\n"
        + LOOP
        + "        part = slice(ends[a], ends[b]) if by_image else slice(a, b)\n"
        + "        model(input_ids=ids[a:b], pixel_values=pixels[part])\n",
        HEAD
        + '    mask = inputs["pixel_attention_mask"]\n'
        + LOOP
        + "        model(input_ids=ids[a:b], pixel_values=pixels[a:b],"
        + " pixel_attention_mask=mask[a:b])\n",
        "VLM001",
    ),
    "a dropped key": (
        GEMMA
        + LOOP
        + '        chunk = {key: inputs[key][ends[a]:ends[b]] for key in ("pixel_values",)}\n'
        + "        first = places[:1]\n"
        + "        model(input_ids=ids[a:b], **chunk)\n",
        GEMMA
        + LOOP
        + "        keys = ('pixel_values', 'image_position_ids')\n"
        + "        chunk = {key: inputs[key][ends[a]:ends[b]] for key in keys}\n"
        + "        model(input_ids=ids[a:b], **chunk)\n",
        "VLM003",
    ),
    "a stale key": (
        HEAD
        + LOOP
        + '        chunk = {"input_ids": ids[a:b]}\n'
        + '        if inputs.get("pixel_position_ids") is not None:\n'
        + '            places = inputs["pixel_position_ids"]\n'
        + '            chunk["pixel_position_ids"] = places[ends[a]:ends[b]]\n'
        + "        model(**chunk)\n",
        "def cut(self, inputs, image_size=None):\n"
        '    config = {"image_size": self.config.get("image_size", image_size)}\n'
        '    return self.resize(inputs["pixel_values"], **config), inputs["input_ids"]\n',
        "VLM004",
    ),
    "a name that another branch assigns": (
        HEAD
        + '    if "image_grid_thw" in inputs:\n        first = ends[0]\n'
        + '    if "image_position_ids" in inputs:\n'
        + "        model(input_ids=ids, pixel_values=pixels[first:])\n",
        HEAD
        + '    first = 0\n    if "image_position_ids" in inputs:\n'
        + "        model(input_ids=ids, pixel_values=pixels[first:],"
        + ' image_position_ids=inputs["image_position_ids"])\n',
        "VLM008",
    ),
    "a short last chunk": (
        GEMMA
        + "    for a in range(0, count, size):\n"
        + "        model(input_ids=ids[a:a+size], pixel_values=pixels[ends[a]:ends[a]+size],\n"
        + "              image_position_ids=places[ends[a]:ends[a]+size])\n",
        GEMMA
        + LOOP
        + "        model(input_ids=ids[a:b], pixel_values=pixels[ends[a]:ends[b]],\n"
        + "              image_position_ids=places[ends[a]:ends[b]])\n",
        "VLM00",
    ),
    "order of repeats": (
        "def twice(inputs):\n"
        "    ids = inputs['input_ids'].repeat_interleave(2, dim=0)\n"
        "    pixels = inputs['pixel_values'].repeat(2, 1, 1, 1)\n"
        "    return {'input_ids': ids, 'pixel_values': pixels}\n",
        "def twice(inputs):\n"
        "    ids = torch.cat([inputs['input_ids']] * 2)\n"
        "    pixels = torch.cat([inputs['pixel_values']] * 2)\n"
        "    return {'input_ids': ids, 'pixel_values': pixels}\n",
        "VLM002",
    ),
    "columns of media cut with the text's": (
        "def crop(model, inputs, most):\n"
        "    chunk = {key: value[:, :most] for key, value in inputs.items()}\n"
        "    model(**chunk)\n",
        "def crop(model, inputs, most):\n"
        "    keys = ('input_ids', 'attention_mask')\n"
        "    chunk = {key: inputs[key][:, :most] for key in keys}\n"
        "    model(**chunk, pixel_values=inputs['pixel_values'])\n",
        "",
    ),
    "packed tokens with whole media": (
        "def pack(model, inputs):\n"
        "    flat = torch.cat([row for row in inputs['input_ids']])[None]\n"
        "    model(input_ids=flat, pixel_values=inputs['pixel_values'])\n",
        "def whole(model, inputs):\n"
        "    model(input_ids=inputs['input_ids'], pixel_values=inputs['pixel_values'])\n",
        "",
    ),
    "positions of other samples": (
        HEAD
        + LOOP
        + '        places = inputs["image_position_ids"][a:b]\n'
        + "        model(input_ids=ids[a:b], pixel_values=pixels[ends[a]:ends[b]],"
        + " image_position_ids=places)\n",
        GEMMA
        + "    for a, b in zip(range(count), range(1, count + 1)):\n"
        + "        model(input_ids=ids[a:b], pixel_values=pixels[ends[a]:ends[b]],\n"
        + "              image_position_ids=places[ends[a]:ends[b]])\n",
        "VLM001",
    ),
}
"""By rule: the wrong function, the right one, and the code; an empty code is listed."""


@pytest.mark.parametrize("rule", RULES)
def test_wrong_function_is_found_or_listed(rule):
    wrong, _, code = RULES[rule]
    found = review.source(wrong)

    if code:
        assert any(one.code.startswith(code) for one in found.findings), str(found)
    else:
        assert found.findings or found.not_judged or found.remarks, str(found)


@pytest.mark.parametrize("rule", RULES)
def test_right_function_is_not_accused(rule):
    found = review.source(RULES[rule][1])

    assert found.ok, str(found)


def test_rows_of_a_chunk_without_media_are_unsure_as_a_batch_may_have_no_such_chunk():
    found = review.source(RULES["the right count of another sample's rows"][1])

    assert found.ok
    assert {one.code for one in found.remarks} == {"VLM005"}
    assert all("no media" in str(one.unsure) for one in found.remarks)


OWN = {
    "a setting": "config = {'image_size': options.get('image_size'), 'pixel_values': pixels}",
    "a name that the code makes": "inputs['image_positions'] = find(ids)",
    "a name that the code must find": "sizes = inputs['image_grid_shape']\n    keep(sizes)",
    "an old name, gone over to the new one": (
        "places = inputs.get('pixel_position_ids')\n"
        "    model(input_ids=ids, image_position_ids=places)"
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_name_that_is_no_key_of_a_batch_is_not_called_stale(name):
    assert review.source(HEAD + f"    {OWN[name]}\n").ok


LISTED = {
    "tokens that are a trainer's own": (
        "def loss(self, model, inputs):\n"
        "    ids = torch.cat([inputs['prompt_ids'], inputs['completion_ids']], dim=1)\n"
        "    return self.logps(model, ids, pixel_values=inputs['pixel_values'])\n"
        "def logps(self, model, input_ids, pixel_values=None):\n    pass\n",
        "its input_ids are not known",
    ),
    "a chunk that update may change": (
        HEAD + LOOP + "        chunk = {'input_ids': ids[a:b], 'pixel_values': pixels[a:b]}\n"
        "        chunk.update(encode(count))\n        model(**chunk)\n",
        "it may be replaced later",
    ),
    "pixels that become something else": (
        "def embed(self, model, inputs):\n"
        "    pixels = inputs.pop('pixel_values')\n"
        "    return {**inputs, 'image_embeds': model.vision(pixels)}\n",
        "is taken out of the batch",
    ),
}


@pytest.mark.parametrize("name", LISTED)
def test_what_cannot_be_judged_is_listed_and_not_accused(name):
    source, why = LISTED[name]
    found = review.source(source)

    assert found.ok, str(found)
    assert any(why in line for line in found.not_judged), str(found)


def test_conditions_that_make_no_difference_do_not_hide_a_wrong_cut():
    options = "".join(f"    x{i} = 1 if model.option{i} else 2\n" for i in range(12))
    found = review.source(
        HEAD + options + LOOP + "        model(input_ids=ids[a:b], pixel_values=pixels[a:b])\n"
    )

    assert [one.code for one in found.findings] == ["VLM001"]
    assert not found.not_judged


def test_wrong_cut_that_only_the_other_sides_of_two_conditions_reach_is_seen():
    source = (
        HEAD
        + LOOP
        + (
            "        if model.a:\n            part = slice(0, 0)\n        else:\n"
            "            if model.b:\n                part = slice(0, 0)\n            else:\n"
            "                part = slice(a, b)\n"
            "        model(input_ids=ids[a:b], pixel_values=pixels[part])\n"
        )
    )

    assert review.source(source).remarks


def test_branch_is_not_said_to_never_run_for_a_value_that_was_computed():
    source = HEAD + "    first = 0 if count > 99 else 1\n    if first > 5:\n        pixels[0:1]\n"

    assert not review.source(source).never_run


CHOSEN = """
class Trainer:
    def step(self, model, inputs, num_images, mode=None):
        ids, pixels = inputs["input_ids"], inputs["pixel_values"]
        places = inputs["image_position_ids"]
        ends = [0, *accumulate(num_images)]
        if {test}:
            model(ids[:1], pixel_values=pixels[:{bound}], image_position_ids=places[:{bound}])
        else:
            model(ids[:1], pixel_values=pixels[:{other}], image_position_ids=places[:{other}])
"""


@pytest.mark.parametrize("wrong", ["if", "else"])
@pytest.mark.parametrize(
    "test",
    [
        'self.args.mode == "fast"',
        'self.mode in ("a", "b")',
        "self.extra is None",
        "mode is not None",
        "mode in [self.fast, 3]",
    ],
)
def test_both_sides_of_a_condition_on_what_is_not_known_are_read(test, wrong):
    sides = ("1", "ends[1]") if wrong == "if" else ("ends[1]", "1")
    found = review.source(CHOSEN.format(test=test, bound=sides[0], other=sides[1]))

    assert found.ok, str(found)
    assert {one.text for one in found.remarks} == {"pixels[:1]", "places[:1]"}
    assert all(test.split()[0] in str(one.unsure) for one in found.remarks)


COUNTED = """
def cut(self, model, inputs, size, token=151652):
    ids, pixels, grid = inputs["input_ids"], inputs["pixel_values"], inputs["image_grid_thw"]
    {count}
    ends = [0, *accumulate(counts)]
    patches = [0, *accumulate(grid.prod(-1).tolist())]
    for a in range(0, len(ids), size):
        b = min(a + size, len(ids))
        model(
            ids[a:b],
            pixel_values=pixels[patches[ends[a]] : patches[ends[b]]],
            image_grid_thw=grid[ends[a] : ends[b]],
        )
"""


@pytest.mark.parametrize(
    "count",
    [
        "counts = (ids == self.token).sum(-1).tolist()",
        "counts = ids.eq(self.token).sum(-1).tolist()",
        "counts = (ids == 151652).sum(-1).tolist()",
        "counts = ids.eq(token).sum(-1).tolist()",
        "counts = [sum(one == self.token for one in row.tolist()) for row in ids]",
        "counts = []\n    for row in self.rows:\n        counts.append(1)\n    counts += [0] * 9",
        "n = 0\n    while self.more():\n        n += 1\n    counts = [n] * len(ids)",
    ],
)
def test_rows_by_a_count_that_is_not_known_are_listed_and_accused_of_nothing(count):
    found = review.source(COUNTED.format(count=count))

    assert not found.remarks, str(found)
    assert [line.split(": ", 1)[1][:6] for line in found.not_judged] == ["pixels", "grid[e"]


def test_rows_made_by_an_unknown_call_are_listed():
    found = review.source(
        'def cut(self, model, inputs):\n    pixels = self.take(inputs["pixel_values"])\n'
        '    model(inputs["input_ids"][:1], pixel_values=pixels)\n'
    )

    assert not found.remarks
    assert len(found.not_judged) == 1 and "rows of its media are not known" in found.not_judged[0]


def test_columns_of_pixels_are_not_called_rows():
    (found,) = review.source(
        "def crop(input_ids, pixel_values, start, n):\n"
        "    return input_ids.narrow(1, start, n), pixel_values.narrow(1, start, n)\n"
    ).findings

    assert "in another shape or with other values" in found.message
    assert "but not as they are" in found.message and "running totals" not in found.message


def test_branch_of_a_function_that_was_not_read_to_its_end_is_not_said_to_never_run():
    ways = "".join(f"    if self.c{i}:\n        ids = ids[:{i + 1}]\n" for i in range(12))
    source = (
        "def cut(self, model, inputs):\n"
        '    ids, pixel_values = inputs["input_ids"], inputs["pixel_values"]\n'
        '    image_grid_thw = inputs.get("image_grid_thw")\n'
        '    image_position_ids = inputs.get("image_position_ids")\n'
        f"{ways}"
        "    if image_grid_thw is not None and image_position_ids is not None:\n"
        "        model(ids, pixel_values=pixel_values[:1])\n"
        "    model(ids, pixel_values=pixel_values)\n"
    )
    found = review.source(source)

    assert "more than 24 ways" in str(found.not_judged)
    assert not found.never_run
    assert review.source(source.replace(ways, "")).never_run


BESIDE = """
def cut(inputs, size):
    for start in range(0, len(inputs["input_ids"]), size):
        rows = slice(start, start + size)
        yield {{
            "input_ids": inputs["input_ids"][rows],
            "{key}": inputs{key_of}[rows],
            "pixel_values": inputs["pixel_values"][rows],
        }}
"""


@pytest.mark.parametrize("key_of", ['["{key}"]', '.pop("{key}")'])
@pytest.mark.parametrize("key", ["mm_token_type_ids", "token_type_ids", "position_ids"])
def test_cut_next_to_a_key_that_some_processors_return_is_read(key, key_of):
    found = review.source(BESIDE.format(key=key, key_of=key_of.format(key=key)))

    (remark,) = found.remarks
    assert "llava" in remark.wrong and "idefics3" in remark.right
    assert remark.unsure == f"a batch with {key}"


def test_function_that_no_batch_gets_through_is_not_judged():
    source = BESIDE.format(key="image_grid_thw", key_of='["image_grid_thw"]')
    source = source.replace("    for", '    ratios = inputs["aspect_ratio_ids"]\n    for')
    found = review.source(source)

    assert not found.remarks
    (line,) = found.not_judged
    assert "cut (no batch of any known layout gets through it: KeyError)" in line
    assert not review.source(source.replace('["aspect_ratio_ids"]', ".get('a')")).not_judged
