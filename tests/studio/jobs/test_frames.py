from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lineas_core.studio.jobs.film import draw_training_film
from lineas_core.studio.jobs.frames import Frame, frame_files, load_frames, save_frame


def noise(seed: int, side: int = 64) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))


def picture(step: int, side: int = 64) -> Frame:
    return Frame(step, 1 / step, 0.5, noise(0, side), noise(step, side))


def opened(film: bytes) -> Image.Image:
    assert film.startswith(b"GIF89a")
    return Image.open(io.BytesIO(film))


def test_pictures_come_back_pixel_for_pixel(tmp_path: Path) -> None:
    for step in (20, 3, 100):
        save_frame(tmp_path / "job", picture(step))
    assert [path.stem for path in frame_files(tmp_path / "job")] == [
        "0000003",
        "0000020",
        "0000100",
    ]
    frames = load_frames(tmp_path / "job")
    assert [(f.step, f.loss, f.support) for f in frames] == [
        (3, 1 / 3, 0.5), (20, 1 / 20, 0.5), (100, 1 / 100, 0.5),
    ]  # fmt: skip
    for frame in frames:
        assert np.array_equal(np.asarray(frame.unsteered), np.asarray(noise(0)))
        assert np.array_equal(np.asarray(frame.steered), np.asarray(noise(frame.step)))
    # The unsteered picture is there once, and no partial file is left.
    assert len(list((tmp_path / "job").iterdir())) == 3 + 3 + 1


def test_texts_come_back_letter_for_letter(tmp_path: Path) -> None:
    frame = Frame(1, 2.5, 0.0, "a “quoted”\nline\x00 \U0001f600", "")
    save_frame(tmp_path, frame)
    assert load_frames(tmp_path) == [frame]
    assert load_frames(tmp_path / "none") == []


def test_a_step_made_again_takes_the_place_of_its_frame(tmp_path: Path) -> None:
    save_frame(tmp_path, Frame(4, 1.0, 1.0, "a", "b"))
    save_frame(tmp_path, Frame(4, 1.0, 1.0, "a", "c"))
    assert [f.steered for f in load_frames(tmp_path)] == ["c"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"step": 1}', b"\xff\xfe"])
def test_damaged_frames_are_left_out(tmp_path: Path, damage: bytes) -> None:
    save_frame(tmp_path, picture(1))
    path = save_frame(tmp_path, picture(2))
    save_frame(tmp_path, picture(3))
    path.write_bytes(damage)
    (tmp_path / "0000003.webp").write_bytes(b"junk")
    assert [f.step for f in load_frames(tmp_path)] == [1]


def test_a_film_shows_unsteered_beside_steered_and_loops() -> None:
    red, blue, green = (Image.new("RGB", (64, 64), c) for c in ("red", "blue", "lime"))
    film = opened(
        draw_training_film([Frame(1, 2.0, 1.0, red, blue), Frame(9, 1.0, 1.0, red, green)])
    )
    assert film.info["loop"] == 0
    assert film.n_frames == 2
    for number, colour in ((0, (0, 0, 255)), (1, (0, 255, 0))):
        film.seek(number)
        pixels = np.asarray(film.convert("RGB"), dtype=int)
        middle = pixels.shape[0] // 2
        for column, expected in ((0.25, (255, 0, 0)), (0.75, colour)):
            assert abs(pixels[middle, int(column * pixels.shape[1])] - expected).max() < 8


def test_a_film_of_texts_differs_where_the_texts_do() -> None:
    steered = ["the same", "other words here"]
    film = opened(
        draw_training_film([Frame(i + 1, 1.0, 1.0, "plain", t) for i, t in enumerate(steered)])
    )
    parts = []
    for number in (0, 1):
        film.seek(number)
        parts.append(np.asarray(film.convert("L"), dtype=int)[28:240])
    half = parts[0].shape[1] // 2
    # Every picture of a GIF has a palette of its own.
    assert abs(parts[0] - parts[1])[:, :half].max() < 8
    assert abs(parts[0] - parts[1])[:, half:].max() > 100


def test_long_texts_and_long_words_stay_in_their_column() -> None:
    film = opened(draw_training_film([Frame(1, 1.0, 1.0, "x" * 4000, "many words " * 400)]))
    pixels = np.asarray(film.convert("L"), dtype=int)
    # Neither into the gap between the columns, nor below them.
    assert pixels[30:250, 311:319].min() > 250
    assert pixels[248:254, :].min() > 250


def test_a_long_film_is_thinned_from_first_to_last() -> None:
    frames = [picture(step, 16) for step in range(1, 200)]
    film = opened(draw_training_film(frames))
    assert film.n_frames == 60
    tile = noise(199, 16).resize((224, 224), Image.Resampling.NEAREST)
    film.seek(59)
    last = np.asarray(film.convert("RGB"), dtype=int)[28:252, 244:468]
    assert abs(last - np.asarray(tile, dtype=int)).mean() < 20


def test_a_film_stays_small_even_of_noise() -> None:
    frames = [picture(step, 224) for step in range(1, 61)]
    film = draw_training_film(frames)
    assert len(film) <= 4 * 2**20
    assert 20 < opened(film).n_frames < 60
    assert opened(draw_training_film(frames, max_bytes=1)).n_frames == 1
