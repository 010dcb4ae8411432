"""Tiny models: transformers' own classes, equal for equal seeds, built without a network."""

from __future__ import annotations

import pickle
import random
import socket
import subprocess
import sys
import warnings
from typing import Any

import pytest
from architectures import FEW, REFUSES_TEXT, UNMARKED, alike, architectures

from vlmdebug import tiny
from vlmdebug.errors import BadInput
from vlmdebug.families import find_family
from vlmdebug.tiny import registry

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")

TEXT_KEYS = {"input_ids", "attention_mask"}
GRID = {"pixel_values", "image_grid_thw"}
MEDIA_KEYS = {
    **dict.fromkeys(
        [
            *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5", "qwen3_vl_moe", "qwen3_5_moe"),
            *("qwen4_exp", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "cosmos3_omni"),
            *("cosmos3_edge", "exaone4_5", "hyperclovax_vision_v2", "lfm3_vl", "dots3_note"),
            *("cohere_compass", "ernie4_5_vl_moe", "glm4v", "glm4v_moe", "glm46v", "glmga"),
            *("glm_ocr", "glm5_next", "kimi_k25", "minimax_m3_vl", "muse_glimmer", "muse_spark"),
            *("paddleocr_vl", "inkling2", "inkling2_loop", "hy_v4_vl"),
        ],
        GRID,
    ),
    "video_llama_3": {*GRID, "image_merge_sizes"},
    "nemotron_h_omni": {"pixel_values", "image_grid_hw"},
    **dict.fromkeys(
        [
            *("internvl", "aya_vision", "ovis2", "qianfan_ocr", "cohere2_vision", "llama4"),
            *("llava", "deepseek_vl", "gemma3", "vipllava", "paligemma", "janus", "shieldgemma2"),
            *("gemma3n", "fast_vlm", "video_llava", "chameleon", "t5gemma2", "perception_lm"),
            "inkling_mm_model",
        ],
        {"pixel_values"},
    ),
    "deepseek_vl_hybrid": {"pixel_values", "high_res_pixel_values"},
    "aria": {"pixel_values", "pixel_mask"},
    "gemma4": {"pixel_values", "image_position_ids"},
    "gemma4_unified": {"pixel_values", "image_position_ids"},
    "diffusion_gemma": {"pixel_values", "image_position_ids"},
    **dict.fromkeys(
        [
            *("llava_next", "llava_next_video", "mistral3", "mistral_large4", "lighton_ocr"),
            *("emu3", "granite4_vision", "apertus1p5"),
        ],
        {"pixel_values", "image_sizes"},
    ),
    "llava_onevision": {"pixel_values", "image_sizes", "batch_num_images"},
    **dict.fromkeys(
        ["idefics3", "smolvlm", "idefics2", "granite_docling"],
        {"pixel_values", "pixel_attention_mask"},
    ),
    "lfm2_vl": {"pixel_values", "pixel_attention_mask", "spatial_shapes"},
    **dict.fromkeys(
        ["deepseek_ocr2", "step3p7"],
        {"pixel_values", "num_local_patches", "pixel_values_local"},
    ),
    "idefics": {"pixel_values", "image_attention_mask"},
    "mllama": {
        "pixel_values",
        "aspect_ratio_ids",
        "aspect_ratio_mask",
        "cross_attention_mask",
    },
}
# Every image becomes as many placeholder tokens.
CONSTANT = {
    *("llava", "deepseek_vl", "gemma3", "idefics2", "mllama", "vipllava", "paligemma", "janus"),
    *("deepseek_vl_hybrid", "shieldgemma2", "aria", "gemma3n", "fast_vlm"),
    *("video_llava", "chameleon", "idefics", "t5gemma2", "perception_lm"),
}
TOKEN_TYPES = {
    *(
        "gemma4",
        "gemma4_unified",
        "diffusion_gemma",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_5",
        "glm4v",
    ),
    *("qwen3_vl_moe", "qwen3_5_moe", "qwen4_exp", "cosmos3_omni", "cosmos3_edge"),
    *("cohere_compass", "ernie4_5_vl_moe", "glm4v_moe", "glm46v", "glmga", "glm_ocr"),
    *("glm5_next", "paddleocr_vl", "hy_v4_vl"),
}
TWO_SIZES = {
    "ovis2",
    "mistral3",
    "mistral_large4",
    "deepseek_ocr2",
}  # the wide and the tall ask for as many
OTHER_NAMES = {
    "idefics": "ForVisionText2Text",
    "nemotron_h_omni": "NemotronH_Omni_Reasoning_V3",
    "diffusion_gemma": "ForBlockDiffusion",
}
IGNORE_TYPES = {"glm5_next", "diffusion_gemma"}  # takes them, and computes the same without
OTHER_KEYS = {
    "gemma3": {"token_type_ids"},
    "t5gemma2": {"token_type_ids", "decoder_input_ids"},
    "diffusion_gemma": {"decoder_input_ids"},
    "shieldgemma2": {"token_type_ids"},
    "gemma3n": {"token_type_ids"},
    "paligemma": {"token_type_ids", "labels"},
    "ernie4_5_vl_moe": {"moe_mm_token_type_ids"},
}


@pytest.fixture(params=architectures())
def family(request):
    return request.param


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def placeholders(model, batch):
    config = model.config
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if token is None:  # named by the processor only
        token = tiny.build(config.model_type)[1].image_token_id
    return (batch["input_ids"] == token).sum(dim=1).tolist()


def skip_if_text_is_refused(family):
    if family in REFUSES_TEXT:
        pytest.skip("its processor refuses a batch without images")


def halves_swapped(rows):
    return torch.cat([rows[len(rows) // 2 :], rows[: len(rows) // 2]])


# --- build ---------------------------------------------------------------------------------


def test_every_family_is_covered_here():
    assert set(registry.known()) - {*registry.ONE_IMAGE} == set(MEDIA_KEYS)


def test_classes_are_the_ones_of_transformers(family, built):
    model, processor = built[family]

    for upstream in (model, processor, processor.image_processor):
        assert type(upstream).__module__.startswith("transformers.models.")
    expected = OTHER_NAMES.get(family, "ForConditionalGeneration")
    assert type(model).__name__.endswith(expected)
    assert type(processor).__name__.endswith("Processor")


def test_model_is_tiny_and_in_eval_mode(family, built):
    model, _ = built[family]
    text = model.config.get_text_config()

    assert not model.training
    assert 16 <= text.hidden_size <= 64
    assert text.num_hidden_layers <= (4 if family == "nemotron_h_omni" else 2)
    assert sum(weight.numel() for weight in model.parameters()) < 1_500_000


def test_equal_seeds_give_equal_weights(family, built):
    expected = built[family][0].state_dict()
    again = tiny.build(family)[0].state_dict()

    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_different_seeds_give_different_weights(family, built):
    embeddings = built[family][0].get_input_embeddings().weight
    other = tiny.build(family, seed=1)[0].get_input_embeddings().weight

    assert not torch.equal(other, embeddings)


def test_builds_are_fresh_objects(family, built):
    model, processor = tiny.build(family)

    assert model is not built[family][0]
    assert processor is not built[family][1]
    assert processor.tokenizer is not built[family][1].tokenizer


def test_callers_random_numbers_go_on_as_if_nothing_had_been_drawn(family):
    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def seed():
        for set_seed in (torch.manual_seed, random.seed, np.random.seed):
            set_seed(7)

    seed()
    expected = draw()
    seed()
    tiny.build(family, seed=3)
    tiny.batch(family, seed=3)

    assert draw() == expected


def test_weights_do_not_depend_on_the_callers_random_numbers(family, built):
    torch.manual_seed(99)
    embeddings = tiny.build(family)[0].get_input_embeddings().weight

    assert torch.equal(embeddings, built[family][0].get_input_embeddings().weight)


def test_no_weight_matrix_is_left_at_zero(family, built):
    model, _ = built[family]

    assert [
        name
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and not name.endswith("bias") and not weight.any()
    ] == []


def test_processor_survives_pickling(family, built):
    _, processor = built[family]
    copy = pickle.loads(pickle.dumps(processor))

    expected = tiny.batch(family, processor=processor)
    assert all(torch.equal(v, expected[k]) for k, v in tiny.batch(family, processor=copy).items())


def test_network_is_never_used(family, monkeypatch):
    def refuse(*args):
        raise AssertionError(f"connected to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    _, processor = tiny.build(family)
    tiny.batch(family, processor=processor)


def test_smolvlm_leaves_the_module_it_borrows_from_as_it_was():
    from transformers.models.smolvlm import processing_smolvlm

    before = vars(processing_smolvlm)["num2words"]
    tiny.build("smolvlm")

    assert vars(processing_smolvlm)["num2words"] is before


@pytest.mark.parametrize("function", [tiny.build, tiny.batch])
def test_unknown_family_is_answered_with_the_closest_one(function):
    with pytest.raises(BadInput) as caught:
        function("gemma_4")

    assert str(caught.value) == (
        "There is no tiny model of family 'gemma_4'. Did you mean 'gemma4'? "
        "Pass one of vlmdebug.tiny.families(): "
        f"{', '.join(tiny.families())}."
    )


@pytest.mark.parametrize("family", ["zzz", None, 3, []], ids=repr)
def test_family_unlike_any_other_gets_no_guess(family):
    with pytest.raises(BadInput, match="Pass one of") as caught:
        tiny.build(family)

    assert "Did you mean" not in str(caught.value)


def test_import_loads_neither_torch_nor_transformers_nor_pillow():
    code = "import sys, vlmdebug.tiny as t; t.families(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "vlmdebug.tiny.batches" in loaded
    assert {"torch", "transformers", "PIL", "numpy", "tokenizers"}.isdisjoint(loaded)


# --- batch ---------------------------------------------------------------------------------


def test_batch_has_the_keys_of_its_family(family):
    types = {"mm_token_type_ids"} if family in TOKEN_TYPES else set()
    keys = TEXT_KEYS | types | OTHER_KEYS.get(family, set()) | MEDIA_KEYS[family]

    assert set(tiny.batch(family)) == keys


def test_model_runs_on_the_whole_batch(family, built):
    model, processor = built[family]
    batch = tiny.batch(family, processor=processor)
    out = logits(model, batch)

    assert out.shape[:2] == batch["input_ids"].shape
    assert out.isfinite().all()


@pytest.mark.parametrize("counts", [[1, 2, 1, 0], [0, 2], [0, 0, 1], [3]], ids=str)
def test_text_only_samples_stand_anywhere(family, built, counts):
    model, _ = built[family]
    batch = tiny.batch(family, counts)

    assert [n > 0 for n in placeholders(model, batch)] == [n > 0 for n in counts]
    assert logits(model, batch).isfinite().all()


def test_text_only_batch_has_no_media_keys_and_runs(family, built):
    skip_if_text_is_refused(family)
    batch = tiny.batch(family, [0, 0])

    assert MEDIA_KEYS[family].isdisjoint(batch)
    assert logits(built[family][0], batch).isfinite().all()


def test_default_sizes_own_different_numbers_of_placeholders(family, built):
    counts = placeholders(built[family][0], tiny.batch(family, [1, 1, 1]))

    assert len(set(counts)) == (1 if family in CONSTANT else 2 if family in TWO_SIZES else 3)


def test_swapping_two_images_of_equal_size_changes_the_logits(family, built):
    model, _ = built[family]
    batch = tiny.batch(family, [1, 1], sizes=(160, 160))
    swapped = {
        key: halves_swapped(value) if key in MEDIA_KEYS[family] else value
        for key, value in batch.items()
    }

    difference = (logits(model, swapped) - logits(model, batch)).abs()
    assert difference[batch["attention_mask"].bool()].max() > 0.1


@pytest.mark.parametrize("family", sorted(TOKEN_TYPES & set(architectures()) - IGNORE_TYPES))
def test_token_types_change_the_logits(family, built):
    """Gemma 4 masks by them as its larger checkpoints do, Qwen2.5-VL takes positions from them."""
    model, _ = built[family]
    batch = tiny.batch(family, [1])
    blind = {**batch, "mm_token_type_ids": torch.zeros_like(batch["mm_token_type_ids"])}

    assert (logits(model, blind) - logits(model, batch)).abs().max() > 0.1


def test_batch_depends_on_its_seed_alone(family):
    first, again, other = (tiny.batch(family, seed=seed) for seed in (5, 5, 6))

    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_texts_differ_between_samples_in_words_and_length(family):
    skip_if_text_is_refused(family)
    batch = tiny.batch(family, [0, 0, 0])
    lengths = batch["attention_mask"].sum(dim=1).tolist()

    assert len(set(map(tuple, batch["input_ids"].tolist()))) == 3
    assert len(set(lengths)) == 3


@pytest.mark.parametrize(("side", "padded"), [("left", 0), ("right", -1)])
def test_padding_goes_to_the_side_asked_for(family, side, padded):
    mask = tiny.batch(family, [1, 0], padding_side=side)["attention_mask"]

    assert mask[:, padded].tolist() == [1, 0]


def test_asking_for_a_side_does_not_stick(family):
    before = tiny.batch(family)
    tiny.batch(family, padding_side="left")

    assert torch.equal(tiny.batch(family)["input_ids"], before["input_ids"])


def test_images_go_where_the_text_marks_them(family, built):
    model, _ = built[family]
    if family in UNMARKED:
        pytest.skip("its processor places the images behind the text")
    batch = tiny.batch(family, [1, 1], texts=["see <image>", "<image> see"], padding_side="left")
    is_image = batch["input_ids"] == model.config.image_token_id
    first, last = is_image.int().argmax(dim=1), is_image.flip(1).int().argmax(dim=1)

    assert first[0] > 0
    assert last[0] < last[1]


def test_text_without_marks_gets_its_images_in_front(family):
    plain = tiny.batch(family, [2], texts=["compare"])
    marked = tiny.batch(family, [2], texts=["<image> <image> compare"])

    assert torch.equal(plain["input_ids"], marked["input_ids"])


def test_callers_own_processor_is_used(family, built):
    class Spy:
        def __call__(self, **given):
            return given

    spy: Any = Spy()
    given = tiny.batch(family, [1, 0], processor=spy)

    assert [len(images) for images in given["images"]] == [1, 0]
    assert given["padding"] is True
    assert given["return_tensors"] == "pt"


def test_batch_says_nothing(family, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # GLM-4V's own image processor, with numpy 2.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        tiny.batch(family, [2, 0, 1])
        if family not in REFUSES_TEXT:
            tiny.batch(family, [0])

    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# --- images --------------------------------------------------------------------------------


def test_images_come_in_one_list_per_sample():
    drawn = tiny.images([2, 0, 1], [(30, 20), (20, 30), (25, 25)])

    assert [[image.size for image in images] for images in drawn] == [
        [(30, 20), (20, 30)],
        [],
        [(25, 25)],
    ]


def test_images_carry_the_names_that_reports_give_them():
    drawn = tiny.images([1, 2], (40, 40), seed=4)
    named = tiny.draw(2, (40, 40), seed=4, name="B2")

    assert drawn[1][1].tobytes() == named.tobytes()
    assert named.tobytes() != tiny.draw(2, (40, 40), seed=4).tobytes()


@pytest.mark.parametrize("size", [(160, 160), (16, 16)], ids=str)
def test_two_hundred_images_are_all_distinct(size):
    (drawn,) = tiny.images([200], size)

    assert len({image.tobytes() for image in drawn}) == 200


def test_images_depend_on_their_seed():
    assert tiny.draw(0, seed=1).tobytes() == tiny.draw(0, seed=1).tobytes()
    assert tiny.draw(0, seed=1).tobytes() != tiny.draw(0, seed=2).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (400, 3)], ids=str)
def test_odd_sizes_can_be_drawn(size):
    assert tiny.draw(123456, size).size == size


def test_numpy_counts_count():
    assert len(tiny.images(np.array([2, 0]), (8, 8))[0]) == 2


def test_tensor_counts_count():
    assert len(tiny.images(torch.tensor([2, 0]), (8, 8))[0]) == 2


# --- refused -------------------------------------------------------------------------------

REFUSED = [
    pytest.param(
        {"images_per_sample": []},
        "images_per_sample is empty, but a batch has at least one sample. "
        "Write [0] for one sample without images.",
        id="no samples",
    ),
    pytest.param(
        {"images_per_sample": [1, -2]},
        "images_per_sample gives sample 1 -2 images, but a count is a whole number, 0 or more. "
        "Write 0 for a text-only sample.",
        id="negative count",
    ),
    pytest.param(
        {"images_per_sample": [1.0]},
        "images_per_sample gives sample 0 1.0 images, but a count is a whole number, 0 or more. "
        "Write 0 for a text-only sample.",
        id="float count",
    ),
    pytest.param(
        {"images_per_sample": [True]},
        "images_per_sample gives sample 0 True images, but a count is a whole number, 0 or more. "
        "Write 0 for a text-only sample.",
        id="bool count",
    ),
    pytest.param(
        {"images_per_sample": 3},
        "images_per_sample is 3, but it holds one count per sample. "
        "Write [2] for one sample with two images.",
        id="one number",
    ),
    pytest.param(
        {"images_per_sample": [1, 1], "sizes": [(8, 8)]},
        "sizes has 1 entry, but images_per_sample adds up to 2 images. "
        "Pass one (width, height) per image, or a single pair for all of them.",
        id="too few sizes",
    ),
    pytest.param(
        {"images_per_sample": [1], "sizes": []},
        "sizes has 0 entries, but images_per_sample adds up to 1 image. "
        "Pass one (width, height) per image, or a single pair for all of them.",
        id="no sizes",
    ),
    pytest.param(
        {"images_per_sample": [1], "sizes": [(8, 0)]},
        "(8, 0) is not an image size, which is (width, height) in whole pixels, 1 or more. "
        "For example (200, 100).",
        id="empty image",
    ),
    pytest.param(
        {"images_per_sample": [1], "sizes": (8, 8, 3)},
        "(8, 8, 3) is not an image size, which is (width, height) in whole pixels, 1 or more. "
        "For example (200, 100).",
        id="size with channels",
    ),
    pytest.param(
        {"images_per_sample": [1], "sizes": 8},
        "8 is not an image size, which is (width, height) in whole pixels, 1 or more. "
        "For example (200, 100).",
        id="size is one number",
    ),
    pytest.param(
        {"images_per_sample": [1], "texts": "hello"},
        "texts is one string, but images_per_sample has 1 sample. "
        "Pass a list with one text per sample.",
        id="text not in a list",
    ),
    pytest.param(
        {"images_per_sample": [1, 0], "texts": ["hello"]},
        "texts has 1 entry, but images_per_sample has 2 samples. "
        "Pass a list with one text per sample.",
        id="too few texts",
    ),
    pytest.param(
        {"images_per_sample": [2], "texts": ["<image> hello"]},
        "The text of sample 0 holds <image> 1 time, but the sample has 2 images. "
        "Write it once per image, or leave it out to put all images in front.",
        id="too few marks",
    ),
    pytest.param(
        {"padding_side": "top"},
        'padding_side is \'top\', but it takes "right", "left" or None. '
        "batch did nothing. Pass another padding_side.",
        id="padding side",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(BadInput) as caught:
        tiny.batch("internvl", **arguments)

    assert str(caught.value) == message


def test_release_that_lacks_a_family_is_named_and_no_other_is_asked_for(monkeypatch):
    module = "transformers.models.llava.image_processing_pil_llava"
    monkeypatch.setitem(sys.modules, module, None)  # as in 4.57

    with pytest.raises(BadInput) as caught:
        tiny.build("llava")
    text = str(caught.value)

    assert f"needs transformers {registry.OLDEST} or newer" in text
    assert f"but {transformers.__version__} is installed" in text
    assert "pip install" not in text and module in text


def test_model_that_cannot_be_called_in_the_installed_release_is_left_out(monkeypatch):
    release = ".".join(transformers.__version__.split(".")[:2])
    monkeypatch.setitem(registry.BROKEN, "llava", {release: "its forward raises"})

    assert "llava" not in tiny.families()
    with pytest.raises(BadInput, match=r"'llava' cannot be called in transformers .*: its forward"):
        tiny.build("llava")


def test_model_that_cannot_be_called_in_another_release_is_built(monkeypatch):
    monkeypatch.setitem(registry.BROKEN, "llava", {"4.0": "its forward raises"})

    assert "llava" in tiny.families()


def test_package_that_is_missing_is_not_taken_for_a_release(monkeypatch):
    monkeypatch.setattr("vlmdebug.tiny.registry._MODULES", {"own": "no_such_module"})

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        tiny.build("own")


# --- what the tests share ------------------------------------------------------------------

CHANGES = {
    "a weight": lambda model: model.get_input_embeddings().weight.data.add_(1),
    "the configuration": lambda model: setattr(model.config, "image_token_id", 0),
    "train mode": lambda model: model.train(),
    "a hook": lambda model: model.register_forward_pre_hook(lambda *given: None),
    "another forward": lambda model: setattr(model, "forward", len),
}


def test_a_shared_model_that_only_ran_is_as_it_was_built(built):
    model, processor = built["llava"]
    logits(model, tiny.batch("llava", processor=processor))

    assert alike(model, tiny.build("llava")[0])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_test_that_changes_a_shared_model_would_be_seen(change, built):
    model = tiny.build("llava")[0]
    change(model)

    assert not alike(model, built["llava"][0])


def test_fast_run_has_one_architecture_of_each_layout(monkeypatch):
    monkeypatch.delenv(FEW, raising=False)
    every = architectures()
    monkeypatch.setenv(FEW, "1")
    few = architectures()

    assert set(few) < set(every)
    assert sorted(find_family(name).name for name in few) == sorted(
        {find_family(name).name for name in every}
    )
