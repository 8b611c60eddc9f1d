"""The names of results."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullconv.errors import InputError
from fullconv.predict import ImageList, expand, parse_shard
from synthetic.images import write_noise


def names(images: ImageList, *endings: str) -> dict[str, str]:
    images.assign_names(endings or (".png",))
    return {Path(found.path).as_posix(): found.name for found in images}


def test_only_colliding_names_keep_their_ending(tmp_path):
    images = ImageList(tmp_path)
    images.add([("/p/a.jpg", "a.jpg"), ("/p/a.png", "a.png"), ("/p/b.png", "b.png"), ("/p/x/a.png", "x/a.png")])
    assert list(names(images).values()) == ["a.jpg", "a.png", "b", "x/a"]
    images = ImageList(tmp_path)  # a third whose plain name is the one that the first one got
    images.add([("/p/a.jpg", "a.jpg"), ("/p/a.png", "a.png"), ("/p/a.jpg.tif", "a.jpg.tif")])
    assert list(names(images).values()) == ["a.jpg", "a.png", "a.jpg.tif"]


def test_names_that_collide_with_their_ending_keep_the_folders_above(tmp_path):
    listed = ["/p/1/x/im.jpg", "/p/2/x/im.jpg", "/p/3/y/im.jpg", "/p/3/y/im.png"]
    images = ImageList(tmp_path)
    images.add((path, path.rpartition("/")[2]) for path in listed)
    assert list(names(images).values()) == ["1/x/im.jpg", "2/x/im.jpg", "y/im.jpg", "im.png"]


def test_an_overlay_never_has_the_name_of_another_label_map(tmp_path):
    found = [("/p/a.jpg", "a.jpg"), ("/p/a.overlay.jpg", "a.overlay.jpg")]
    images = ImageList(tmp_path)
    images.add(found)
    assert list(names(images, ".png").values()) == ["a", "a.overlay"]
    images = ImageList(tmp_path)
    images.add(found)
    assert list(names(images, ".png", ".overlay.png").values()) == ["a", "a.overlay.jpg"]
    images = ImageList(tmp_path)  # one that has its name from a collision
    images.add([*found[:1], ("/p/1/a.overlay", "a.overlay"), ("/p/2/a.overlay", "a.overlay")])
    named = list(names(images, ".png", ".overlay.png").values())
    assert named == ["a.jpg", "1/a.overlay", "2/a.overlay"]


@settings(max_examples=60, deadline=None)
@example([("", "a.overlay", ""), ("", "a", ""), ("y", "a", "")], list(range(12)))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "x/y", "a.jpg"]),
            st.sampled_from(["a", "a.jpg", "a.overlay", "a.png"]),
            st.sampled_from([".jpg", ".png", ""]),
        ),
        unique=True,
        max_size=12,
    ),
    st.permutations(range(12)),
)
def test_results_have_distinct_names_in_any_order(tmp_path_factory, parts, order):
    endings = [".png", ".overlay.png", ".npz"]
    found = [(f"/p/{folder}/{stem}{ending}", f"{stem}{ending}") for folder, stem, ending in parts]

    def named(pairs: list[tuple[str, str]]) -> dict[str, str]:
        images = ImageList(Path("/elsewhere"))
        images.add(pairs)
        return names(images, *endings)

    given_names = named(found)
    files = [name + ending for name in given_names.values() for ending in endings]
    assert len(files) == len(set(files))
    assert named([found[i] for i in order if i < len(found)]) == given_names


def test_a_file_that_is_given_twice_is_predicted_once(tmp_path):
    first = write_noise(tmp_path / "x/a.png")
    (tmp_path / "link.png").symlink_to(first)
    images = ImageList(tmp_path / "out")
    for text in (str(tmp_path / "x"), str(first), str(tmp_path / "x/../x/a.png"), str(tmp_path / "link.png")):
        assert images.add(expand(text, tmp_path / "out")) == 1
    assert names(images) == {first.as_posix(): "a"}


@pytest.mark.parametrize(
    ("given_path", "endings", "victim"),
    [("p", [".png"], "a.png"), ("p/a.png", [".png"], "a.png"), ("p/b.jpg", [".png", ".overlay.png"], None)],
)
def test_a_result_never_overwrites_an_input(tmp_path, given_path, endings, victim):
    write_noise(tmp_path / "p/a.png")
    write_noise(tmp_path / "p/b.jpg")
    images = ImageList(tmp_path / "p")
    images.add(expand(str(tmp_path / given_path), tmp_path / "p"))
    if victim is None:
        images.assign_names(endings)
        return
    with pytest.raises(InputError, match=r"a\.png: is an input, and the result for .*a\.png would overwrite it"):
        images.assign_names(endings)


def test_a_linked_input_in_the_output_folder_is_not_overwritten(tmp_path):
    write_noise(tmp_path / "out/a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").symlink_to(tmp_path / "out/a.png")
    images = ImageList(tmp_path / "out")
    images.add(expand(str(tmp_path / "in"), tmp_path / "out"))
    with pytest.raises(InputError, match="would overwrite it"):
        images.assign_names([".png"])


def test_shards_split_the_images_by_their_relative_names():
    relatives = [f"x/{i}.png" for i in range(200)]

    def part(i: int, root: str) -> set[str]:
        images = ImageList(Path("/out"), (i, 3))
        images.add((f"{root}/{name}", name) for name in relatives)
        images.assign_names([".png"])
        assert len(images) == len(list(images))
        return {found.name for found in images}

    parts = [part(i, "/here") for i in (1, 2, 3)]
    assert sum(len(p) for p in parts) == len(set.union(*parts)) == 200
    assert min(len(p) for p in parts) > 40
    assert part(2, "/another/machine") == parts[1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "1", "1/", "-1/2", "1/0"])
def test_an_invalid_shard_is_reported(text):
    with pytest.raises(InputError, match=r"--shard .*: write it as i/n with i from 1 to n"):
        parse_shard(text)


def test_a_million_images_take_little_more_than_their_paths():
    def peak(count: int) -> int:
        tracemalloc.start()
        images = ImageList(Path("/out"))
        images.add((f"/data/{i // 100}/p{i % 7}_{i}.jpg", f"p{i % 7}_{i}.jpg") for i in range(count))
        images.assign_names([".png"])
        assert sum(1 for _ in images) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(100)
    assert (peak(22_000) - peak(2_000)) / 20_000 < 170  # bytes an image; its path alone takes 75
