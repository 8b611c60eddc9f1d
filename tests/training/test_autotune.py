"""The schedule of a run: steps, and how often and on how many images it validates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fullconv.training.autotune import plan_schedule

seconds = st.floats(1e-3, 20)


@given(minutes=st.floats(0.2, 600), per_epoch=st.integers(50, 5000), step=seconds, image=seconds,
       images=st.integers(0, 5000))  # fmt: skip
def test_run_by_time_keeps_its_time_and_validates_in_a_fifth_of_it(minutes, per_epoch, step, image, images):
    left = 60 * minutes
    steps, every, count = plan_schedule(
        epochs=None, seconds_left=left, steps_per_epoch=per_epoch, step_seconds=step, image_seconds=image,
        images=images, validate_every=None,
    )  # fmt: skip
    assert steps >= 1
    assert every >= 1
    assert 0 <= count <= images
    validations = steps // (every * per_epoch)
    spent = steps * step + validations * count * image
    assert spent <= left * 1.001 or steps == 1
    if count > 1:
        assert validations * count * image <= 0.2001 * spent
    if steps > 20 and count > 1:
        assert steps * step + (validations + 1) * count * image >= 0.7 * left  # and uses it


@given(epochs=st.integers(1, 500), per_epoch=st.integers(50, 500), step=seconds, image=seconds,
       images=st.integers(0, 3000))  # fmt: skip
def test_run_by_epochs_has_its_epochs(epochs, per_epoch, step, image, images):
    steps, every, count = plan_schedule(
        epochs=epochs, seconds_left=None, steps_per_epoch=per_epoch, step_seconds=step, image_seconds=image,
        images=images, validate_every=None,
    )  # fmt: skip
    assert steps == epochs * per_epoch
    assert 1 <= every <= max(1, epochs // 20)
    if count > 1:
        assert count * image <= 0.25001 * every * per_epoch * step


def test_validate_every_is_respected():
    steps, every, _ = plan_schedule(
        epochs=10, seconds_left=None, steps_per_epoch=50, step_seconds=1.0, image_seconds=9.0, images=9,
        validate_every=3,
    )  # fmt: skip
    assert (steps, every) == (500, 3)
