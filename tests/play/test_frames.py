"""Pictures and animations, read back with Pillow."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from worldsim.play import frames


def read(data: bytes) -> list[np.ndarray]:
    return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]


def noise(count: int, side: int = 64) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]


def test_fit_keeps_proportions_and_single_pixels() -> None:
    picture = noise(1, 16)[0][:8]
    fitted = frames.fit(picture, 64, 64)
    assert fitted.shape == (64, 64, 3)
    assert np.array_equal(fitted[16:48:4, ::4], picture)
    assert np.array_equal(frames.fit(noise(1, 64)[0], 16, 16), noise(1, 64)[0][::4, ::4])


def test_bar_is_filled_to_its_share() -> None:
    drawn = frames.bar(100, 0.3, frames.GREEN, mark=0.5)
    assert (drawn[0] == frames.GREEN).all(-1).sum() == 30
    assert (drawn[0, 50:52] == frames.WHITE).all()


def test_text_draws_and_never_widens() -> None:
    drawn = frames.text([("real", frames.WHITE), ("a line much longer than the picture is wide", frames.RED)], 60)
    assert drawn.shape == (34, 60, 3)
    assert (drawn[:17].max(axis=(0, 1)) > 200).all() and (drawn[17:].max(axis=(0, 1)) > 50).sum() >= 1
    assert np.array_equal(drawn[17:], frames.text([("a line much longer, too", frames.RED)], 60))  # "a line m…"


def test_stack_and_same_size_pad_with_the_background() -> None:
    small, large = noise(1, 8)[0], noise(1, 16)[0]
    assert frames.stack([small, large], gap=4).shape == (28, 16, 3)
    padded = frames.same_size([small, large])
    assert [frame.shape for frame in padded] == [(16, 16, 3)] * 2
    assert np.array_equal(padded[0][:8, :8], small)


def test_an_animated_png_keeps_every_pixel_and_a_gif_the_colours_it_can() -> None:
    shown = [np.repeat(np.repeat(frame, 8, 0), 8, 1) for frame in noise(5, 4)]
    assert np.array_equal(np.stack(read(frames.animation(shown, 8, "png"))), np.stack(shown))
    gif = frames.animation(shown, 8, "gif")
    assert np.array_equal(np.stack(read(gif)), np.stack(shown))
    image = Image.open(io.BytesIO(gif))
    assert image.info["loop"] == 0 and image.info["duration"] in (120, 125, 130)


def test_a_data_uri_holds_the_same_bytes() -> None:
    head, data = frames.data_uri(noise(3), 4).split(",")
    assert head == "data:image/gif;base64"
    assert base64.b64decode(data) == frames.animation(noise(3), 4)


def test_what_is_too_large_loses_colours_and_then_frames() -> None:
    film = noise(12)
    full = len(frames.animation(film, 8))
    for limit in (full // 2, full // 6):
        data = frames.animation(film, 8, max_bytes=limit)
        assert len(data) <= limit
    assert 2 <= len(read(data)) < 12
    with pytest.raises(ValueError, match="do not fit"):
        frames.animation(film, 8, max_bytes=100)


def test_a_file_is_written_whole(tmp_path) -> None:
    path = frames.write_animation(tmp_path / "deep" / "film.gif", noise(2), 8)
    assert [entry.name for entry in path.parent.iterdir()] == ["film.gif"]


@pytest.mark.parametrize("form", ["gif", "png"])
def test_a_file_says_whose_it_is_and_looks_the_same(form: frames.Format, tmp_path) -> None:
    path = frames.write_animation(tmp_path / f"film.{form}", noise(3), 8)
    plain = tmp_path / f"plain.{form}"
    plain.write_bytes(frames.animation(noise(3), 8, form))
    assert frames.is_marked(path) and not frames.is_marked(plain) and not frames.is_marked(tmp_path / "none.gif")
    with Image.open(path) as one, Image.open(plain) as other:
        assert one.n_frames == other.n_frames == 3
        for number in range(3):
            one.seek(number), other.seek(number)
            assert np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))
