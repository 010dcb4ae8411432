"""Recipes by table: small values of the sizes that most transformers configs name alike.

A model's config is made from its own class. Each of its fields, and of the configs inside it, that
is a size known here gets a small value. The recipe adds only what differs from similar models.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# Two layers of width 32 that see 56 x 56 pixels; the names are those of upstream's configs.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "embed_dim", "d_model", "out_hidden_size"], 32),
    **dict.fromkeys(["projection_dim", "projector_hidden_size", "projection_hidden_size"], 32),
    **dict.fromkeys(["intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"], 64),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "depth", "encoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "num_heads", "encoder_attention_heads"], 2),
    **dict.fromkeys(["head_dim", "global_head_dim", "linear_key_head_dim"], 16),
    **dict.fromkeys(["linear_value_head_dim", "linear_head_dim", "index_head_dim"], 16),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"], 2),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim"], 16),
    **dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"], 1),
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "qk_rope_head_dim": 8,
    "num_position_embeddings": 64,
    "sliding_window": 64,
    "image_size": 56,
    "patch_size": 14,
    "mlp_ratio": 2.0,
    # As in `models.text_config`: wider than upstream's, so that a wrong image shows.
    "initializer_range": 0.1,
}
_TEXT_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def recipe_from_config(
    model_type: str,
    *,
    processor: str,
    images: tuple[str, str, Mapping[str, Any]] | None,
    image_attributes: Mapping[str, Any] | None = None,
    placeholder: str,
    tokens: Mapping[str, str] | None = None,
    unnamed: Sequence[str] = (),
    ids: Mapping[str, str] | None = None,
    model: str | None = None,
    call: Mapping[str, Any] | None = None,
    text: Callable[[str], str] | None = None,
    parts: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    cast: bool = False,
    one_image: bool = False,
    decoder: bool = False,
    frames: int = 0,
    tokenizer: Callable[[], Any] | None = None,
    **special: Any,
) -> Recipe:
    """The recipe of a model that is built like similar ones.

    Args:
        model_type: As in its config; class and sub-configs are found by it.
        processor: Name of its processor class in transformers.
        images: Module below `transformers.models`, class and options of its image processor; None
            if it has none.
        image_attributes: Attributes set on the image processor if its class has no such option.
        placeholder: As in `Recipe`.
        tokens: Special tokens that the tokenizer names, by attribute.
        unnamed: Special tokens identified by their text only.
        ids: Fields of the config that hold a token's id, if the processor does not give it;
            `vision_config.image_token_id` for one inside it.
        model: Name of the model class, if it is not the name in transformers' mapping.
        call: As in `Recipe`.
        text: As in `Recipe`.
        cast: As in `Recipe`.
        one_image: As in `Recipe`.
        decoder: As in `Recipe`.
        frames: As in `Recipe`.
        tokenizer: Makes the tokenizer, if `tokens` and `unnamed` do not say enough.
        parts: Further arguments of the processor; a part of it as `images` names one.
        attributes: Attributes set on the processor if its constructor has no such argument.
        **special: Fields of the config; a mapping for each config inside it. A function computes
            the value from the processor.
    """

    def make_processor() -> Any:
        import transformers

        made_parts = {name: _made(part) for name, part in (parts or {}).items()}
        if images is not None:
            made_parts["image_processor"] = _made(images)
        for attribute, value in (image_attributes or {}).items():
            setattr(made_parts["image_processor"], attribute, value)
        made_parts["tokenizer"] = (
            train_tokenizer(tokens or {}, unnamed=unnamed) if tokenizer is None else tokenizer()
        )
        made = image_only(getattr(transformers, processor), **made_parts)
        for attribute, value in (attributes or {}).items():
            setattr(made, attribute, value)
        return made

    def make_model(made: Any) -> Any:
        import torch
        import transformers
        from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

        config_class = CONFIG_MAPPING[model_type]
        given = {name: one(made) if callable(one) else one for name, one in special.items()}
        chosen: dict[str, Any] = {**_token_ids(config_class, made), **given}
        for field, token in (ids or {}).items():
            part, _, name = field.rpartition(".")
            inside = {**chosen.get(part, {})} if part else chosen
            inside[name] = made.tokenizer.convert_tokens_to_ids(token)
            if part:
                chosen[part] = inside
        config = small(config_class, made.tokenizer, **chosen)
        if model is not None:
            return getattr(transformers, model)(config)
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)

    return Recipe(
        placeholder, make_processor, make_model, call or {}, text, cast, one_image, decoder, frames
    )


def _made(part: Any) -> Any:
    """The part itself, or an object made from `(module, class, options)` or a tokenizer."""
    if part is train_tokenizer:
        return train_tokenizer({})
    if not isinstance(part, tuple):
        return part
    module, name, options = part
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)(**options)


def small(
    config_class: type[PreTrainedConfig], tokenizer: PreTrainedTokenizerBase, **special: Any
) -> PreTrainedConfig:
    """Make a `config_class` with small sizes; `special` overrides them, also in inner configs."""
    names = _fields(config_class)
    chosen = {name: size for name, size in _SIZES.items() if name in names}
    chosen |= dict.fromkeys(names & {"vocab_size", "unpadded_vocab_size"}, len(tokenizer))
    chosen |= {name: getattr(tokenizer, name) for name in _TEXT_IDS if name in names}
    inside: Any = config_class.sub_configs or {}
    for name, inner in inside.items():
        own = special.pop(name, {})
        chosen[name] = (
            None if own is None else _small_inside(config_class, name, inner, tokenizer, dict(own))
        )
    return config_class(**{**chosen, **special})


def _small_inside(outer: Any, name: str, inner: Any, tokenizer: Any, own: dict[str, Any]) -> Any:
    """The inner config: of its class or, if any class is allowed, the named or default one."""
    from transformers import CONFIG_MAPPING

    model_type = own.pop("model_type", None)
    if inner.__name__ == "AutoConfig":
        inner = CONFIG_MAPPING[model_type] if model_type else type(getattr(outer(), name))
    return small(inner, tokenizer, **own)


def _fields(config_class: type) -> set[str]:
    names: set[str] = set()
    for cls in config_class.__mro__:
        names |= set(vars(cls).get("__annotations__", {}))
        if "__init__" in vars(cls):
            names |= set(inspect.signature(cls.__init__).parameters)
    return names


def _token_ids(config_class: type, processor: Any) -> dict[str, int]:
    """The config's token ids that the processor knows by the same name."""
    found: dict[str, int] = {}
    for field in _fields(config_class) - set(_TEXT_IDS):
        known = getattr(processor, field.replace("_token_index", "_token_id"), None)
        if field.endswith(("_token_id", "_token_index")) and isinstance(known, int):
            found[field] = known
    return found
