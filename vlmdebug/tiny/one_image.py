"""Models that take exactly one image per sample.

Florence-2 has an encoder and a decoder: a batch also has `decoder_input_ids`, and the logits are
those of the decoder's tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config
from vlmdebug.tiny.tokenizer import train_tokenizer

_SQUARE = {"height": 56, "width": 56}
_BLIP = ("blip.image_processing_pil_blip", "BlipImageProcessorPil", {"size": _SQUARE})
_CLIP = (
    "clip.image_processing_pil_clip",
    "CLIPImageProcessorPil",
    {"size": {"shortest_edge": 56}, "crop_size": _SQUARE},
)
_PAGE = {"size": {"height": 128, "width": 128}}
_QUERIES = 4
_OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.1}
_SAM = {
    "image_size": 128,
    "patch_size": 8,
    "output_channels": 16,
    "global_attn_indexes": [1],
    "window_size": 4,
    "mlp_dim": 64,
}
_TOKENS_PER_PAGE = 16  # 16 x 16 patches, halved twice
_one_image = partial(recipe_from_config, one_image=True)


def _fuyu_tokenizer() -> Any:
    """A tokenizer that begins a text of images with a token of its own, which the processor cuts.

    Its tokens for images are matched after that, as they are in the released tokenizer.
    """
    from tokenizers import AddedToken, Regex, normalizers

    made = train_tokenizer({}, unnamed=["<s>", "<0x04>"])
    backend = made.backend_tokenizer
    backend.normalizer = normalizers.Replace(Regex(r"^(?=\|SPEAKER\|.)"), "_")
    backend.add_tokens([AddedToken(one, normalized=True) for one in ("|SPEAKER|", "|NEWLINE|")])
    return made


RECIPES = {
    "blip": _one_image(
        "blip",
        processor="BlipProcessor",
        images=_BLIP,
        placeholder="",
        text_config={"encoder_hidden_size": 32},
    ),
    "blip-2": _one_image(
        "blip-2",
        processor="Blip2Processor",
        images=_BLIP,
        placeholder="",
        parts={"num_query_tokens": _QUERIES},
        ids={"image_token_index": "<image>"},
        num_query_tokens=_QUERIES,
        text_config=_OPT,
        qformer_config={"encoder_hidden_size": 32},
    ),
    "instructblip": _one_image(
        "instructblip",
        processor="InstructBlipProcessor",
        images=_BLIP,
        placeholder="",
        parts={"num_query_tokens": _QUERIES, "qformer_tokenizer": train_tokenizer},
        ids={"image_token_index": "<image>"},
        num_query_tokens=_QUERIES,
        text_config=_OPT,
        qformer_config={"encoder_hidden_size": 32},
    ),
    "git": _one_image("git", processor="GitProcessor", images=_CLIP, placeholder=""),
    "kosmos-2": _one_image(
        "kosmos-2",
        processor="Kosmos2Processor",
        images=_CLIP,
        placeholder="",
        parts={"num_patch_index_tokens": 1},
        attributes={"num_image_tokens": _QUERIES},
        latent_query_num=_QUERIES,
        text_config={
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 64,
            "attention_heads": 2,
            "init_std": 0.3,
        },
        vision_config={"initializer_factor": 10.0},
    ),
    "kosmos-2.5": _one_image(
        "kosmos-2.5",
        processor="Kosmos2_5Processor",
        images=("kosmos2_5.image_processing_pil_kosmos2_5", "Kosmos2_5ImageProcessorPil", {}),
        placeholder="",
        tokens={"image_token": "<s>", "boi_token": "<image>", "eoi_token": "</image>"},
        parts={"num_image_tokens": _QUERIES},
        call={"max_patches": 16},
        latent_query_num=_QUERIES,
        initializer_range=1.0,
        text_config={
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 64,
            "attention_heads": 2,
            "init_std": 0.1,
        },
        vision_config={
            "patch_embed_hidden_size": 768,
            "max_num_patches": 64,
            "initializer_factor": 10.0,
        },
    ),
    "florence2": _one_image(
        "florence2",
        processor="Florence2Processor",
        images=_CLIP,
        image_attributes={"image_seq_length": 50},  # 7 x 7 squares and their mean
        placeholder="",
        tokens={"image_token": "<image>"},
        decoder=True,
        ids={"image_token_id": "<image>"},
        text_config={"decoder_layers": 2, "decoder_attention_heads": 2, "init_std": 0.3},
        vision_config={
            "embed_dim": [32, 32],
            "depths": [1, 1],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "window_size": 7,
        },
    ),
    "got_ocr2": _one_image(
        "got_ocr2",
        processor="GotOcr2Processor",
        images=("got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil", _PAGE),
        placeholder="<img><imgpad></img>",
        unnamed=["<img>", "</img>", "<imgpad>", "<|im_start|>", "<|im_end|>"],
        ids={"image_token_index": "<imgpad>"},
        attributes={"num_image_tokens": _TOKENS_PER_PAGE},
        image_seq_length=_TOKENS_PER_PAGE,
        vision_config=_SAM,
    ),
    "pp_chart2table": _one_image(
        "pp_chart2table",
        processor="PPChart2TableProcessor",
        images=(
            "pp_chart2table.image_processing_pil_pp_chart2table",
            "PPChart2TableImageProcessorPil",
            _PAGE,
        ),
        # The processor does not repeat the token; users write it as often as it is needed.
        placeholder=f"<img>{'<imgpad>' * _TOKENS_PER_PAGE}</img>",
        unnamed=["<img>", "</img>", "<imgpad>"],
        ids={"image_token_index": "<imgpad>"},
        image_seq_length=_TOKENS_PER_PAGE,
        vision_config=_SAM,
    ),
    "instructblipvideo": _one_image(
        "instructblipvideo",
        processor="InstructBlipVideoProcessor",
        images=None,
        placeholder="",
        frames=4,  # its processor writes the tokens of 4 frames
        parts={
            "video_processor": (
                "instructblipvideo.video_processing_instructblipvideo",
                "InstructBlipVideoVideoProcessor",
                {"size": _SQUARE},
            ),
            "num_query_tokens": _QUERIES,
            "qformer_tokenizer": train_tokenizer,
        },
        ids={"video_token_index": "<video>"},
        num_query_tokens=_QUERIES,
        text_config=_OPT,
        qformer_config={"encoder_hidden_size": 32},
    ),
    "fuyu": _one_image(
        "fuyu",
        processor="FuyuProcessor",
        images=(
            "fuyu.image_processing_fuyu",
            "FuyuImageProcessor",
            {
                "size": {"height": 112, "width": 112},
                "patch_size": {"height": 28, "width": 28},
            },
        ),
        placeholder="",
        tokenizer=_fuyu_tokenizer,
        call={"return_legacy_image_output": False},
        ids={"image_token_id": "|SPEAKER|"},
        patch_size=28,
        text_config={"partial_rotary_factor": 0.5},
    ),
}
