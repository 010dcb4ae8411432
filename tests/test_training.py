"""A real GRPO or RLOO step of the installed TRL on a tiny model, watched: right, and sabotaged."""

from __future__ import annotations

import inspect

import pytest

import vlmdebug as vd

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}"
)


@pytest.fixture(params=["GRPO", "RLOO"])
def trainer(request, tmp_path):
    """Two prompts with one and two images, two completions each, one optimizer step."""
    import trl

    config, trainer = (getattr(trl, f"{request.param}{part}") for part in ("Config", "Trainer"))
    model, processor = vd.tiny.build("qwen2_5_vl")
    processor.chat_template = TEMPLATE
    images = vd.tiny.images([1, 2, 1, 2], (160, 160))
    prompts = [[{"role": "user", "content": f"What is {i}?"}] for i in range(4)]
    arguments = config(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        max_steps=1,
        beta=0.0,  # no reference model, which RLOO would load by name
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        shuffle_dataset=False,
    )
    return trainer(
        model=model,
        processing_class=processor,
        reward_funcs=lambda completions, **_: [float(len(str(c))) for c in completions],
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts, "images": images}),
    )


def file_of(trainer):
    """The file that calls the model: `grpo_trainer.py:`."""
    return f"{type(trainer).__module__.rpartition('.')[2]}.py:"


def in_chunks(trainer, monkeypatch, change):
    """Let the log-prob loop cut by single samples, its arguments changed."""
    loop = type(trainer)._get_per_token_logps_and_entropies

    def changed(self, *args, **kwargs):
        given = dict(inspect.signature(loop).bind(self, *args, **kwargs).arguments)
        return loop(**{**given, "batch_size": 1, **change(given)})

    monkeypatch.setattr(type(trainer), "_get_per_token_logps_and_entropies", changed)


@pytest.mark.slow
def test_training_is_watched_by_a_callback(trainer, monkeypatch, tmp_path):
    in_chunks(trainer, monkeypatch, lambda kwargs: {})
    callback = vd.WatchCallback(on_mismatch="raise", log=tmp_path / "trace.jsonl")
    trainer.add_callback(callback)
    trainer.train()
    loop = [call for call in callback.trace.calls if file_of(trainer) in call.site]

    assert len(loop) >= 4
    assert all(call.ok for call in loop if call.unread is None)
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == len(callback.trace.calls)
    assert not trainer.model._forward_pre_hooks


@pytest.mark.slow
def test_training_that_fails_leaves_its_trace_with_the_callback(trainer, monkeypatch):
    in_chunks(trainer, monkeypatch, rotated)
    callback = vd.WatchCallback(on_mismatch="raise")
    trainer.add_callback(callback)
    with pytest.raises(vd.MismatchError):
        trainer.train()
    callback.close()

    assert not callback.trace.ok
    assert not trainer.model._forward_pre_hooks


@pytest.mark.slow
def test_training_step_that_cuts_rightly_is_watched_without_a_finding(trainer, monkeypatch):
    in_chunks(trainer, monkeypatch, lambda kwargs: {})
    with vd.watch(trainer.model, processor=trainer.processing_class, on_mismatch="raise") as trace:
        trainer.train()
    loop = [call for call in trace.calls if call.unread is None and len(call.shapes) > 4]

    assert len(loop) >= 4
    assert all(call.ok for call in loop)
    assert all(file_of(trainer) in call.site for call in loop)


def rotated(kwargs):
    """Every sample is given the number of images of the one before it."""
    counts = kwargs["num_images"]
    assert len(set(counts)) == 2
    return {"num_images": [counts[-1], *counts[:-1]]}


@pytest.mark.slow
def test_training_step_with_sabotaged_counts_is_caught_at_its_line(trainer, monkeypatch):
    in_chunks(trainer, monkeypatch, rotated)
    with (
        pytest.raises(vd.MismatchError, match=rf"trainer/{file_of(trainer)}\d+: VLM00"),
        vd.watch(trainer.model, processor=trainer.processing_class, on_mismatch="raise") as trace,
    ):
        trainer.train()

    assert {m.code for m in trace.calls[-1].report.mismatches} <= {"VLM001", "VLM002"}
