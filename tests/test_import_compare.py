"""`fullconv import` and `fullconv compare`, as one calls them."""

import json

import pytest
import torch

import fullconv
from fullconv.cli.import_ import IMPORTABLE
from fullconv.cli.main import main
from fullconv.evaluation import compare
from fullconv.nn.caffe.convert import convertible
from model_files import small_segmenter
from synthetic.shapes import make_shapes, names


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "data"
    make_shapes(folder, layout="camvid", images=12, size=(40, 56))
    return folder


def test_help_lists_the_importable_names():
    assert sorted(IMPORTABLE.split()) == sorted(convertible())


@pytest.mark.slow
def test_torchvision_checkpoint_is_imported(tmp_path, capsys):
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    assert main(["import", str(tmp_path / "a.pth"), "--as", "fcn_resnet50", "-o", str(out)]) == 0
    segmenter = fullconv.load(out)
    assert segmenter.card.classes[15] == "person"
    x = torch.randint(0, 256, (33, 47, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (segmenter.card.mean, segmenter.card.std))
    with torch.no_grad():
        expected = theirs(((x.permute(2, 0, 1) / 255 - mean) / std)[None])["out"][0]
    found = torch.from_numpy(segmenter.logits(x.numpy()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_import_onto_its_own_file_is_rejected(tmp_path, capsys):
    file = tmp_path / "a.pth"
    torch.save({"x": torch.zeros(1)}, file)
    assert main(["import", str(file), "--as", "fcn_resnet50", "-o", str(file)]) == 2
    assert "is the file to import" in capsys.readouterr().err


def test_checkpoint_of_another_network_is_rejected(tmp_path, capsys):
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.pth")
    code = main(["import", str(tmp_path / "a.pth"), "--as", "fcn_resnet50", "-o", str(tmp_path / "m.safetensors")])
    assert code == 2
    assert "a.pth: no torchvision FCN: 'classifier.4.weight' is missing" in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_model_against_itself(data, tmp_path, capsys):
    path = str(tmp_path / "a.safetensors")
    small_segmenter(names(4)).save(path)
    assert main(["compare", path, path, str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["difference"], found["interval"], found["noise"]) == (0.0, [0.0, 0.0], True)
    assert (found["engine"], found["precision"]) == (["torch", "torch"], ["fp32", "fp32"])
    assert main(["compare", path, path, str(data)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mIoU on val: ")
    assert "(torch fp32)" in out


def test_two_models_are_compared_on_the_same_images(data):
    a, b = (small_segmenter(names(4), seed) for seed in (1, 2))
    found = compare(a, b, data, "all")
    reports = [fullconv.evaluate(m, data, split="all") for m in (a, b)]
    assert found.difference == pytest.approx(reports[1].mean_iou - reports[0].mean_iou)
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert ("not significant" in str(found)) != found.significant


def test_training_images_are_excluded(data):
    a, b = (small_segmenter(names(4), seed) for seed in (1, 2))
    stems = [sample.stem for sample in fullconv.open_dataset(data).splits["val"]]
    a.card = a.card.model_copy(update={"data": {"splits": {"train": stems[:1]}}})
    assert compare(a, b, data).a.images == len(stems) - 1
    b.card = b.card.model_copy(update={"data": {"splits": {"train": stems}}})
    with pytest.raises(fullconv.FullconvError, match="was trained on every image of val"):
        compare(a, b, data)
