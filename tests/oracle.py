"""Which rows each sample owns, the slow and obvious way: count on fingers, image by image."""

from __future__ import annotations


def owned_rows(images_per_sample, rows_per_image):
    """A list of row numbers per sample; images lie one after another."""
    owned, row, image = [], 0, 0
    for count in images_per_sample:
        rows = []
        for _ in range(count):
            for _ in range(rows_per_image[image]):
                rows.append(row)
                row += 1
            image += 1
        owned.append(rows)
    return owned


def rows_per_image(family, key, sizes, images_per_sample):
    """Rows that an image of each size has in a synthesized batch; None for one per sample."""
    if key == "batch_num_images":  # the first image of a sample brings the sample's row
        return [int(image == 0) for count in images_per_sample for image in range(count)]
    if family in ("idefics3", "idefics2", "mllama", "idefics", "granite_docling"):
        return None
    if family in ("qwen2_5_vl", "nemotron_h_omni") and key == "pixel_values":
        return [4 * size for size in sizes]
    if family == "inkling_mm_model":
        return [2 * size for size in sizes]
    if family in ("internvl", "lfm2_vl") or key == "pixel_values_local":
        return list(sizes)
    return [1] * len(sizes)


def rows_per_video(family, key, frames):
    """Rows that a video of so many frames has in a synthesized batch."""
    if family == "qwen2_5_vl" and key == "pixel_values_videos":
        return [4 * count for count in frames]
    if family == "gemma4" and key in ("pixel_values_videos", "video_position_ids"):
        return list(frames)
    return [1] * len(frames)


def clips_per_sample(spec, key):
    """Videos or audio clips of each sample, by whose key it is; None where it is images'."""
    if "video" in key or key == "second_per_grid_ts":
        return spec.videos_per_sample
    return spec.audios_per_sample if "feature" in key else None


def owned_by_sample(spec, key):
    """A list of row numbers per sample for a media key; None for one row per sample."""
    if "feature" in key:
        return owned_rows(spec.audios_per_sample, [1] * sum(spec.audios_per_sample))
    if "video" in key or key == "second_per_grid_ts":
        return owned_rows(spec.videos_per_sample, rows_per_video(spec.family, key, spec.frames))
    per_image = rows_per_image(spec.family, key, spec.sizes, spec.images_per_sample)
    return None if per_image is None else owned_rows(spec.images_per_sample, per_image)
