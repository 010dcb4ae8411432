"""What exercises are about, and the layouts that each is drawn from: those of notebook 01."""

from __future__ import annotations

TOPICS = {
    "images": ("gemma4", "llava", "mistral3"),
    "patches": ("qwen2_5_vl",),
    "tiles": ("internvl",),
    "padded": ("idefics3", "idefics2"),
    "text-only": ("gemma4", "qwen2_5_vl", "internvl", "idefics3", "mllama"),
}
