"""The report of a run: its facts, that it loads nothing, and that it can show any image."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from pages import CLASSES, Page, decoded, history, image_of, render, report_of
from PIL import Image

from fullconv.card import Card
from fullconv.data import open_dataset
from fullconv.errors import InputError, OutputError
from fullconv.evaluation import Report
from fullconv.report import choose_images, run_page, summarize_data
from fullconv.report.html import count, percent, setting
from fullconv.report.run_page import MAX_CELLS


def test_the_page_shows_all_facts_of_a_run(path):
    reports = {"val": report_of([image_of(n) for n in range(6)])}
    data = {
        "name": "streets",
        "splits": {"train": 1200, "val": 6},
        "classes": [{"name": "disc", "pixels": 25, "images": 7}, {"name": "ground", "pixels": 65, "images": 9}],
        "void": 10,
    }
    text = render(
        path, history=history(10), reports=reports, recipe={"lr": 0.002, "head": {"fc": True}, "clip": None},
        data=data, notes=["Class 'disc' is rare."], machine={"processor": "two cores"},
    )  # fmt: skip
    page = Page(text)
    for text in (
        "fcn8s on tiny", "streets · 3 classes · trained on 1 200 images · 10 epochs in 5 min",
        "mIoU on val, 6 images", f"{100 * reports['val'].mean_iou:.1f} %",
        reports["val"].no_interval, f"mIoU of a constant {100 * reports['val'].baseline['mean_iou']:.1f} %",
        "The model is that of epoch 6, the best on val. The same images chose it",
        "Class 'disc' is rare.", "best 90.0 at epoch 6", "The largest confusions", "The 3 images of lowest mIoU",
        "lr 0.002", "head.fc yes", "processor two cores", "disc 25.00 25 7", "void 10.00 10", "stride 32",
    ):  # fmt: skip
        assert text in page.text
    assert "clip" not in page.text
    for row in reports["val"].classes:
        assert f"{row['name']} {percent(row['iou'])}" in page.text
    assert [attrs["href"][1:] for attrs in page.all("a")] == [attrs["id"] for attrs in page.all("section")]


def test_the_page_loads_nothing_and_runs_nothing(path):
    text = render(path, history=history(4), notes=["<img src=http://example.org/x.png onerror=alert(1)>"])
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert {attrs["src"][:11] for attrs in page.all("img")} == {"data:image/"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = (attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_image_has_alt_text_and_every_table_has_headers(path):
    page = Page(render(path, history=history(4)))
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(attrs["aria-label"] for attrs in page.all("svg"))
    assert {attrs.get("scope") for attrs in page.all("th")} == {"row", "col"}
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_scores_on_test_are_the_headline_where_present(path):
    few, many = (report_of([image_of(n) for n in range(k)]) for k in (4, 9))
    page = Page(render(path, history=history(8), reports={"val": many, "test": few}))
    assert "mIoU on test, 4 images" in page.text
    assert "No test image had a part in that choice: quote the score on test; val is optimistic." in page.text
    assert f"val 9 {percent(many.mean_iou)}" in page.text
    assert f"test 4 {percent(few.mean_iou)}" in page.text


def test_the_page_states_when_only_a_part_of_val_was_scored(path):
    page = Page(render(path, history=history(3, mean_iou=0.5, images=2)))
    assert "During training, 2 of 3 val images were scored." in page.text
    assert "During training" not in Page(render(path, history=history(3, mean_iou=0.5, images=3))).text


def test_a_chart_of_several_lines_has_a_legend(path):
    text = render(path, history=history(8))
    assert re.findall("<figcaption><b>(.*?)</b>", text) == ["Validation, %", "Training loss", "Learning rate"]
    assert re.findall('class="key tone-.">(.*?)<', text) == ["mIoU", "pixel accuracy"]


def test_a_run_without_validation_or_history_is_reported(path):
    page = Page(render(path, history=[{**line, "val": None} for line in history(3)]))
    assert "No epoch was chosen by a score; the model is that of the last one." in page.text
    assert "Validation" not in page.text
    assert "Training loss" in page.text
    assert "Training" not in Page(render(path)).text


def test_non_finite_losses_are_not_drawn(path):
    lines = history(6)
    lines[2]["train_loss"], lines[3]["train_loss"] = float("nan"), None
    charts = re.findall("(?s)<svg.*?</svg>", render(path, history=lines))
    assert len(charts) == 3
    assert not [chart for chart in charts if "nan" in chart]
    assert charts[1].count("<title>") == 4


def test_one_image_one_epoch_and_no_errors_are_enough(path):
    perfect = image_of(error_rate=0)
    page = Page(render(path, history=history(1, mean_iou=1.0), images=[perfect], reports={"val": report_of([perfect])}))
    assert "a 95 % interval needs 20 images or more, these are 1" in page.text
    assert "no errors" in page.text
    assert "1 epoch in 30 s" in page.text
    assert "The largest confusions" not in page.text


def test_a_split_of_void_masks_is_reported(path):
    void = image_of()
    void.mask[:] = 255
    page = Page(render(path, images=[void], reports={"val": report_of([void])}))
    assert "all void" in page.text
    assert "Confusion" not in page.text
    assert "mIoU on val, 1 image — %" in page.text


def test_failed_images_and_notes_of_the_evaluation_are_shown(path):
    failed = [{"input": f"a/{n}.png", "reason": "x"} for n in range(7)]
    report = report_of([image_of()], failed=failed, notes=["split 'val' is that of the model's training"])
    text = Page(render(path, reports={"val": report})).text
    assert "7 images of val (0.png, 1.png, 2.png, 3.png, 4.png and 2 more)" in text
    assert "split 'val' is that of the model's training" in text


def test_names_are_escaped_everywhere(path):
    data = {"name": "<i>", "classes": [{"name": CLASSES[2], "pixels": 5, "images": 1}]}
    text = render(path, data=data, recipe={"<u>": "<s>"})
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") > 5
    assert "<u>" not in text
    assert "&lt;s&gt;" in text


def test_a_report_needs_scores_and_a_writable_path(path, tmp_path):
    with pytest.raises(InputError, match=r"needs the scores of at least one split"):
        render(path, reports={})
    assert not path.exists()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match=r"folder\.html: cannot be written"):
        render(tmp_path / "folder.html")


def test_the_confusion_table_shows_row_percentages_with_counts_in_tooltips(path):
    matrix = np.array([[90, 10, 0], [0, 0, 0], [1, 0, 999]])
    page = Page(render(path, reports={"val": Report(CLASSES, matrix, {})}))
    titles = [attrs["title"] for attrs in page.all("td") if "title" in attrs]
    assert len(titles) == 9
    assert titles[1] == "ground predicted as disc: 10 pixels, 10.0 % of ground"
    assert "90 10" in page.text
    assert "· 100" in page.text


def test_many_classes_give_a_confusion_image_and_a_legend_per_image(path):
    names = tuple(f"class{k}" for k in range(MAX_CELLS + 1))
    card = Card(variant="fcn8s", classes=names)
    text = render(path, card=card, reports={"val": report_of([image_of()], classes=names)}, images=[image_of()])
    page = Page(text)
    (matrix,) = (attrs for attrs in page.all("img") if "Confusion matrix of 33 classes" in attrs["alt"])
    assert min(decoded(matrix["src"]).size) >= 660
    legends = re.findall(r'<ul class="legend".*?</ul>', text)
    assert len(legends) == 1
    assert "class2" in legends[0]
    assert "class9" not in legends[0]


def test_the_largest_confusions_come_first(path):
    matrix = np.array([[50, 3, 0], [0, 10, 7], [30, 0, 5]])
    text = Page(render(path, reports={"val": Report(CLASSES, matrix, {})})).text.partition("The largest confusions")[2]
    assert text.index(f"{CLASSES[2]} ground 85.7 75.0 30") < text.index("disc <script>") < text.index("ground disc 5.7")


def test_the_page_omits_images_beyond_its_size_limit(path, monkeypatch):
    monkeypatch.setattr(run_page, "MAX_IMAGE_BYTES", 300_000)
    text = render(path, images=(image_of(n, size=(200, 300)) for n in range(12)))
    assert len(text) < 300_000 + 30_000
    assert re.search(r"[1-9]\d? more images? would have made this file too large", Page(text).text)


def test_images_are_consumed_one_at_a_time_and_sorted_by_score(path):
    images = (image_of(n) for n in (50, 3, 7))
    assert re.findall(r"<h4>(.*?)</h4>", render(path, images=images)) == ["street/3", "street/7", "street/50"]


def test_the_twelve_images_of_lowest_score_precede_the_typical_ones(path):
    text = render(path, images=(image_of(n, size=(8, 12)) for n in range(15)))
    assert text.index("The 12 images of lowest mIoU") < text.index("street/11<") < text.index("Typical images")
    assert text.index("Typical images") < text.index("street/12<")


@pytest.mark.parametrize("number", [0, 1, 2, 5, 12, 16, 40])
def test_the_worst_images_and_some_evenly_spread_others_are_chosen(number):
    report = report_of([image_of(n, size=(8, 12), error_rate=n / 50) for n in range(number)])
    scores = report.scores_by_image()
    chosen = choose_images(report)
    low = min(12, max(1, number - 4)) if number else 0
    assert len(chosen) == len(set(chosen)) == min(number, 16)
    assert chosen[:low] == sorted(scores, key=lambda stem: (scores[stem], stem))[:low]
    if number == 40:
        ranks = [sorted(scores.values()).index(scores[stem]) for stem in chosen[12:]]
        assert ranks == sorted(ranks)
        assert 12 <= ranks[0] < 20
        assert ranks[-1] >= 33


def test_images_that_are_all_void_are_not_chosen():
    void = image_of(1)
    void.mask[:] = 255
    assert choose_images(report_of([image_of(0), void])) == ["street/0"]


def test_numbers_are_formatted():
    assert (percent(0.12345), percent(None), percent(float("nan")), percent(0.5, 2)) == ("12.3", "—", "—", "50.00")
    assert (count(999), count(1234567, "pixel"), count(1, "image")) == ("999", "1\u202f234\u202f567 pixels", "1 image")
    values = {"—": None, "yes": True, "0.3": 0.30000000000000004, "288, 384": [288, 384], "x": "x"}
    assert [setting(value) for value in values.values()] == list(values)
    assert setting(()) == "—"


def test_a_data_set_is_summarized(tmp_path):
    for split, sizes in (("train", [(8, 12), (10, 20)]), ("val", [(6, 6)])):
        for n, size in enumerate(sizes):
            for folder, array in (("images", np.zeros((*size, 3), np.uint8)), ("masks", np.zeros(size, np.uint8))):
                (tmp_path / "set" / split / folder).mkdir(parents=True, exist_ok=True)
                array[0, 0] = 255 if folder == "masks" else 9
                array[1, :3] = 1
                Image.fromarray(array).save(tmp_path / "set" / split / folder / f"{split}{n}.png")
    (tmp_path / "set" / "data.toml").write_text(f"classes = {json.dumps(['a', 'b', 'c'])}\n", encoding="utf-8")
    summary = summarize_data(open_dataset(tmp_path / "set"))
    assert summary == {
        "name": "set", "format": "pairs", "size": "12 × 8 to 20 × 10 px", "channels": "3, uint8",
        "splits": {"train": 2, "val": 1}, "counted": "train", "void": 2,
        "classes": [
            {"name": "a", "pixels": 96 + 200 - 2 - 6, "images": 2},
            {"name": "b", "pixels": 6, "images": 2},
            {"name": "c", "pixels": 0, "images": 0},
        ],
    }  # fmt: skip
