"""Whatever people pass to `check`: the right answer, or the call that works."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from architectures import built as real
from collators import Collators

import vlmdebug as vd

DataLoader, Dataset = torch.utils.data.DataLoader, torch.utils.data.Dataset


def loader_of(rows: Any, **options: Any) -> Any:
    """A loader of a list, which `torch` takes and its types do not name."""
    return DataLoader(rows, **options)


def inputs_of(family="qwen2_5_vl", images=(2, 0, 1)):
    return dict(vd.tiny.batch(family, list(images), padding_side="right"))


def alone_of(family, images):
    """What the processor returns for each sample by itself."""
    return [dict(vd.tiny.batch(family, [count], seed=place)) for place, count in enumerate(images)]


def wrong(inputs):
    """The last image is not in the batch."""
    return {
        **inputs,
        "pixel_values": inputs["pixel_values"][:-40],
        "image_grid_thw": inputs["image_grid_thw"][:-1],
    }


def said(call):
    with pytest.raises(vd.BadInput) as caught:
        call()
    return str(caught.value)


# --- samples and files ---------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "llava_next", "idefics3", "mllama"])
def test_list_of_processed_samples_is_one_batch(built, family):
    processor = built[family][1]
    samples = alone_of(family, [1, 2, 1])
    flat = [
        {key: one[0] if key in ("input_ids", "attention_mask") else one for key, one in row.items()}
        for row in samples
    ]

    assert vd.check(samples, processor=processor).verdict == "OK"
    assert vd.check(flat, processor=processor).samples == 3


def test_wrong_sample_of_a_list_is_named(built):
    samples = alone_of("qwen2_5_vl", [1, 1])
    samples[1]["input_ids"] = samples[1]["input_ids"].clone()
    token = built["qwen2_5_vl"][0].config.image_token_id
    samples[1]["input_ids"][samples[1]["input_ids"] == token] = 7
    samples[1]["mm_token_type_ids"] = torch.zeros_like(samples[1]["input_ids"])
    report = vd.check(samples, processor=built["qwen2_5_vl"][1])

    assert report.verdict == "MISMATCH"
    assert report.findings[0].mismatches[0].samples == (1,)


@pytest.mark.parametrize("kind", [".pt", ".safetensors", ".npz", ".json"])
@pytest.mark.parametrize("broken", [False, True], ids=["right", "wrong"])
def test_saved_batch_is_read_in_every_usual_format(built, tmp_path, kind, broken):
    inputs = wrong(inputs_of()) if broken else inputs_of()
    path = tmp_path / f"batch{kind}"
    if kind == ".pt":
        torch.save(inputs, path)
    elif kind == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in inputs.items()}, path)
    elif kind == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in inputs.items()})
    else:
        path.write_text(json.dumps({key: value.tolist() for key, value in inputs.items()}))
    report = vd.check(str(path), processor=built["qwen2_5_vl"][1])

    assert report.verdict == ("MISMATCH" if broken else "OK")


def test_table_of_samples_is_read_from_parquet(built, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    columns: dict[str, list] = {}
    for row in alone_of("qwen2_5_vl", [1, 2]):
        for key, value in row.items():
            columns.setdefault(key, []).append(
                (
                    value[0]
                    if (value.shape[0] == 1 and "ids" in key) or key == "attention_mask"
                    else value
                ).tolist()
            )
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    report = vd.check(tmp_path / "rows.parquet", processor=built["qwen2_5_vl"][1])

    assert report.verdict == "OK"
    assert report.counts["image"] == (1, 2)


def test_pickle_inside_an_array_file_is_not_loaded(tmp_path):
    path = tmp_path / "batch.npz"
    np.savez(path, input_ids=np.array([object()], dtype=object))

    assert "could not be read as a batch" in said(lambda: vd.check(path))


def test_lists_of_numbers_are_read(built):
    inputs = {key: value.tolist() for key, value in inputs_of().items()}

    assert vd.check(inputs, processor=built["qwen2_5_vl"][1]).verdict == "OK"


@pytest.mark.parametrize(("key", "silent"), [("input_ids", False), ("attention_mask", None)])
def test_list_next_to_tensors_is_found(built, key, silent):
    model, processor = built["qwen2_5_vl"]
    inputs = inputs_of()
    mixed = {**inputs, key: inputs[key].tolist()}

    with pytest.raises((TypeError, AttributeError)):
        model(**mixed)
    for batch in (mixed, loader_of([mixed], batch_size=None)):
        (found,) = vd.check(batch, processor=processor).mismatches
        assert (found.key, found.silent) == (key, silent)
        assert found.message.startswith(
            f"{key} is a list, where other keys of the batch are tensors."
        )
    mended = {**mixed, key: torch.tensor(mixed[key])}
    assert vd.check(mended, processor=processor).ok


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("llava_next", {"image_sizes"}),
        ("llava_onevision", {"image_sizes", "batch_num_images"}),
        ("kosmos-2.5", {"width", "height"}),
        ("qwen2_5_vl", {"second_per_grid_ts"}),
    ],
)
def test_list_that_a_model_reads_as_numbers_is_right(family, keys):
    model, processor = real(family)
    inputs = inputs_of(family, (1, 1)) if family != "qwen2_5_vl" else with_a_video(model)
    mixed = {**inputs, **{key: inputs[key].tolist() for key in keys}}

    with torch.no_grad():
        logits = [model(**one).logits for one in (inputs, mixed)]
    assert torch.equal(*logits)
    assert vd.check(mixed, processor=processor, config=model.config).ok


def with_a_video(model):
    """A text with a video of two frames, each of one feature."""
    token, vision = model.config.video_token_id, model.config.vision_config
    ids = torch.tensor([[60, 61, token, token, 62]])
    side, wide = vision.spatial_merge_size, vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == token) * 2,
        "video_grid_thw": torch.tensor([[2, side, side]]),
        "pixel_values_videos": torch.ones(2 * side**2, 3 * wide),
        "second_per_grid_ts": torch.tensor([0.5]),
    }


@pytest.mark.parametrize("broken", [False, True], ids=["right", "wrong"])
def test_data_set_of_processed_rows_is_checked(built, broken):
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            key: value[0] if key != "pixel_values" and key != "image_grid_thw" else value
            for key, value in row.items()
        }
        for row in alone_of("qwen2_5_vl", [1, 2, 1])
    ]
    if broken:
        rows[1]["image_grid_thw"] = rows[1]["image_grid_thw"][:1]
        rows[1]["pixel_values"] = rows[1]["pixel_values"][: int(rows[1]["image_grid_thw"].prod())]
    data = datasets.Dataset.from_list(
        [{key: value.tolist() for key, value in row.items()} for row in rows]
    )
    processor = built["qwen2_5_vl"][1]

    for thing in (data, data[:3]):
        assert vd.check(thing, processor=processor).verdict == ("MISMATCH" if broken else "OK")
    assert vd.check(data[0], processor=processor).verdict == "OK"


# --- loaders and trainers ------------------------------------------------------------------


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


@pytest.fixture
def rows(built):
    return vd.make_rows("text", [1, 1, 1, 1], processor=built["llava"][1])


@pytest.mark.parametrize(
    ("name", "verdict"), [("right", "OK"), ("media_in_another_order", "MISMATCH")]
)
def test_loader_is_checked_by_its_collator_on_its_first_batches(built, rows, name, verdict):
    processor = built["llava"][1]
    collate = getattr(Collators(processor), name)
    loader = DataLoader(Rows(rows), batch_size=2, collate_fn=collate)
    report = vd.check(loader, processor=processor)

    assert report.verdict == verdict
    assert any(one.what == "2 batches" for one in report.compared)
    if verdict == "MISMATCH":
        assert report.findings[0].message.startswith("batch 0 of the loader: sample 0 was given")


def test_loader_that_shuffles_draws_no_random_number_of_the_program(built, rows):
    processor = built["llava"][1]
    loader = DataLoader(
        Rows(rows), batch_size=2, shuffle=True, collate_fn=Collators(processor).right
    )
    torch.manual_seed(1)
    vd.check(loader, processor=processor)
    after = torch.rand(1)
    torch.manual_seed(1)

    assert after == torch.rand(1)


def test_loader_of_whole_batches_is_checked_as_it_is(built):
    loader = loader_of([inputs_of(), wrong(inputs_of())], batch_size=None)
    report = vd.check(loader, processor=built["qwen2_5_vl"][1])

    assert report.findings[0].message.startswith("batch 1 of the loader: ")


def test_positions_of_a_loaders_batches_are_judged(built):
    right = inputs_of()
    seq = right["input_ids"].shape[1]
    turned = {**right, "position_ids": torch.arange(seq).expand(3, 3, seq)}
    report = vd.check(loader_of([right, turned], batch_size=None), processor=built["qwen2_5_vl"][1])

    assert [finding.code for finding in report.findings] == ["VLM014"]


def test_collator_that_stacks_is_found_in_a_loader(built):
    samples = alone_of("gemma4", [1, 1])
    loader = loader_of([{**samples[0]}, {**samples[0]}], batch_size=2)
    report = vd.check(loader, processor=built["gemma4"][1])

    assert report.findings[0].code == "VLM011"
    assert "a dimension was added" in report.findings[0].message


@pytest.mark.parametrize(
    ("name", "verdict"), [("right", "OK"), ("images_of_the_first_row", "MISMATCH")]
)
def test_trainer_is_checked_by_its_own_loader_and_processor(rows, tmp_path, name, verdict):
    from transformers import Trainer, TrainingArguments

    model, processor = vd.tiny.build("llava")
    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
        ),
        data_collator=getattr(Collators(processor), name),
        train_dataset=Rows(rows),
        processing_class=processor,
    )
    report = vd.check(trainer)

    assert report.verdict == verdict
    if verdict == "MISMATCH":
        assert report.findings[0].message.startswith("batch 0 of the trainer: sample 1 was given")


def test_trainer_without_data_is_refused_with_the_way(tmp_path):
    from transformers import Trainer, TrainingArguments

    model, processor = vd.tiny.build("llava")
    options = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model, options, processing_class=processor)

    assert said(lambda: vd.check(trainer)).startswith("Trainer raised ValueError when it made its")


def test_function_with_rows_is_a_collator(built, rows):
    processor = built["llava"][1]
    collate = Collators(processor).media_in_another_order

    assert vd.check(collate, rows, processor=processor).findings[0].code == "VLM002"
    assert vd.check(Collators(processor).right, rows, processor=processor).verdict == "OK"


# --- functions of another signature --------------------------------------------------------


def loop(model, inputs, chunk_size):
    for chunk in vd.slicers.by_sample(inputs, chunk_size):
        model(**chunk)


def test_loop_with_a_model_first_is_recorded(built):
    inputs = inputs_of("llava", [2, 1])
    report = vd.check(loop, inputs, processor=built["llava"][1])
    found = vd.falsify(loop, families=["llava"])

    assert found is not None
    assert report.findings[0].code in ("VLM001", "VLM002")
    assert "vd.check(vd.record(loop), batch" in found.to_pytest("mine:loop")


def test_function_of_three_others_is_bound_before_and_not_run():
    def cut(batch_rows, start, stop):
        raise AssertionError

    assert said(lambda: vd.check(cut, inputs_of())).startswith(
        "cut takes (batch_rows, start, stop)"
    )


# --- the message names the way -------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "way"),
    [
        (
            lambda p: torch.utils.data.default_collate,
            "check(vd.collator(default_collate, processor), rows)",
        ),
        (lambda p: p, "check(processor(…), processor=processor)"),
        (lambda p: vd.tiny.build("llava")[0], "check(inputs, model=model)"),
        (lambda p: None, "A DataLoader, a trainer, a list of samples, a saved batch"),
        (lambda p: "batch.pt", "torch.save(dict(inputs), path)"),
        (lambda p: __file__, ".npz, .json, .parquet"),
        (lambda p: {}, "Pass what the processor returned"),
        (lambda p: [], "The list is empty"),
        (lambda p: [3], "Pass what the processor returned for each sample"),
        (lambda p: loader_of([]), "The loader gives no batch"),
        (
            lambda p: {"images": [1], "prompt": [{"role": "user", "content": "hi"}]},
            "check(vd.collator(collate, processor), rows)",
        ),
        (
            lambda p: [{"role": "user", "content": "hi"}],
            "A conversation with role, content was given",
        ),
        (
            lambda p: vd.make_rows("messages", [1]),
            "A list of rows with messages, images was given",
        ),
    ],
)
def test_what_is_no_batch_is_refused_with_the_call_that_works(built, thing, way):
    assert way in said(lambda: vd.check(thing(built["llava"][1])))


@pytest.mark.parametrize(
    ("thing", "way"),
    [
        (lambda: loader_of([1]), "check(…) takes a data loader: it looks at the first batches"),
        (lambda: [{}], "check(…) takes a list of samples"),
    ],
)
def test_reading_one_batch_points_to_check(thing, way):
    assert way in said(lambda: vd.read_batch(thing()))
