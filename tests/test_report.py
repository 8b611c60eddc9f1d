"""The report: what it says, that it stands alone, and that any picture can be in it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fullconv.card import Card
from fullconv.data import open_dataset
from fullconv.errors import InputError, OutputError
from fullconv.evaluation import Report
from fullconv.metrics import confusion_matrix, count
from fullconv.report import ReportPicture, choose_pictures, summarize_data, write_report
from fullconv.report import gallery as gallery_module
from fullconv.report.charts import MAX_POINTS, TALL, Line, line_chart, nice_ticks
from fullconv.report.html import interval, percent, plain, whole
from fullconv.report.panels import ERROR, SIDES, VOID_STRIPES, article, densest
from fullconv.report.setup import flat
from fullconv.report.tables import MOST_CELLS, confusion_table, confusions_list

CLASSES = ("ground", "disc", '<script>alert("x")</script>')
CARD = Card(variant="fcn8s", backbone="tiny", classes=CLASSES, stride=32, fullconv="0.1.0", weights_sha256="ab" * 32)
EMPTY_TAGS = {"meta", "img", "input"}


class Page(HTMLParser):
    """Checks that tags nest and collects what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.said = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.said.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.said).split())


def picture(number=0, size=(40, 60), classes=3, dtype=np.uint8, bands=3, wrong=0.1, noise=0.1):
    random = np.random.default_rng(number)
    truth = np.kron(random.integers(0, classes, (4, 6)), np.ones((size[0] // 4, size[1] // 6), int)).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < wrong, random.integers(0, classes, truth.shape), truth)
    truth[:2] = 255
    light = truth[..., None] + random.random((*truth.shape, bands)) * noise
    image = (light * (255 if dtype == np.uint8 else 4000) / (classes + noise)).astype(dtype)
    return ReportPicture(f"street/{number}", image, truth, prediction.astype(np.uint8), number / 100)


def report_of(pictures, classes=CLASSES, **settings):
    matrices = {p.stem: confusion_matrix(p.truth, p.prediction, len(classes)) for p in pictures}
    confusion = sum(matrices.values(), np.zeros((len(classes),) * 2, np.int64))
    return Report(classes, confusion, {stem: count(m) for stem, m in matrices.items()}, **settings)


def history(epochs, **scores):
    return [
        {"epoch": e, "step": 50 * e, "train_loss": 1 / e, "lr": 0.01, "seconds": 30.0, "val": scores or val(e)}
        for e in range(1, epochs + 1)
    ]


def val(epoch):
    return None if epoch % 2 else {"mean_iou": 0.9 - abs(epoch - 6) / 20, "pixel_accuracy": 0.95}


def written(path, **settings):
    pictures = settings.pop("pictures", [picture(n) for n in range(3)])
    settings.setdefault("reports", {"val": report_of([picture(n) for n in range(3)])})
    write_report(path, card=settings.pop("card", CARD), pictures=pictures, **settings)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def decoded(uri):
    kind, data = re.fullmatch(r"data:image/(jpeg|png);base64,([A-Za-z0-9+/=]+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


# the whole page


def test_the_page_says_all_that_a_run_is(path):
    reports = {"val": report_of([picture(n) for n in range(6)])}
    data = {
        "name": "streets",
        "splits": {"train": 1200, "val": 6},
        "classes": [{"name": "disc", "pixels": 25, "pictures": 7}, {"name": "ground", "pixels": 65, "pictures": 9}],
        "void": 10,
    }
    text = written(
        path, history=history(10), reports=reports, recipe={"lr": 0.002, "head": {"fc": True}, "clip": None},
        data=data, notes=["Class 'disc' is rare."], machine={"processor": "two cores"},
    )  # fmt: skip
    page = Page(text)
    for words in (
        "fcn8s on tiny", "streets · 3 classes · trained on 1 200 pictures · 10 epochs in 5 min",
        "mean IU on val, 6 pictures", f"{100 * reports['val'].mean_iou:.1f} %",
        f"95 % interval {interval(*reports['val'].mean_iou_interval)}",
        "The model is that of epoch 6, which was best on val. The same pictures chose it",
        "Class 'disc' is rare.", "best 90.0 at epoch 6", "The largest confusions", "The 3 of lowest mean IU",
        "lr 0.002", "head.fc yes", "processor two cores", "disc 25.00 25 7", "void 10.00 10", "stride 32",
    ):  # fmt: skip
        assert words in page.words
    assert "clip" not in page.words
    for row in reports["val"].classes:
        assert f"{row['name']} {percent(row['iou'])}" in page.words
    assert [attrs["href"][1:] for attrs in page.all("a")] == [attrs["id"] for attrs in page.all("section")]


def test_nothing_is_loaded_from_anywhere_and_nothing_can_run(path):
    text = written(path, history=history(4), notes=["<img src=http://example.org/x.png onerror=alert(1)>"])
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


def test_every_picture_has_words_and_every_table_has_headers(path):
    page = Page(written(path, history=history(4)))
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(attrs["aria-label"] for attrs in page.all("svg"))
    assert {attrs.get("scope") for attrs in page.all("th")} == {"row", "col"}
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_test_scores_are_the_headline_where_there_are_any(path):
    few, many = (report_of([picture(n) for n in range(k)]) for k in (4, 9))
    page = Page(written(path, history=history(8), reports={"val": many, "test": few}))
    assert "mean IU on test, 4 pictures" in page.words
    assert "The test pictures had no part in that choice: test is the score to quote, val is optimistic." in page.words
    assert f"val 9 {percent(many.mean_iou)}" in page.words
    assert f"test 4 {percent(few.mean_iou)}" in page.words


def test_scores_of_a_part_of_val_are_told_from_those_of_all(path):
    page = Page(written(path, history=history(3, mean_iou=0.5, images=2)))
    assert "While it trained, 2 of 3 val pictures were scored." in page.words
    assert "While it trained" not in Page(written(path, history=history(3, mean_iou=0.5, images=3))).words


def test_lines_that_share_a_chart_are_named_beside_its_title(path):
    text = written(path, history=history(8))
    assert re.findall("<figcaption><b>(.*?)</b>", text) == ["Validation, %", "Training loss", "Learning rate"]
    assert re.findall('class="key tone-.">(.*?)<', text) == ["mean IU", "pixel accuracy"]


def test_a_run_without_validation_or_history_says_so(path):
    page = Page(written(path, history=[{**line, "val": None} for line in history(3)]))
    assert "No epoch was chosen by a score; the model is that of the last one." in page.words
    assert "Validation" not in page.words
    assert "Training loss" in page.words
    assert "Training" not in Page(written(path)).words


def test_losses_that_are_no_numbers_leave_the_curve_whole(path):
    lines = history(6)
    lines[2]["train_loss"], lines[3]["train_loss"] = float("nan"), None
    charts = re.findall("<svg.*?</svg>", written(path, history=lines))
    assert len(charts) == 3
    assert not [chart for chart in charts if "nan" in chart]
    assert charts[1].count("<title>") == 4


def test_one_picture_one_epoch_and_no_errors_are_enough(path):
    perfect = picture(wrong=0)
    page = Page(
        written(path, history=history(1, mean_iou=1.0), pictures=[perfect], reports={"val": report_of([perfect])})
    )
    assert "no interval from so few pictures" in page.words
    assert "no errors" in page.words
    assert "1 epoch in 30 s" in page.words
    assert "The largest confusions" not in page.words


def test_nothing_but_void_is_a_page_too(path):
    void = picture()
    void.truth[:] = 255
    page = Page(written(path, pictures=[void], reports={"val": report_of([void])}))
    assert "all void" in page.words
    assert "Confusion" not in page.words
    assert "mean IU on val, 1 picture — %" in page.words


def test_pictures_that_failed_and_notes_of_the_evaluation_are_said(path):
    failed = [{"input": f"a/{n}.png", "reason": "x"} for n in range(7)]
    report = report_of([picture()], failed=failed, notes=["split 'val' is that of the model's training"])
    words = Page(written(path, reports={"val": report})).words
    assert "7 of val (0.png, 1.png, 2.png, 3.png, 4.png and 2 more)" in words
    assert "split 'val' is that of the model's training" in words


def test_names_are_escaped_wherever_they_stand(path):
    data = {"name": "<i>", "classes": [{"name": CLASSES[2], "pixels": 5, "pictures": 1}]}
    text = written(path, data=data, recipe={"<u>": "<s>"})
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") > 5
    assert "<u>" not in text
    assert "&lt;s&gt;" in text


def test_a_report_needs_scores_and_a_place(path, tmp_path):
    with pytest.raises(InputError, match=r"needs the scores of at least one split"):
        written(path, reports={})
    assert not path.exists()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match=r"folder\.html: cannot be written"):
        written(tmp_path / "folder.html")


# pictures


@pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 2), (np.float32, 7)])
def test_any_type_and_number_of_bands_becomes_four_panels(dtype, bands):
    page = Page(article(picture(dtype=dtype, bands=bands), CARD.labels()))
    images = [decoded(attrs["src"]) for attrs in page.all("img")]
    assert [image.format for image in images] == ["JPEG", "PNG", "PNG", "JPEG"]
    assert {image.size for image in images} == {(60, 40)}
    assert np.asarray(images[0].convert("L")).std() > 20  # stretched to what can be seen


def test_panels_hold_the_palette_void_stripes_and_errors():
    shown = picture()
    images = [decoded(attrs["src"]) for attrs in Page(article(shown, CARD.labels())).all("img")]
    truth, errors = np.asarray(images[1].convert("RGB")), np.asarray(images[3]).astype(int)
    valid = shown.truth != 255
    np.testing.assert_array_equal(truth[valid], np.array(CARD.palette)[shown.truth[valid]])
    assert {tuple(color) for color in truth[~valid]} == set(VOID_STRIPES)
    np.testing.assert_array_equal(np.asarray(images[2]), shown.prediction)
    red = abs(errors - np.array(ERROR)).sum(axis=2) < 120
    wrong = valid & (shown.truth != shown.prediction)
    assert (red == wrong).mean() > 0.98


def test_thin_errors_stay_visible_in_thumbnails():
    large = picture(size=(1200, 1800), wrong=0)
    large.prediction[:, 900] = (large.truth[:, 900] + 1) % 3  # a pixel that nearest-neighbour steps over
    errors = decoded(Page(article(large, CARD.labels())).all("img")[3]["src"])
    assert max(errors.size) == SIDES[0]
    column = np.asarray(errors)[50, 390:410].astype(int)
    assert (column[:, 0] - column[:, 1]).max() > 60


def test_a_large_picture_has_a_cut_out_in_its_own_pixels_at_its_worst_error():
    large = picture(size=(600, 900), wrong=0)
    large.prediction[400:440, 700:760] = (large.truth[400:440, 700:760] + 1) % 3
    text = article(large, CARD.labels())
    images = [decoded(attrs["src"]) for attrs in Page(text).all("img")]
    assert [image.size for image in images] == [(800, 533)] * 4 + [(256, 256)] * 4
    top, left, bottom, right = densest(large.truth != large.prediction)
    assert top <= 400 < 440 <= bottom
    assert left <= 700 < 760 <= right
    np.testing.assert_array_equal(np.asarray(images[6]), large.prediction[top:bottom, left:right])
    assert text.count('class="box"') == 4


@given(
    height=st.integers(257, 700), width=st.integers(64, 700), y=st.floats(0, 1), x=st.floats(0, 1)
)  # fmt: skip
def test_the_cut_out_lies_in_the_picture_and_holds_a_lone_error(height, width, y, x):
    wrong = np.zeros((height, width), bool)
    row, column = int(y * (height - 1)), int(x * (width - 1))
    wrong[row, column] = True
    top, left, bottom, right = densest(wrong)
    assert 0 <= top <= row < bottom <= height
    assert 0 <= left <= column < right <= width
    assert bottom - top == right - left


def test_small_or_faultless_pictures_have_no_cut_out():
    assert densest(np.ones((256, 256), bool)) is None
    assert densest(np.zeros((900, 900), bool)) is None
    assert densest(np.ones((20, 3000), bool)) is None


def test_noise_is_shrunk_until_a_picture_takes_no_more_than_its_share():
    noise = picture(size=(1000, 1500), wrong=0.5, noise=9)
    text = article(noise, CARD.labels())
    assert len(text) < 1_500_000
    assert max(decoded(Page(text).all("img")[0]["src"]).size) < SIDES[0]


def test_a_page_of_many_large_pictures_stays_under_its_limit(path, monkeypatch):
    monkeypatch.setattr(gallery_module, "MOST_BYTES", 300_000)
    text = written(path, pictures=(picture(n, size=(200, 300)) for n in range(12)))
    assert len(text) < 300_000 + 30_000
    assert re.search(r"[1-9]\d? more would have made this file too large", Page(text).words)


def test_pictures_are_taken_one_at_a_time_and_sorted_by_score(path):
    pictures = (picture(n) for n in (50, 3, 7))
    assert re.findall(r"<h4>(.*?)</h4>", written(path, pictures=pictures)) == ["street/3", "street/7", "street/50"]


def test_the_twelve_of_lowest_score_come_before_the_typical_ones(path):
    text = written(path, pictures=(picture(n, size=(8, 12)) for n in range(15)))
    assert text.index("The 12 of lowest mean IU") < text.index("street/11<") < text.index("Typical ones")
    assert text.index("Typical ones") < text.index("street/12<")


def test_a_picture_that_does_not_fit_its_truth_is_named():
    shown = picture()
    wrong = ReportPicture("a", shown.image[:-1], shown.truth, shown.prediction, 0.5)
    with pytest.raises(
        InputError, match=r"'a': picture, truth and prediction differ in size: \[\(39, 60\), \(40, 60\)\]"
    ):
        article(wrong, CARD.labels())


@pytest.mark.parametrize("number", [0, 1, 2, 5, 12, 16, 40])
def test_the_worst_and_some_spread_over_the_others_are_chosen(number):
    report = report_of([picture(n, size=(8, 12), wrong=n / 50) for n in range(number)])
    scores = report.scores_by_image()
    chosen = choose_pictures(report)
    low = min(12, max(1, number - 4)) if number else 0
    assert len(chosen) == len(set(chosen)) == min(number, 16)
    assert chosen[:low] == sorted(scores, key=lambda stem: (scores[stem], stem))[:low]
    if number == 40:
        ranks = [sorted(scores.values()).index(scores[stem]) for stem in chosen[12:]]
        assert ranks == sorted(ranks)
        assert 12 <= ranks[0] < 20
        assert ranks[-1] >= 33


def test_pictures_that_are_all_void_are_not_chosen():
    void = picture(1)
    void.truth[:] = 255
    assert choose_pictures(report_of([picture(0), void])) == ["street/0"]


# tables and charts


def test_the_confusion_table_is_in_percent_of_the_truth_with_counts_in_its_tooltips():
    matrix = np.array([[90, 10, 0], [0, 0, 0], [1, 0, 999]])
    page = Page(confusion_table(matrix, CARD.labels()))
    titles = [attrs["title"] for attrs in page.all("td") if "title" in attrs]
    assert len(titles) == 9
    assert titles[1] == "ground predicted as disc: 10 pixels, 10.0 % of ground"
    assert "90 10" in page.words
    assert "· 100" in page.words


def test_many_classes_make_a_picture_and_a_legend_for_each_picture(path):
    names = tuple(f"class{k}" for k in range(MOST_CELLS + 1))
    card = Card(variant="fcn8s", classes=names)
    text = written(path, card=card, reports={"val": report_of([picture()], classes=names)}, pictures=[picture()])
    page = Page(text)
    (matrix,) = (attrs for attrs in page.all("img") if "Confusion matrix of 33 classes" in attrs["alt"])
    assert min(decoded(matrix["src"]).size) >= 660
    legends = re.findall(r'<ul class="legend".*?</ul>', text)
    assert len(legends) == 1
    assert "class2" in legends[0]
    assert "class9" not in legends[0]


def test_the_largest_confusions_come_first():
    matrix = np.array([[50, 3, 0], [0, 10, 7], [30, 0, 5]])
    words = Page(confusions_list(matrix, CARD.labels())).words
    assert (
        words.index(f"{CLASSES[2]} ground 85.7 75.0 30") < words.index("disc <script>") < words.index("ground disc 5.7")
    )


@given(
    low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6), about=st.integers(2, 8)
)  # fmt: skip
def test_ticks_are_round_few_and_span_the_range(low, span, about):
    if abs(low) > 1e6 * span:
        span = abs(low)
    ticks = nice_ticks(low, low + span, about)
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 2 <= len(ticks) <= about + 3
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


@given(st.integers(-300, 300), st.floats(1, 9.9))
def test_ticks_span_numbers_of_any_size(power, number):
    high = number * 10.0**power  # the rate of FCN-8s is 1e-14
    ticks = nice_ticks(0.0, high)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert ticks[-1] >= high * (1 - 1e-6)


def test_a_chart_holds_every_value_in_its_tooltips_and_stays_in_its_frame():
    points = [(float(e), 0.5 + 0.4 * np.sin(e)) for e in range(1, 31)]
    chart = line_chart("Scores", [Line("mean IU", points)], percent, height=TALL, floor=0, mark="best")
    assert len(re.findall("<title>epoch", chart)) == 30
    assert "<title>epoch 8: mean IU 89.6</title>" in chart
    (line,) = re.findall(r'class="line tone-a" d="M([^"]+)"', chart)
    places = np.array([[float(v) for v in pair.split()] for pair in line.split("L")])
    assert (places >= 0).all()
    assert (places <= [520, TALL]).all()
    assert places[13, 1] == places[:, 1].min()  # up is more
    assert len(places) == 30


def test_long_runs_are_thinned_and_keep_their_ends():
    points = [(float(e), float(e)) for e in range(1, 5001)]
    chart = line_chart("Loss", [Line("loss", points)], str)
    assert len(re.findall("<title>", chart)) == MAX_POINTS
    assert "epoch 1: " in chart
    assert "epoch 5000: " in chart


@pytest.mark.parametrize("points", [[(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)], [(3.0, 0.0)], [(1.0, -2.0), (2.0, -2.0)]])
def test_a_point_or_a_flat_line_is_a_chart_too(points):
    chart = line_chart("Loss", [Line("loss", points)], str, mark="here")
    Page(chart)
    assert "nan" not in chart
    assert "inf" not in chart.replace("info", "")


# facts


def test_numbers_are_written_for_people():
    assert (percent(0.12345), percent(None), percent(float("nan")), percent(0.5, 2)) == ("12.3", "—", "—", "50.00")
    assert (whole(999), whole(1234567)) == ("999", "1\u202f234\u202f567")
    assert [plain(v) for v in (None, True, 0.30000000000000004, [288, 384], (), "x")] == [
        "—",
        "yes",
        "0.3",
        "288, 384",
        "—",
        "x",
    ]
    assert flat({"a": {"b": {"c": 1}}, "d": None}) == {"a.b.c": 1}


def test_a_data_set_is_summarized(tmp_path):
    for split, sizes in (("train", [(8, 12), (10, 20)]), ("val", [(6, 6)])):
        for n, size in enumerate(sizes):
            for kind, array in (("images", np.zeros((*size, 3), np.uint8)), ("masks", np.zeros(size, np.uint8))):
                (tmp_path / "set" / split / kind).mkdir(parents=True, exist_ok=True)
                array[0, 0] = 255 if kind == "masks" else 9
                array[1, :3] = 1
                Image.fromarray(array).save(tmp_path / "set" / split / kind / f"{split}{n}.png")
    (tmp_path / "set" / "data.toml").write_text(f"classes = {json.dumps(['a', 'b', 'c'])}\n", encoding="utf-8")
    summary = summarize_data(open_dataset(tmp_path / "set"))
    assert summary == {
        "name": "set", "format": "pairs", "size": "12 × 8 to 20 × 10 px", "channels": "3, uint8",
        "splits": {"train": 2, "val": 1}, "counted": "train", "void": 2,
        "classes": [
            {"name": "a", "pixels": 96 + 200 - 2 - 6, "pictures": 2},
            {"name": "b", "pixels": 6, "pictures": 2},
            {"name": "c", "pixels": 0, "pictures": 0},
        ],
    }  # fmt: skip
