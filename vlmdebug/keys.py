"""What an argument of a forward method is, by its name, where no layout says what its rows count.

A layout names the keys of media and tokens. Beside them a slicer may pass options, which carry no
rows, and keys that follow from others and that it may make itself. Read in the forward methods of
transformers 5.23 and in the data collators of its Trainer.
"""

from __future__ import annotations

OPTIONS = frozenset(
    [
        "use_cache",
        "logits_to_keep",
        "num_logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "return_loss",
        "num_items_in_batch",
        "max_length_q",
        "max_length_k",
        "fused_lm_head",
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "vision_aspect_ratio",
        "use_audio_in_video",
    ]
)
"""How the model answers; no rows, and nothing to compare."""

TYPE_IDS = frozenset({"token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids"})
"""What each token is; zero for text."""

PROMPT_TYPES = "token_type_ids"
"""Types that say in PaliGemma which tokens are the prompt."""

DERIVED = TYPE_IDS | frozenset(
    [
        "attention_mask",
        "labels",
        "shift_labels",
        "position_ids",
        "cache_position",
        "rope_deltas",
        "inputs_embeds",
        "per_layer_inputs",
        "past_key_values",
        "mm_encoder_outputs",
        "cross_attention_states",
        "decoder_input_ids",
        "decoder_attention_mask",
        "cu_seqlens",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "seq_idx",
    ]
)
"""Functions of other keys: a slicer may make them where the batch has none."""

TRAINERS_OWN = frozenset(
    [
        *("advantages", "rewards", "returns", "values", "loss_scale", "loss_mask"),
        *("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps"),
        *("importance_sampling_ratio", "tool_mask", "response_mask", "old_log_probs"),
        *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"),
    ]
)
"""Keys of trainers with a row per sample, which no model is handed."""

ROWLESS = OPTIONS | {"cache_position", "past_key_values"}
"""Arguments of a call that have no row per sample, whatever their shape."""

EXTRAS = OPTIONS | DERIVED
"""Arguments of forward methods that may come beside a layout's own keys."""
