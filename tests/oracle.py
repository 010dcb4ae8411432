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
    if family in ("idefics3", "idefics2", "mllama"):
        return None
    if family in ("qwen2_5_vl", "nemotron_h_omni") and key == "pixel_values":
        return [4 * size for size in sizes]
    if family in ("internvl", "lfm2_vl"):
        return list(sizes)
    return [1] * len(sizes)
