"""Collators under test: each row collated alone is the oracle for all rows together."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from architectures import architectures
from collators import Collators

import vlmdebug as vd

untyped: Any = vd
"""For arguments of wrong types, which the types of `vd` refuse."""

WRONG = {
    "media_in_another_order": "VLM002",
    "images_of_the_first_row": "VLM002",
    "no_media_if_one_row_has_none": "VLM003",
    "truncated_to_the_shortest": "VLM011",
    "truncated_inside_an_image": "VLM010",
    "an_image_lost": "VLM001",
    "mask_of_ones": "VLM011",
    "mask_padded_on_the_left": "VLM011",
    "mask_of_the_shortest": "VLM011",
    "labels_padded_on_the_left": "VLM013",
    "labels_learned_on_padding": "VLM013",
    "types_padded_on_the_left": "VLM011",
    "media_left_as_a_list": "VLM011",
    "none_where_there_are_no_images": "VLM011",
    "stacked": "VLM011",
    "sizes_of_the_first_image": "VLM002",
    "a_key_lost": "VLM003",
    "pixels_under_another_name": "VLM004",
    "sorted_by_length": "VLM007",
    "only_texts_sorted": "VLM007",
    "first_row_twice": "VLM006",
    "joined_without_padding": "VLM008",
    "cast_to_whole_numbers": "VLM011",
}
HAVE_NO_SUCH_KEY = {
    ("types_padded_on_the_left", "llava"),
    ("sizes_of_the_first_image", "llava"),
    ("sizes_of_the_first_image", "gemma4"),
    ("a_key_lost", "llava"),
}
"""A collator, and a family without the key that it gets wrong."""


def wrong_ones():
    """Each wrong collator with each family; `make fast` takes the cheapest that shows it."""
    for name in WRONG:
        fast = "qwen2_5_vl" if (name, "llava") in HAVE_NO_SUCH_KEY else "llava"
        for family in ("qwen2_5_vl", "llava", "gemma4"):
            marks = () if family == fast else pytest.mark.slow
            yield pytest.param(name, family, marks=marks, id=f"{name}-{family}")


def rows_of(processor, images, **more):
    return vd.make_rows("text", images, processor=processor, **more)


def checked(processor, name, images, **more):
    trial = vd.collator(getattr(Collators(processor), name), processor)
    return vd.check(trial, rows_of(processor, images, **more))


# --- right ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", architectures())
def test_right_collator_survives(built, family, side):
    from vlmdebug.tiny.registry import find_recipe

    processor, token = built[family][1], find_recipe(family).placeholder

    def rows(images, text, answer):
        return {"text": " ".join([token] * len(images) + [text, answer]), "images": images}

    def right(rows):
        return Collators(processor).right(rows, padding_side=side, **find_recipe(family).call)

    trial = vd.collator(right, processor, rows=rows)
    tried: dict[str, int] = {}
    text_only = family not in ("paligemma", "idefics")

    assert vd.falsify(trial, max_examples=15, text_only=text_only, tried=tried) is None
    assert sum(tried.values()) == 15


@pytest.mark.parametrize("images", [[1], [0], [2, 0, 1], [0, 2], [1, 2, 1], [3, 3]])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next", "idefics3", "mllama", "internvl"])
def test_right_batch_is_ok_and_says_what_was_compared(built, family, images):
    processor = built[family][1]
    sizes = [place % 4 for place in range(sum(images))]
    report = checked(
        processor, "right", images, sizes=sizes, words=[i % 2 for i in range(len(images))]
    )

    assert report.verdict == "OK", str(report)
    assert report.compared[0].against == "each row collated alone"


# --- wrong ones ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "family"), [*wrong_ones()])
def test_wrong_collator_falls_by_its_own_code(built, name, family):
    processor = built[family][1]
    trial = vd.collator(getattr(Collators(processor), name), processor, rows="text")
    found = vd.falsify_all(trial, max_examples=40)
    codes = {finding.code for one in found for finding in one.report.findings}

    if (name, family) in HAVE_NO_SUCH_KEY:
        assert found == ()
    else:
        assert WRONG[name] in codes


def test_image_of_another_sample_is_named_with_its_row(built):
    report = checked(built["llava"][1], "images_of_the_first_row", [1, 1])

    assert report.findings[0].loudness == "silent"
    assert report.findings[0].message == (
        "sample 1 was given pixel_values[0:1] (1 row: image A1 of sample 0) but owns "
        "pixel_values[1:2] (1 row: image B1 of sample 1).\n"
        "Both are the same length, so the model will not raise: it sees the wrong pixels.\n"
        "Join pixel_values in the order of the samples, with all rows that each has collated "
        "alone. Only padding may be added."
    )


@pytest.mark.parametrize(
    ("name", "images", "said"),
    [
        (
            "labels_padded_on_the_left",
            [1, 1],
            "sample 0 has other labels than collated alone at 21 of 25 tokens: they stand 103 "
            "columns to the right of them.",
        ),
        (
            "labels_learned_on_padding",
            [1, 1],
            "sample 0 has 103 labels where attention_mask marks padding.",
        ),
        (
            "truncated_to_the_shortest",
            [0, 0],
            "sample 1 has 20 tokens, but 123 collated alone: its text was cut.",
        ),
        (
            "mask_of_ones",
            [1, 1],
            "attention_mask of sample 0 shows 103 padding tokens.",
        ),
        (
            "mask_of_the_shortest",
            [1, 1],
            "attention_mask of sample 1 hides 103 tokens shown collated alone.",
        ),
        (
            "mask_padded_on_the_left",
            [0, 0],
            "attention_mask of sample 0 hides 20 tokens shown collated alone and shows 20 padding "
            "tokens.",
        ),
        (
            "media_left_as_a_list",
            [1, 1],
            "The batch has pixel_values as a list of 32 tensors, but a model takes a tensor.",
        ),
        (
            "none_where_there_are_no_images",
            [0, 0],
            "The batch has pixel_values as a list of None, but a model takes a tensor.",
        ),
        (
            "stacked",
            [1, 1],
            "The batch has pixel_values with shape (2, 16, 1176), but it has shape (32, 1176): a "
            "dimension was added.",
        ),
        (
            "a_key_lost",
            [1, 0],
            "The batch lacks image_grid_thw, which its processor returns for each image.",
        ),
        (
            "pixels_under_another_name",
            [1, 0],
            "The batch has pixel_values_images, which its processor does not return, and lacks "
            "pixel_values, which it returns.",
        ),
        (
            "sorted_by_length",
            [0, 0],
            "The batch holds its rows in another order: sample 0 is row 1.",
        ),
        (
            "first_row_twice",
            [0, 0],
            "The batch has 3 samples, but its rows give 2 samples collated alone.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_first_sentence_says_what_is_wrong(built, name, images, said):
    report = checked(built["qwen2_5_vl"][1], name, images, words=[0, 1])

    assert said in [finding.message.partition("\n")[0] for finding in report.findings]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_image_that_is_lost_is_named_and_no_argument_that_nobody_gave(built, family):
    def lost(rows):
        made = Collators(built[family][1]).right(rows)
        if len(rows) > 1:
            patches = int(made["image_grid_thw"][-1].prod()) if "image_grid_thw" in made else 1
            made["pixel_values"] = made["pixel_values"][:-patches]
            if "image_grid_thw" in made:
                made["image_grid_thw"] = made["image_grid_thw"][:-1]
        return made

    processor = built[family][1]
    report = vd.check(vd.collator(lost, processor), rows_of(processor, [1, 1]))

    assert report.findings[0].code == "VLM001"
    assert "image B1 of sample 1" in report.findings[0].message
    assert "num_images" not in str(report)


def with_positions(built, wrong=None):
    """A collator that computes positions and deltas; `wrong` changes them."""
    model, processor = built["qwen2_5_vl"]

    def collate(rows):
        made = Collators(processor).padded_right(rows)
        keys = ("input_ids", "attention_mask", "image_grid_thw", "mm_token_type_ids")
        places, deltas = model.model.get_rope_index(**{k: made[k] for k in keys if k in made})
        made.update(position_ids=places, rope_deltas=deltas)
        return made if wrong is None else wrong(made, rows)

    rows = rows_of(processor, [1, 1], words=[0, 1])
    return vd.check(vd.collator(collate, processor), rows)


def in_order(made, rows):
    made["position_ids"] = torch.arange(made["input_ids"].shape[1]).expand(3, len(rows), -1)
    return made


def test_positions_that_are_wrong_alone_and_together_are_found(built):
    assert with_positions(built).verdict == "OK"
    assert [one.code for one in with_positions(built, in_order).findings] == ["VLM014"]


def test_positions_that_are_wrong_together_are_counted_by_token(built):
    report = with_positions(built, lambda made, rows: in_order(made, rows) if rows[1:] else made)

    assert [one.code for one in report.findings] == ["VLM014"]
    assert report.findings[0].loudness == "silent"
    assert "at 24 of 25 tokens" in report.findings[0].message


def test_rope_deltas_of_other_rows_are_found_and_those_that_count_padding_are_not(built):
    def wrong(made, rows):
        made["rope_deltas"] -= 7 * (len(rows) - 1)
        return made

    def padded(made, rows):
        made["rope_deltas"] -= (made["attention_mask"] == 0).sum(1, keepdim=True)
        return made

    assert [one.key for one in with_positions(built, wrong).mismatches] == ["rope_deltas"] * 2
    assert with_positions(built, padded).verdict == "OK"


def test_token_that_only_the_rows_together_end_with_is_no_padding(built):
    one = Collators(built["llava"][1])

    def ended(rows):
        made = one.padded_right(rows)
        if len(rows) > 1:
            for key, value in (("input_ids", 9), ("attention_mask", 1)):
                made[key] = torch.nn.functional.pad(made[key], (0, 1), value=value)
        return made

    report = vd.check(vd.collator(ended, one.processor), rows_of(one.processor, [1, 1]))

    assert "tokens, but" in report.findings[0].message
    assert "padding tokens" not in report.findings[0].message


@pytest.mark.parametrize("turned", [False, True], ids=["right", "wrong"])
def test_label_of_each_sample_is_compared(built, turned):
    one = Collators(built["llava"][1])

    def classified(rows):
        labels = torch.tensor([len(row["text"]) for row in rows])
        return {**one.right(rows), "labels": labels.flip(0) if turned else labels}

    rows = rows_of(one.processor, [1, 1], words=[0, 1])
    report = vd.check(vd.collator(classified, one.processor), rows)

    assert [finding.code for finding in report.findings] == (["VLM013"] if turned else [])


def test_exception_of_the_collator_has_its_line_and_says_that_no_row_raises_alone(built):
    report = checked(built["qwen2_5_vl"][1], "joined_without_padding", [0, 0], words=[0, 1])

    assert report.findings[0].code == "VLM008"
    assert "collators.py:" in report.findings[0].message
    assert "for these rows together, and for none alone" in report.findings[0].message
    assert isinstance(report.error, RuntimeError)


# --- the model is the judge ----------------------------------------------------------------


def logits(model, collate, rows):
    made = collate(rows)
    with torch.no_grad():
        found = model(**made).logits
    return [one[mask != 0] for one, mask in zip(found, made["attention_mask"], strict=True)]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma4"])
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("right", [1, 0, 2]),
        ("media_in_another_order", [1, 1]),
        ("images_of_the_first_row", [1, 1]),
        ("no_media_if_one_row_has_none", [1, 0]),
    ],
)
def test_silent_finding_changes_the_logits_and_a_right_batch_does_not(built, family, name, images):
    model, processor = built[family]
    rows = rows_of(processor, images)
    collate = getattr(Collators(processor), name)
    report = vd.check(vd.collator(collate, processor), rows)
    together = logits(model, collate, rows)
    alone = [one for row in rows for one in logits(model, collate, [row])]
    differ = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))

    assert (differ < 1e-3) == report.ok
    assert report.ok or report.findings[0].loudness == "silent"


# --- collators of libraries ----------------------------------------------------------------


def with_template(family):
    processor = vd.tiny.build(family)[1]
    image = {"qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>"}.get(family, "<image>")
    processor.chat_template = processor.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
        f"{{% if c['type'] == 'image' %}}{image}{{% else %}}{{{{ c['text'] }}}}{{% endif %}}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return processor


def trls(processor, **options):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    return DataCollatorForVisionLanguageModeling(processor, **options)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_collator_of_trl_learns_placeholders_from_conversations_and_nothing_else(family):
    trial = vd.collator(trls(with_template(family)))
    found = vd.falsify_all(trial, max_examples=25)
    codes = {finding.code for one in found for finding in one.report.findings}

    assert codes == {"VLM013"}
    assert "placeholder tokens among its labels" in found[0].report.findings[0].message
    assert repr(found[0]).startswith("messages rows")


def test_collator_of_trl_is_right_on_prompts_and_cuts_images_at_max_length():
    options: dict[str, Any] = {"completion_only_loss": True}
    processor = with_template("llava")
    right = vd.collator(trls(processor, **options), rows="prompt_completion")
    short = vd.collator(trls(processor, **options, max_length=16), rows="prompt_completion")
    found = vd.falsify(short, max_examples=40)

    assert vd.falsify(right, max_examples=25) is None
    assert found is not None
    assert found.report.findings[0].code == "VLM010"
    assert "Truncation (max_length) likely cut the text" in found.report.findings[0].message


def test_collator_that_pads_tokens_alone_drops_the_images_behind_a_text(built):
    from transformers import DataCollatorWithPadding

    processor = built["llava"][1]
    trial = vd.collator(DataCollatorWithPadding(processor.tokenizer), processor, rows="processed")
    found = {repr(one): one.report.findings[0] for one in vd.falsify_all(trial, max_examples=25)}

    assert found["processed rows: images per row [0, 1]"].code == "VLM003"
    assert found["processed rows: images per row [0, 1]"].loudness == "silent"
    assert "KeyError" in found["processed rows: images per row [1, 0]"].message


@pytest.mark.parametrize("family", ["llava", "internvl", "deepseek_ocr2"])
def test_pixels_without_rows_are_left_out_where_no_row_has_an_image(built, family):
    model, processor = built[family]

    def nested(rows):
        given = {"text": [row["text"] for row in rows], "images": [row["images"] for row in rows]}
        return processor(**given, return_tensors="pt", padding=True)

    def mended(rows):
        if any(row["images"] for row in rows):
            return nested(rows)
        return processor(text=[row["text"] for row in rows], return_tensors="pt", padding=True)

    texts = rows_of(processor, [0, 0])
    report = vd.check(vd.collator(nested, processor), texts)

    assert [one.code for one in report.findings] == ["VLM005"], str(report)
    assert report.findings[0].loudness == "loud"
    assert "Leave pixel_values out" in report.findings[0].message
    with pytest.raises((RuntimeError, ValueError)), torch.no_grad():
        model(**nested(texts))
    with torch.no_grad():
        model(**mended(texts))
    assert vd.check(vd.collator(mended, processor), texts).ok
    assert vd.check(vd.collator(nested, processor), rows_of(processor, [1, 0])).ok
    found = vd.falsify(vd.collator(nested, processor, rows="text"), max_examples=20)
    assert repr(found) == "text rows: images per row [0]"


def test_pairs_may_come_all_chosen_before_all_rejected(built):
    one = Collators(built["llava"][1])

    def pairs(rows):
        return one.right([*rows, *({**row, "text": f"{row['text']} No."} for row in rows)])

    def turned(rows):
        made = pairs(rows)
        made["pixel_values"] = made["pixel_values"].roll(1, 0)
        return made

    rows = rows_of(one.processor, [1, 1])

    assert vd.check(vd.collator(pairs, one.processor), rows).verdict == "OK"
    assert vd.falsify(vd.collator(pairs, one.processor, rows="text"), max_examples=20) is None
    assert vd.check(vd.collator(turned, one.processor), rows).verdict == "MISMATCH"


def test_dummy_image_of_a_text_only_batch_is_not_a_sample_s_own(built):
    model, processor = built["llava"]
    one = Collators(processor)
    token = model.config.image_token_id

    def dummies(rows):
        made = one.right(rows)
        if any(row["images"] for row in rows):
            return made
        shown = one.right(rows_of(processor, [1]))
        extra = torch.full((len(rows), 16), token)
        made["input_ids"] = torch.cat([made["input_ids"], extra], 1)
        made["attention_mask"] = torch.cat([made["attention_mask"], torch.zeros_like(extra)], 1)
        made["pixel_values"] = shown["pixel_values"].repeat(len(rows), 1, 1, 1)
        return made

    trial = vd.collator(dummies, processor)

    assert vd.check(trial, rows_of(processor, [0, 1, 0])).verdict == "OK"
    assert vd.check(trial, rows_of(processor, [0, 0])).verdict == "OK"


# --- videos; `test_collator_clips.py` has real video processors ------------------------------


@pytest.mark.parametrize("kind", ["messages", "prompt_completion"])
def test_rows_with_videos_name_them_in_the_conversation_and_have_their_column(kind):
    rows = vd.make_rows(kind, [1, 0], videos_per_row=[2, 0], video_sizes=[0, 3])
    content = (rows[0].get("messages") or rows[0]["prompt"])[0]["content"]

    assert [part["type"] for part in content] == ["image", "video", "video", "text"]
    assert [video.shape for video in rows[0]["videos"]] == [(4, 64, 64, 3), (8, 64, 64, 3)]
    assert (rows[1]["images"], rows[1]["videos"]) == ([], [])


def test_embedded_rows_hold_their_videos_and_frames_differ():
    (row,) = vd.make_rows("embedded", [0], videos_per_row=[2])
    first, second = (part["video"] for part in row["messages"][0]["content"][:2])

    assert (first != second).any() and (first[0] != first[1]).any()


def test_rows_without_videos_have_no_column_for_them(built):
    (row,) = rows_of(built["llava"][1], [1])

    assert row.keys() == {"text", "images"}


def test_function_that_makes_rows_gets_videos_only_where_it_takes_them():
    def with_them(images, videos, text, answer):
        return len(videos)

    def without(images, text, answer):
        return "no videos"

    assert vd.make_rows(with_them, [1, 1], videos_per_row=[2, 0]) == [2, 0]
    assert vd.make_rows(with_them, [1]) == [0]
    assert vd.make_rows(without, [1]) == ["no videos"]


def test_processor_without_videos_leaves_none_out(built):
    one, tried = Collators(built["llava"][1]), dict[str, Any]()
    vd.falsify(vd.collator(one.right, one.processor, rows="text"), max_examples=9, tried=tried)

    assert tried["text"].left_out == ()


# --- what is no verdict --------------------------------------------------------------------


def test_random_collator_is_ambiguous_and_leaves_random_numbers_alone(built):
    one = Collators(built["llava"][1])

    def noisy(rows):
        made = one.right(rows)
        made["pixel_values"] = made["pixel_values"] + torch.rand_like(made["pixel_values"])
        random.random()
        return made

    random.seed(3)
    torch.manual_seed(3)
    report = vd.check(vd.collator(noisy, one.processor), rows_of(one.processor, [1, 1]))
    after = random.random(), torch.rand(1)
    random.seed(3)
    torch.manual_seed(3)

    assert report.verdict == "AMBIGUOUS"
    assert "other values for the same row each time" in report.ambiguities[0]
    assert after == (random.random(), torch.rand(1))


@pytest.mark.parametrize("own_dice", [False, True], ids=["global", "own"])
def test_what_is_rarely_random_is_no_finding(built, own_dice):
    """Flips one image in five: the rows together and alone often agree for other seeds."""
    one, dice = Collators(built["llava"][1]), random.Random(5)

    def flipped(rows):
        drawn = dice.random if own_dice else lambda: float(torch.rand(1))
        return one.right(
            [
                {
                    **row,
                    "images": [im.transpose(0) if drawn() < 0.2 else im for im in row["images"]],
                }
                for row in rows
            ]
        )

    trial = vd.collator(flipped, one.processor, rows="text")

    with pytest.raises(vd.AmbiguousError, match="each time, of pixel_values"):
        vd.falsify(trial, max_examples=20)


def always_a_list(processor):
    """Passes a list of images for every row, also for rows without any."""

    def collate(rows):
        texts, images = [row["text"] for row in rows], [row["images"] for row in rows]
        return processor(text=texts, images=images, padding=True, return_tensors="pt")

    return collate


def test_rows_of_text_that_a_processor_refuses_are_found(built):
    processor = built["qwen2_5_vl"][1]
    trial = vd.collator(always_a_list(processor), processor, rows="text")
    found: Any = vd.falsify(trial, max_examples=20)

    assert repr(found) == "text rows: images per row [0]"
    assert [finding.code for finding in found.report.findings] == ["VLM008"]
    assert vd.falsify(trial, max_examples=10, text_only=False) is None


def test_collator_of_pairs_alone_is_not_judged(built):
    processor = built["llava"][1]

    def of_pairs(rows):
        if len(rows) % 2:
            raise ValueError("rows come in pairs")
        return Collators(processor).right(rows)

    with pytest.raises(vd.AmbiguousError, match="Let the collator take one row"):
        vd.falsify(vd.collator(of_pairs, processor, rows="text"), max_examples=20)


def test_random_pixels_hide_no_other_finding(built):
    one = Collators(built["llava"][1])

    def noisy(rows):
        made = one.labels_padded_on_the_left(rows)
        made["pixel_values"] = made["pixel_values"] + torch.rand_like(made["pixel_values"])
        return made

    rows = rows_of(one.processor, [1, 1], words=[0, 1])
    report = vd.check(vd.collator(noisy, one.processor), rows)

    assert {finding.code for finding in report.findings if finding.mismatches} == {"VLM013"}
    assert "pixel_values" in report.ambiguities[0]


@pytest.mark.parametrize(
    ("any_order", "verdict"), [(True, "OK"), (False, "MISMATCH")], ids=["meant", "not meant"]
)
def test_rows_of_equal_texts_are_told_apart_by_their_images(built, any_order, verdict):
    one = Collators(built["llava"][1])
    images = [row["images"] for row in rows_of(one.processor, [1, 1, 1])]
    rows = [{"text": "<image> Describe it.", "images": own} for own in images]

    def turned(rows):
        return one.right(rows[::-1])

    vars(turned).update(any_order=any_order)
    report = vd.check(vd.collator(turned, one.processor), rows)

    assert report.verdict == verdict
    assert [finding.code for finding in report.findings] == ([] if any_order else ["VLM007"])


def test_mask_of_four_dimensions_is_no_other_text(built):
    one = Collators(built["llava"][1])

    def wide(rows):
        made = one.padded_right(rows)
        mask = made["attention_mask"][:, None, None, :].bool()
        seq = mask.shape[-1]
        return {**made, "attention_mask": mask & torch.ones(seq, seq, dtype=torch.bool).tril()}

    rows = rows_of(one.processor, [1, 1], words=[0, 1])
    report = vd.check(vd.collator(wide, one.processor), rows)

    assert report.verdict == "AMBIGUOUS"
    assert "what an attention_mask of more than two dimensions must show" in report.ambiguities[0]


def test_order_that_is_meant_is_no_finding(built):
    one = Collators(built["llava"][1])

    def meant(rows):
        return one.sorted_by_length(rows)

    vars(meant).update(any_order=True)
    rows = rows_of(one.processor, [1, 2], words=[0, 1])

    assert vd.check(vd.collator(meant, one.processor), rows).verdict == "OK"


def test_row_that_is_refused_alone_is_not_compared(built):
    one = Collators(built["llava"][1])

    def two_at_least(rows):
        if len(rows) < 2:
            raise ValueError("too few")
        return one.right(rows)

    report = vd.check(vd.collator(two_at_least, one.processor), rows_of(one.processor, [1, 1]))

    assert report.verdict == "AMBIGUOUS"
    assert "Row 0 alone gave no batch (ValueError: too few)" in report.ambiguities[0]


def test_refusal_of_every_row_is_reported_last_as_the_collators_own(built):
    one = Collators(built["llava"][1])

    def no_text(rows):
        if not all(row["images"] for row in rows):
            raise ValueError("a row has no image")
        return one.right(rows)

    trial = vd.collator(no_text, one.processor, rows="text")
    found = vd.falsify(trial, max_examples=15)

    assert found is not None and repr(found) == "text rows: images per row [0]"
    assert "for one row alone: a row has no image" in found.report.findings[0].message
    assert vd.falsify(trial, max_examples=15, text_only=False) is None


def test_error_of_a_row_alone_is_that_row_s_own(built):
    one = Collators(built["llava"][1])

    def strict(rows):
        if len(rows) > 1:
            raise ValueError("the rows differ")
        if not rows[0]["images"]:
            raise ValueError("a row has no image")
        return one.right(rows)

    report = vd.check(vd.collator(strict, one.processor), rows_of(one.processor, [1, 0]))

    assert "for one row alone: a row has no image" in report.findings[0].message


def test_rows_stay_as_they_are(built):
    one = Collators(built["llava"][1])

    def hungry(rows):
        made = one.right(rows)
        for row in rows:
            row["images"].clear()
            row.pop("text")
        return made

    rows = rows_of(one.processor, [1, 1])
    report = vd.check(vd.collator(hungry, one.processor), rows)

    assert report.verdict == "OK"
    assert [len(row["images"]) for row in rows] == [1, 1]


# --- the counterexample --------------------------------------------------------------------


def test_smallest_rows_are_printed_as_code_that_fails_alike(built, tmp_path, monkeypatch):
    one = Collators(built["llava"][1])
    found: Any = vd.falsify(vd.collator(one.media_in_another_order, one.processor, rows="text"))
    source = found.to_pytest("my_rows:collate", "my_rows:processor")
    (tmp_path / "my_rows.py").write_text(
        "import vlmdebug as vd\nfrom collators import Collators\n"
        "processor = vd.tiny.build('llava')[1]\n"
        "collate = Collators(processor).media_in_another_order\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    world: dict[str, Any] = {}
    exec(source, world)
    test = world["test_collate_keeps_rows_apart"]

    assert repr(found) == "text rows: images per row [1, 1]"
    assert source.startswith("import vlmdebug as vd\nfrom my_rows import collate, processor\n")
    with pytest.raises(vd.MismatchError, match="image B1 of sample 1"):
        test()


def test_test_that_would_not_fail_is_not_written(built):
    one = Collators(built["llava"][1])
    calls = []

    def at_first(rows):
        calls.append(rows)
        return (one.media_in_another_order if len(calls) < 40 else one.right)(rows)

    found: Any = vd.falsify(vd.collator(at_first, one.processor, rows="text"))
    calls.extend([None] * 40)

    with pytest.raises(vd.BadInput, match="was run before it was written, and it passed"):
        found.to_pytest("m:collate", "m:processor")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda p: untyped.collator("text"),
            "collator was given 'text', but a collator is a function",
        ),
        (
            lambda p: untyped.collator(len, rows=3),
            "rows is 3, but it is the name of a kind of rows",
        ),
        (lambda p: vd.check(vd.collator(len, p)), "check was given the collator len without rows"),
        (lambda p: vd.check(vd.collator(len, p), []), "There are no rows"),
        (lambda p: vd.check(vd.collator(len, p), "rows"), "rows is 'rows', but a collator takes"),
        (
            lambda p: untyped.check(vd.collator(len, p), [{}], num_images=[1]),
            "num_images= was given with a collator",
        ),
        (
            lambda p: vd.falsify(vd.collator(len, p), families=["llava"]),
            "families= was given for a collator",
        ),
        (
            lambda p: vd.falsify(vd.collator(sorted, p)),
            "sorted takes none of the kinds of rows that are drawn",
        ),
        (
            lambda p: vd.falsify(vd.collator(len, p, rows="msgs")),
            "rows is 'msgs', but the kinds of rows are messages, embedded",
        ),
        (lambda p: vd.make_rows("text", [1]), "Rows of the kind text have the processor's image"),
        (
            lambda p: vd.make_rows("messages", [1], videos_per_row=[1, 1]),
            "videos_per_row has 2 entries, but images_per_row has 1",
        ),
        (
            lambda p: vd.make_rows("messages", [1], videos_per_row=[1], video_sizes=[9]),
            "video_sizes is [9], but it has one number per video",
        ),
        (
            lambda p: vd.make_rows("text", [0], videos_per_row=[1], processor=p),
            "Rows of the kind text have the processor's video",
        ),
        (
            lambda p: vd.make_rows(lambda images, text, answer: 1, [0], videos_per_row=[1]),
            "The function that makes rows takes no videos",
        ),
        (lambda p: vd.make_rows("messages", [1], sizes=[9]), "sizes is [9], but it has one number"),
        (
            lambda p: vd.make_rows(lambda images: 1, [1]),
            "The function that makes rows raised TypeError for 1 image",
        ),
    ],
)
def test_wrong_argument_is_named(built, call, said):
    with pytest.raises(vd.BadInput) as caught:
        call(built["llava"][1])

    assert str(caught.value).startswith(said)


def test_result_that_is_no_batch_is_named(built):
    processor = built["llava"][1]
    with pytest.raises(vd.BadInput, match="The collator returned a list, but a batch is a mapping"):
        vd.check(vd.collator(copy.copy, processor), rows_of(processor, [1]))


def test_kinds_of_rows_are_what_trainers_use(built):
    processor = built["qwen2_5_vl"][1]
    made = {
        kind: vd.make_rows(kind, [1], processor=processor)[0]
        for kind in ("messages", "embedded", "prompt_completion", "prompt", "text", "processed")
    }

    assert {kind: sorted(row) for kind, row in made.items()} == {
        "messages": ["images", "messages"],
        "embedded": ["messages"],
        "prompt_completion": ["completion", "images", "prompt"],
        "prompt": ["completion", "images", "prompt"],
        "text": ["images", "text"],
        "processed": [
            "attention_mask",
            "image_grid_thw",
            "input_ids",
            "mm_token_type_ids",
            "pixel_values",
        ],
    }
    assert made["processed"]["input_ids"].ndim == 1
    assert made["embedded"]["messages"][0]["content"][0]["image"].size == (64, 64)
